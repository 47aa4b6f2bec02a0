"""Show that two commits give the same results: maps, embeddings, weights, figures.

Runs the same commands on real samples with the code of another commit and with the code
of this tree, then compares every file that they left: rasters, weights and arrays byte
by byte, tables and reports by what they say (times, versions and pictures aside).
Afterwards this tree's code takes the other's weights, runs and packs, and must give the
same again. From the project's folder, with the samples of the archives beside it:

    python tools/same_results.py COMMIT --data ../shared/data --work /tmp/same

Takes about five minutes a commit on two cores. Exits with 1 where anything differs.
"""

import argparse
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

PROJECT = Path(__file__).resolve().parent.parent
FEW = "--trainer.workers 0 --trainer.precision fp32 --optimizer.warmup_epochs 0"
BEETLES = "--data.root {data}/barkbeetle_s2"
SCENES = (
    "{data}/sattestdata_s2_l1c_scene",
    "{data}/major-tom/S2L2A/199U/*/*",
    "{data}/terramesh_terramind_examples/S2L2A/609U_541L_3_0.tif",
)
VIRGINIA, MAJOR_TOM, TERRAMESH = SCENES
L2A = "--bands B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12 --sensor sentinel-2-l2a"
# name: command. Each runs in a folder of its own commit, where names are the same.
COMMANDS = {
    "pretrain": "pretrain --config examples/pretrain_real_features.yaml "
    "--data.root {data} --data.samples_per_epoch 96 --trainer.epochs 2 "
    f"{FEW} --output pretrained",
    "pack": "data pack examples/real_samples/hydro_s2.yaml {data} --output pack",
    "pretrain-pack": "pretrain --config pretrain_tiny --data.sources [pack] "
    "--data.image_size 32 --data.samples_per_epoch 64 --trainer.epochs 1 "
    f"{FEW} --output from_pack",
    "check": "data check examples/dense/barkbeetle_segmentation.yaml "
    "{data}/barkbeetle_s2 --output checked || test $? -eq 1",
    "classify": "finetune classification --model pretrained --data.root tiles "
    f"--image_size 32 --trainer.epochs 2 {FEW} --output classifier",
    "probe": "evaluate --model pretrained --method linear-probe --baselines "
    "--data.root tiles --output probed",
    "knn": "evaluate --model pretrained --method knn --data.root tiles --output knn",
    "segment": "finetune segmentation --config finetune_segmentation "
    "--model pretrained --image_size 32 "
    f"--data examples/dense/barkbeetle_segmentation.yaml {BEETLES} "
    "--samples_per_epoch 96 --trainer.epochs 2 --trainer.validate_every_epochs 1 "
    f"{FEW} --output cover",
    "change": "finetune change --config finetune_change --model pretrained "
    "--image_size 32 --data examples/dense/barkbeetle_change.yaml "
    f"{BEETLES} --samples_per_epoch 64 --trainer.epochs 1 "
    f"--trainer.validate_every_epochs 1 {FEW} --output changes",
    "classes": "predict tiles/land --model classifier --output classes",
    "map-1": f"predict {VIRGINIA} --model cover --probabilities --polygons "
    "--output maps/virginia",
    "map-2": f"predict {MAJOR_TOM} --model cover --probabilities --output maps/tom",
    "map-3": f"predict {TERRAMESH} {L2A} --offset 0 --model cover --output maps/mesh",
    "embed-1": f"embed {VIRGINIA} --model pretrained --format geotiff --output raster",
    "embed-2": f"embed {MAJOR_TOM} --model pretrained --format geotiff --cell_px 4 "
    "--bounds 103.74,17.90,103.78,17.93 --output cells",
    "embed-3": f"embed {TERRAMESH} {L2A} --offset 0 --model pretrained --output table",
    "rebuild": f"reconstruct {MAJOR_TOM} --model pretrained --map --output rebuilt "
    "--bounds 103.74,17.90,103.78,17.93",
    "cluster": "cluster raster/*.tif --classes 5 --output clusters",
    "similar": "similar raster/*.tif --point -75.62,37.66 --top 5 --output alike",
    "batch": f"batch predict {VIRGINIA} --model cover --output batch",
    "export": "export pretrained --output encoder.onnx",
    "convert": "convert pretrained --to published --output published",
}
# What this tree does with what the other commit left, and where that goes.
FROM_OLD = {
    "pretrain-pack": "from_pack",
    "map-1": "maps/virginia",
    "map-3": "maps/mesh",
    "classes": "classes",
    "embed-3": "table",
    "knn": "knn",
    "change": "changes",
}
EXACT = {".tif", ".safetensors", ".npy", ".npz", ".parquet", ".gpkg"}
SAID = {".csv", ".json", ".jsonl", ".yaml", ".html", ".md", ".txt", ".geojson"}
# Words around a figure that is another in every run.
TIMES = re.compile(
    r"second|minute|\btime|_s\b|per_s|/s\b|version|started|finished|created|updated"
    r"|host|elapsed|memory|\bmb\b|speed|fingerprint|pid|commit",
    re.IGNORECASE,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the code to compare with")
    parser.add_argument("--data", type=Path, required=True, help="the real samples")
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--only", nargs="*", help="names of commands")
    options = parser.parse_args()
    work = options.work.resolve()
    old = work / "source"
    if not old.exists():
        git = ["git", "-C", str(PROJECT)]
        subprocess.run([*git, "worktree", "prune"], check=True)
        subprocess.run(
            [*git, "worktree", "add", "--detach", str(old), options.commit], check=True
        )
    data = options.data.resolve()
    folders = [work / "old", work / "new", work / "new_from_old"]
    names = options.only or list(COMMANDS)
    for source, folder in ((old, folders[0]), (PROJECT, folders[1])):
        prepare(folder, data)
        for name in names:
            run(source, folder, name, data)
    differing = compare(folders[0], folders[1])
    differing += take_over(folders[0], folders[2], data, set(names))
    sys.exit(1 if differing else 0)


def prepare(folder: Path, data: Path) -> None:
    """Tiles of a real scene in two classes, and the descriptions of the project."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(PROJECT / "examples")
    scene = data / "sattestdata_s2_l1c_scene"
    bands = sorted(scene.glob("s2_B*.tif"))
    with rasterio.open(scene / "s2_B08.tif") as infrared:
        size, profile = 64, infrared.profile
        for row in range(0, infrared.height - size, 4 * size):
            for column in range(0, infrared.width - size, 4 * size):
                window = Window(column, row, size, size)
                bounds = infrared.window_bounds(window)
                name = (
                    "water" if infrared.read(1, window=window).mean() < 900 else "land"
                )
                path = folder / "tiles" / name / f"tile_{row:04d}_{column:04d}.tif"
                if not path.exists():
                    write_tile(path, bands, bounds, size, profile)


def write_tile(
    path: Path,
    bands: list[Path],
    bounds: tuple[float, float, float, float],
    size: int,
    profile: dict[str, Any],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.transform.from_bounds(*bounds, size, size)
    profile = profile | {"width": size, "height": size, "count": len(bands)}
    profile |= {"transform": transform, "driver": "GTiff"}
    with rasterio.open(path, "w", **profile) as tile:
        for number, band in enumerate(bands, start=1):
            with rasterio.open(band) as file:
                window = file.window(*bounds)
                pixels = file.read(1, window=window, out_shape=(size, size))
            tile.write(pixels, number)
            tile.set_band_description(number, band.stem.removeprefix("s2_"))
        tile.update_tags(SENSOR="sentinel-2-l1c")


def run(source: Path, folder: Path, name: str, data: Path) -> None:
    done = folder / f".{name}.done"
    if done.exists():
        return
    line = f"{sys.executable} -m spectralgpt {COMMANDS[name].format(data=data)}"
    began = time.monotonic()
    with (folder / f".{name}.log").open("w") as log:
        result = subprocess.run(
            line,
            shell=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(source / "src")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    print(f"{folder.name}: {name}: {time.monotonic() - began:.0f} s", flush=True)
    if result.returncode:
        tail = (folder / f".{name}.log").read_text()[-2000:]
        sys.exit(f"{name} ended with {result.returncode}:\n{tail}")
    done.touch()


def take_over(old: Path, folder: Path, data: Path, names: set[str]) -> int:
    """Run this tree's code on weights, runs and packs of the other commit."""
    folder.mkdir(exist_ok=True)
    for name in ("pretrained", "cover", "classifier", "pack", "tiles", "examples"):
        if not (folder / name).exists():
            (folder / name).symlink_to((old / name).resolve())
    chosen = [name for name in FROM_OLD if name in names]
    for name in chosen:
        run(PROJECT, folder, name, data)
    return sum(
        compare(old / FROM_OLD[name], folder / FROM_OLD[name]) for name in chosen
    )


def compare(old: Path, new: Path) -> int:
    """Print how each file differs; the number of those that do."""
    files = {path.relative_to(root) for root in (old, new) for path in results(root)}
    differing = 0
    for path in sorted(files):
        missing = [root.name for root in (old, new) if not (root / path).exists()]
        if missing:
            difference = f"missing in {missing[0]}"
        else:
            difference = difference_of(old / path, new / path)
        if difference:
            differing += 1
            print(f"  {path}: {difference}")
    print(f"{len(files) - differing} of {len(files)} files of {new} say the same")
    return differing


def results(root: Path) -> list[Path]:
    skip = ("examples/", "tiles/", "tensorboard")
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and path.suffix in EXACT | SAID
        and not str(path.relative_to(root)).startswith(skip)
    ]


def difference_of(old: Path, new: Path) -> str:
    if old.suffix in EXACT:
        if digest(old) == digest(new):
            return ""
        return raster_difference(old, new) if old.suffix == ".tif" else "other bytes"
    first, second = said(old), said(new)
    for one, other in zip(first, second, strict=False):
        if one != other:
            return f"{one[:160]!r} is now {other[:160]!r}"
    return "" if len(first) == len(second) else f"{len(first)} lines, {len(second)} now"


def raster_difference(old: Path, new: Path) -> str:
    with rasterio.open(old) as first, rasterio.open(new) as second:
        # As text, for NaN is not itself.
        if str(first.profile) != str(second.profile):
            return "another profile"
        equal = np.array_equal(first.read(), second.read(), equal_nan=True)
    return "other bytes, the same pixels" if equal else "other pixels"


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        content = content[8 + int.from_bytes(content[:8], "little") :]
    return hashlib.sha256(content).hexdigest()


def said(path: Path) -> list[str]:
    """The words and figures of a file, without those that each run has anew."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        return leaves(json.loads(text))
    if path.suffix == ".csv":
        rows = [row.split(",") for row in text.splitlines()]
        kept = [n for n, title in enumerate(rows[0]) if not TIMES.search(title)]
        return [",".join(row[n] for n in kept if n < len(row)) for row in rows]
    if path.suffix == ".html":
        text = re.sub(r"(?s)<(style|script|svg).*?</\1>|<title>", " ", text)
        text = html.unescape(re.sub(r"</(p|h\d|tr|div|li|pre)>", "\n", text))
        text = re.sub(r"<[^>]*>", " ", text)
        # Templates break lines elsewhere; figures and words count.
        kept = [line for line in text.splitlines() if not TIMES.search(line)]
        return " ".join(kept).split()
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not TIMES.search(line)]


def leaves(value: object, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [
            text
            for key in sorted(value)
            for text in leaves(value[key], f"{name}.{key}")
        ]
    if isinstance(value, list):
        return [text for item in value for text in leaves(item, name)]
    text = f"{name}: {value}"
    return [] if TIMES.search(text) else [text]


if __name__ == "__main__":
    main()
