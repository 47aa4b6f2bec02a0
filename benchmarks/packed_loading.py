"""Packed loading against reading per-band TIFF patches with rasterio, in one process.

    python benchmarks/packed_loading.py --patches FOLDER --json FILE

FOLDER holds patches of BigEarthNet v1 (a folder a patch, twelve files each); they are
copied under new names until there are `--count`. The ways of reading take turns, so
that whatever else the machine does meets all of them alike; what counts is the ratio
within a turn, in wall clock and in processor time.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling

from spectralgpt.building import build_autoencoder
from spectralgpt.data.crops import CropConfig
from spectralgpt.data.packing import Pack
from spectralgpt.data.packing.writing import pack_images
from spectralgpt.data.pretraining import MixedDataset, PretrainingDataset
from spectralgpt.data.sources import find_items, read_source
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import RasterFile, Window, read_raster
from spectralgpt.training.loading import EpochBatchSampler, KeyedDataset, build_loader

SIDE = 120


def copy_patches(patches: Path, folder: Path, count: int) -> None:
    """Copy patches under new names until there are enough."""
    found = sorted(path for path in patches.glob("S2*_*") if path.is_dir())
    for number in range(count):
        patch = found[number % len(found)]
        name = f"{patch.name.rsplit('_', 2)[0]}_{number // 90}_{number % 90}"
        (folder / name).mkdir()
        for file in patch.glob("*_B*.tif"):
            band = file.stem.rsplit("_", 1)[1]
            shutil.copy(file, folder / name / f"{name}_{band}.tif")


def read_files(item: RasterFile) -> list[np.ndarray]:
    """Read the twelve files of a patch with rasterio, no more."""
    arrays = []
    for file in item.files.values():
        with rasterio.open(file.path) as dataset:
            arrays.append(dataset.read(1))
    return arrays


def read_files_together(item: RasterFile) -> np.ndarray:
    """The same, all bands brought to 10 m as a model needs them."""
    arrays = []
    for file in item.files.values():
        with rasterio.open(file.path) as dataset:
            arrays.append(
                dataset.read(1, out_shape=(SIDE, SIDE), resampling=Resampling.cubic)
            )
    return np.stack(arrays)


def read_packed(item: RasterFile) -> list[np.ndarray]:
    """Read the numbers of a patch from a pack."""
    stores = {file.store: file for file in item.files.values()}
    counts = {store: 0 for store in stores}
    for file in item.files.values():
        counts[file.store] += 1
    return [
        store.read(
            range(1, counts[store] + 1), Window(0, 0, file.grid.height, file.grid.width)
        )
        for store, file in stores.items()
    ]


def time_all(
    ways: dict[str, Callable[[int], object]], num_images: int, rounds: int, each: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of (wall clock, processor) an image, way by way, in turns."""
    rng = np.random.default_rng(0)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            drawn = rng.integers(num_images, size=each).tolist()
            wall, cpu = time.perf_counter(), time.process_time()
            for number in drawn:
                way(number)
            times = time.perf_counter() - wall, time.process_time() - cpu
            if turn:  # the first one warms up
                taken[name].append((times[0] / each, times[1] / each))
    return taken


def measure_wait(dataset: PretrainingDataset, steps: int, workers: int) -> dict:
    """Share of a training step of `small` that is spent waiting for data."""
    mixture = MixedDataset({"packed": dataset})
    batches = EpochBatchSampler(len(mixture), 16 * (steps + 1), 16, 1, seed=0)
    loader = iter(build_loader(KeyedDataset(mixture, True), batches, workers))
    model = build_autoencoder("small", image_size=96, num_bands=12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    waits, whole = [], []
    for step in range(steps + 1):
        start = time.perf_counter()
        batch = next(loader)
        waited = time.perf_counter() - start
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch["images"], 0.9, valid=batch["valid"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            waits.append(waited)
            whole.append(time.perf_counter() - start)
    return {
        "workers": workers,
        "seconds_per_step": statistics.median(whole),
        "wait_seconds": statistics.median(waits),
        "wait_share": sum(waits) / sum(whole),
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--each", type=int, default=60)
    parser.add_argument("--steps", type=int, default=6, help="of training")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    text = json.dumps(result, indent=1)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Do all measurements."""
    (folder / "tiffs").mkdir()
    copy_patches(args.patches, folder / "tiffs", args.count)
    source = read_source("archive:bigearthnet-v1")
    pack_images(source, folder / "tiffs", folder / "pack")
    tiffs = find_items([source], folder / "tiffs")
    packed = Pack(folder / "pack").items()
    contract = sensor_preprocessing("sentinel-2-l2a", image_size=96)
    crops = CropConfig(val_share=0.0)
    from_pack = PretrainingDataset(packed, contract, crops=crops)
    from_tiffs = PretrainingDataset(tiffs, contract, crops=crops)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = time_all(
        {
            "rasterio, numbers": lambda i: read_files(tiffs[i]),
            "rasterio, bands at 10 m": lambda i: read_files_together(tiffs[i]),
            "pack, numbers": lambda i: read_packed(packed[i]),
            "pack, bands at 10 m": lambda i: read_raster(packed[i]),
            "pack, whole sample": lambda i: from_pack[i],
            "files, whole sample": lambda i: from_tiffs[i],
        },
        args.count,
        args.rounds,
        args.each,
    )
    torch.set_num_threads(threads)
    ratios = {}
    for first, second in (
        ("rasterio, numbers", "pack, numbers"),
        ("rasterio, numbers", "pack, whole sample"),
        ("rasterio, bands at 10 m", "pack, bands at 10 m"),
        ("rasterio, bands at 10 m", "pack, whole sample"),
        ("files, whole sample", "pack, whole sample"),
    ):
        pairs = list(zip(taken[first], taken[second], strict=True))
        ratios[f"{first} / {second}"] = {
            "wall": statistics.median(one[0] / two[0] for one, two in pairs),
            "processor": statistics.median(one[1] / two[1] for one, two in pairs),
        }
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "torch_version": torch.__version__,
        "patches": args.count,
        "milliseconds": {
            name: {
                "wall": 1e3 * statistics.median(t[0] for t in times),
                "processor": 1e3 * statistics.median(t[1] for t in times),
            }
            for name, times in taken.items()
        },
        "times_faster": ratios,
        "training_small_batch_16": [
            measure_wait(from_pack, args.steps, workers) for workers in (0, 1)
        ]
        if args.steps
        else [],
    }


if __name__ == "__main__":
    main()
