"""How a training step grows with images, bands, mask and model, and what is sent.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json
    python benchmarks/scaling.py --json benchmarks/results/scaling.json --only large
    python benchmarks/scaling.py --json benchmarks/results/scaling.json --plot FILE.png

Each point is a process of its own that runs steps of pretraining through the benchmark
package; medians are kept, with the load of the machine. Points that the file has are
not measured again, so that a run that was stopped goes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from spectralgpt.benchmarks.measurement import (
    describe_machine,
    git_commit,
    measure_products,
)
from spectralgpt.benchmarks.settings import BenchmarkConfig, count_flops
from spectralgpt.benchmarks.steps import measure_steps, peak_rss_bytes
from spectralgpt.building import build_autoencoder, model_config
from spectralgpt.models.sizes import SIZES
from spectralgpt.models.tokens import TokenGrid

USUAL = {"batch_size": 8, "steps": 5, "warmup": 2}
CURVES: dict[str, list[dict[str, Any]]] = {
    "image size": [
        {"model": size, "image_size": side}
        for size in ("tiny", "small")
        for side in (64, 96, 128, 160)
    ],
    "bands": [
        {"model": "tiny", "image_size": 64, "num_bands": bands}
        for bands in (6, 12, 24, 48, 96, 192)
    ],
    "mask ratio": [
        {"model": size, "mask_ratio": ratio}
        for size in ("tiny", "small")
        for ratio in (0.5, 0.75, 0.9, 0.95)
    ],
    "model": [{"model": size} for size in ("tiny", "small", "base")],
    "large": [
        {"model": size, "batch_size": 2, "warmup": 1} for size in ("large", "huge")
    ],
}
PROCESSES = (2, 8, 64)
BYTES = 4  # Weights and gradients are float32.
# Assumed, not measured: what a step makes of one GPU, operations a second.
ASSUMED_SPEED = 1e14
PASSES = 200  # Of the published runs.
SIDE, BANDS, PIXEL_BYTES = 96, 12, 2
WORK = {
    "a million images": 10**6,
    "a billion pixels": 10**9 / SIDE**2,
    "a hundred billion pixels": 10**11 / SIDE**2,
}


def measure_point(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure one point in this process."""
    libraries = peak_rss_bytes()
    config = BenchmarkConfig(device="cpu", **(USUAL | settings))
    load = os.getloadavg()[0]
    measured, flops = measure_steps(config, torch.device("cpu"))
    low, median, high = statistics.quantiles(measured.seconds, n=4, method="inclusive")
    assert measured.peak_rss is not None
    assert libraries is not None
    return {
        "settings": USUAL | settings,
        "seconds_per_step": median,
        "spread": [low, high],
        "flops_per_image": flops,
        "peak_rss_bytes": measured.peak_rss,
        "libraries_rss_bytes": libraries,
        "parts": measured.parts,
        "load_average": load,
    }


def run_point(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure one point in a process of its own."""
    words = [sys.executable, __file__, "--point", json.dumps(settings)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{settings}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def communication() -> list[dict[str, Any]]:
    """Compute what each process sends in a step, from counted parameters.

    A ring all-reduce of P numbers over n processes sends 2 (n - 1) / n P from each,
    once an optimizer step. Sharded, weights are gathered for the forward and for the
    backward pass, and gradients summed to their owners: 3 (n - 1) / n P, each pass.
    """
    rows = []
    for size in SIZES:
        with torch.device("meta"):
            model = build_autoencoder(size, image_size=96, num_bands=12)
        count = sum(each.numel() for each in model.parameters())
        rows.append(
            {
                "model": size,
                "parameters": count,
                # Weights, gradients and both moments of AdamW.
                "state_bytes": 4 * BYTES * count,
                "ddp_bytes": {n: 2 * (n - 1) / n * BYTES * count for n in PROCESSES},
                "fsdp_bytes": {n: 3 * (n - 1) / n * BYTES * count for n in PROCESSES},
            }
        )
    return rows


def plans() -> list[dict[str, Any]]:
    """Compute what whole runs take: operations and bytes, and hours as an estimate."""
    rows = []
    for size in ("base", "large", "huge"):
        model = build_autoencoder(size, image_size=SIDE, num_bands=BANDS)
        grid = TokenGrid(BANDS, SIDE, SIDE)
        _, flops = count_flops(model_config(model), grid, 0.9)
        for name, images in WORK.items():
            total = flops * images * PASSES
            rows.append(
                {
                    "model": size,
                    "work": name,
                    "images": images,
                    "passes": PASSES,
                    "operations": total,
                    "numbers_bytes": images * BANDS * SIDE**2 * PIXEL_BYTES,
                    "estimated_gpu_hours": total / ASSUMED_SPEED / 3600,
                    "estimated_images_per_second_and_gpu": ASSUMED_SPEED / flops,
                }
            )
    return rows


def measure(path: Path, only: str | None) -> None:
    """Measure all points that the file lacks."""
    result: dict[str, Any] = {}
    if path.is_file():
        result = json.loads(path.read_text(encoding="utf-8"))
    facts = {
        "machine": describe_machine(torch.device("cpu")),
        "torch_version": torch.__version__,
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Those of the first points stay when others are added.
    result = facts | result
    result |= {"communication": communication(), "plans": plans()}
    if "peak_bf16_gflops" not in result:
        products = measure_products("bf16", torch.device("cpu"), (1024, 2048))
        result["peak_bf16_gflops"] = max(product["gflops"] for product in products)
    for curve, points in CURVES.items():
        if only not in (None, curve):
            continue
        found = result.setdefault("curves", {}).setdefault(curve, [])
        known = [each["settings"] for each in found]
        for settings in points:
            if USUAL | settings in known:
                continue
            point = run_point(settings)
            print(curve, settings, f"{point['seconds_per_step']:.3f} s", flush=True)
            found.append(point)
            write(result, path)
    write(result, path)


def write(result: dict[str, Any], path: Path) -> None:
    """Write what there is so far."""
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def plot(path: Path, picture: Path) -> None:
    """Draw seconds and memory over what was varied."""
    from matplotlib import pyplot as plt

    curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
    axes_of = {
        "image size": ("image_size", 96, "image side, px"),
        "bands": ("num_bands", 12, "bands (64 px)"),
        "mask ratio": ("mask_ratio", 0.9, "mask ratio"),
    }
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharex="col")
    for column, (curve, (key, usual, label)) in enumerate(axes_of.items()):
        models = dict.fromkeys(point["settings"]["model"] for point in curves[curve])
        for model in models:
            points = [p for p in curves[curve] if p["settings"]["model"] == model]
            points.sort(key=lambda point: point["settings"].get(key, usual))
            _draw(axes[:, column], points, key, usual, model)
        axes[1, column].set_xlabel(label)
    axes[0, 0].set_ylabel("seconds an image")
    axes[1, 0].set_ylabel("memory beyond libraries, GB")
    for panel in axes.flat:
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(picture, dpi=90)


def _draw(
    panels: Any, points: list[dict[str, Any]], key: str, usual: float, model: str
) -> None:
    x = [point["settings"].get(key, usual) for point in points]
    batch = [point["settings"]["batch_size"] for point in points]
    seconds = [p["seconds_per_step"] / b for p, b in zip(points, batch, strict=True)]
    spread = [
        [abs(p["seconds_per_step"] - p["spread"][side]) / b for p, b in
         zip(points, batch, strict=True)]
        for side in (0, 1)
    ]  # fmt: skip
    memory = [(p["peak_rss_bytes"] - p["libraries_rss_bytes"]) / 1e9 for p in points]
    panels[0].errorbar(x, seconds, spread, marker="o", capsize=3, label=model)
    panels[1].plot(x, memory, marker="o", label=f"{model}, batch {batch[0]}")


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=tuple(CURVES))
    parser.add_argument("--plot", type=Path, help="draw this picture; measure nothing")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point is not None:
        print(json.dumps(measure_point(args.point)))
    elif args.json is None:
        parser.error("--json names the file of the results")
    elif args.plot is not None:
        plot(args.json, args.plot)
    else:
        measure(args.json, args.only)


if __name__ == "__main__":
    main()
