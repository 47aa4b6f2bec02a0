"""Measure the mapping of a whole scene: peak memory, and time against the model alone.

    python benchmarks/whole_scene.py SCENE [--model MODEL] [--probabilities] [--name X]

SCENE is anything that `spectralgpt predict` takes; `benchmarks/make_scene.py` makes
large ones. Without --model, a seeded `tiny` segmentation model of the scene's sensor is
made. The command is run as a user would, in a process of its own, whose peak resident
memory the system reports. Then the model alone predicts as many windows of random
numbers, in the same batches, in another process. The figures go to
benchmarks/results/whole_scene_NAME.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spectralgpt import __version__
from spectralgpt.building import build_encoder
from spectralgpt.checkpoints import LoadedModel, load_model, save_model
from spectralgpt.models.heads import SegmentationModel
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import describe_raster
from spectralgpt.scenes.loading import in_precision, load_on_device
from spectralgpt.scenes.windows import choose_bands, plan_windows
from spectralgpt.tasks.dense import predict_map

RESULTS = Path(__file__).parent / "results"
CLASSES = ("water", "woods", "fields", "town")
_KIBIBYTE = 1024


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scene", type=Path)
    parser.add_argument("--model", type=Path, help="a fine-tuned model that makes maps")
    parser.add_argument("--sensor", help="of the scene, if its files do not say")
    parser.add_argument("--size_px", type=int, default=96, help="of the made model")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--overlap", type=float, default=0.5, help="of windows")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--probabilities", action="store_true")
    parser.add_argument("--name", help="of the result; without it the scene's size")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone is not None:
        print(json.dumps(run_alone(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or make_model(args, Path(folder) / "model")
        figures = measure(args, model, Path(folder) / "maps")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"whole_scene_{args.name or figures['height_px']}.json"
    text = json.dumps(figures, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


def make_model(args: argparse.Namespace, folder: Path) -> Path:
    """Save a seeded `tiny` segmentation model of the scene's sensor."""
    item = describe_raster(args.scene, sensor=args.sensor)
    contract = sensor_preprocessing(
        item.sensor.name,
        [band.name for band in item.bands],
        image_size=args.size_px,
    )
    torch.manual_seed(0)
    encoder = build_encoder(
        "tiny",
        image_size=args.size_px,
        num_bands=len(contract.bands),
        wavelengths_nm=contract.wavelengths_nm,
    )
    model = SegmentationModel(encoder, len(CLASSES), "linear")
    extra = {"class_names": list(CLASSES), "task": "segmentation"}
    return save_model(folder, model, contract, extra)


def measure(args: argparse.Namespace, model: Path, output: Path) -> dict[str, Any]:
    """Run the command and the model alone, each in a process of its own."""
    stated = ["--sensor", args.sensor] if args.sensor else []
    batch = ["--batch_size", str(args.batch_size)]
    batch += ["--precision", args.precision]
    more = ["--probabilities"] if args.probabilities else []
    more += ["--overlap", str(args.overlap)]
    command = [sys.executable, "-m", "spectralgpt", "predict", str(args.scene)]
    command += ["--model", str(model), "--output", str(output), "--device", "cpu"]
    mapped_s, cpu_s, peak_kib = run_process([*command, *stated, *batch, *more])
    height, width, windows = count_windows(args, model)
    alone = [sys.executable, __file__, str(args.scene), "--model", str(model)]
    out = subprocess.run(
        [*alone, *batch, "--alone", str(windows)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    alone_s = json.loads(out)
    model_s = alone_s["seconds"]
    return {
        "height_px": height,
        "width_px": width,
        "windows": windows,
        "batch_size": args.batch_size,
        "overlap": args.overlap,
        "precision": args.precision,
        "probabilities": args.probabilities,
        "command_s": round(mapped_s, 2),
        "model_alone_s": round(model_s, 2),
        "ratio": round(mapped_s / model_s, 3),
        # What other processes do to a shared machine does not change these much.
        "command_cpu_s": round(cpu_s, 2),
        "model_alone_cpu_s": round(alone_s["cpu_seconds"], 2),
        "cpu_ratio": round(cpu_s / alone_s["cpu_seconds"], 3),
        "peak_rss_mib": round(peak_kib / _KIBIBYTE),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "spectralgpt": __version__,
        "machine": platform.machine(),
    }


def run_process(command: list[str]) -> tuple[float, float, int]:
    """Return seconds, processor seconds and peak resident memory, KiB, of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss


def count_windows(args: argparse.Namespace, model: Path) -> tuple[int, int, int]:
    """Return height, width, and the windows that the command predicted."""
    contract = load_model(str(model)).preprocessing
    if contract is None:
        sys.exit(f"{model} does not say which bands it takes.")
    item = describe_raster(args.scene, sensor=args.sensor)
    bands = choose_bands(contract, item)
    layout = plan_windows(
        item, bands, contract.image_size, args.overlap, contract.patch_size
    )
    return layout.height, layout.width, len(layout.rows) * len(layout.columns)


def run_alone(args: argparse.Namespace) -> dict[str, float]:
    """Predict random windows with the model; nothing is read or written."""
    loaded = load_on_device(str(args.model), "cpu")
    with in_precision(loaded, args.precision):
        return time_alone(loaded, args.alone, args.batch_size)


def time_alone(loaded: LoadedModel, windows: int, batch_size: int) -> dict[str, float]:
    """Return seconds and processor seconds for that many windows."""
    contract: Any = loaded.preprocessing
    predict = partial(predict_map, loaded.model.eval(), False)
    side = contract.image_size
    images = torch.rand(batch_size, len(contract.bands), side, side)
    predict(images)
    start, start_cpu = time.perf_counter(), time.process_time()
    for first in range(0, windows, batch_size):
        predict(images[: min(batch_size, windows - first)])
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
    }


if __name__ == "__main__":
    main()
