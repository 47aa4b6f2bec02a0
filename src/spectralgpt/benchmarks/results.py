"""Results of measurements: made, written, read and compared."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from spectralgpt import __version__
from spectralgpt.benchmarks.config import BenchmarkConfig, find_device
from spectralgpt.benchmarks.machine import (
    PROBE_SIZE,
    describe_machine,
    fastest_product,
    git_commit,
    measure_bandwidth,
    measure_products,
)
from spectralgpt.benchmarks.steps import measure_steps
from spectralgpt.benchmarks.timing import Measured
from spectralgpt.checkpoints import write_atomically
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.json_files import read_json

__all__ = [
    "Result",
    "differing_settings",
    "read_result",
    "run_benchmark",
    "write_result",
]

Result = dict[str, Any]
_PRECISIONS = ("fp32", "bf16")
_NEEDED = ("images_per_second", "seconds_per_step", "settings")


def run_benchmark(
    config: BenchmarkConfig, on_step: Callable[[int], None] | None = None
) -> Result:
    """Measure steps, and then what the machine could do at most.

    In that order, so that the peak of memory is that of the steps. A small product is
    timed after each measured step too: where it is slow, others had the machine.

    Args:
        config: what is measured.
        on_step: called after each step with the number done.

    Returns:
        Plain values; docs/performance.md says what each means.

    Raises:
        ConfigError: options that cannot be met, such as a device that is not there.
        DataError: the data set has no usable images.
    """
    device = find_device(config.device)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        # Its load is that of other programs only before the steps begin.
        machine = describe_machine(device)
        threads = torch.get_num_threads()
        probes: list[float] = []

        def after_step(done: int) -> None:
            if _is_probed(config, done):
                found = measure_products(config.precision, device, (PROBE_SIZE,))
                probes.append(fastest_product(found).gflops)
            if on_step is not None:
                on_step(done)

        measured, flops = measure_steps(config, device, after_step)
        return {
            **_speed(config, measured),
            **_share(config, measured, flops, device),
            "probe_gflops": probes,
            "peak_rss_bytes": measured.peak_rss,
            "peak_device_bytes": measured.peak_device,
            "weight_bytes": measured.weights,
            "parts": measured.parts,
            "backward": measured.backward,
            "device": str(device),
            "threads": threads,
            "machine": machine,
            "torch_version": torch.__version__,
            "package_version": __version__,
            "git_commit": git_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": _settings(config),
        }
    finally:
        torch.set_num_threads(before)


def _is_probed(config: BenchmarkConfig, done: int) -> bool:
    """Whether the step just done is a measured one of a model."""
    return config.mode != "data" and 0 < done - config.warmup <= config.steps


def _settings(config: BenchmarkConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return plain


def _speed(config: BenchmarkConfig, measured: Measured) -> Result:
    median = statistics.median(measured.seconds)
    low, _, high = statistics.quantiles(measured.seconds, n=4, method="inclusive")
    return {
        "images_per_second": config.batch_size / median,
        "seconds_per_step": median,
        "spread": {"lower_quartile": low, "upper_quartile": high},
        "step_seconds": measured.seconds,
    }


def _share(
    config: BenchmarkConfig,
    measured: Measured,
    flops: int | None,
    device: torch.device,
) -> Result:
    """Compare the speed with the fastest products; nothing to compare in loading."""
    names = ("peak_matmul_gflops", "model_flops_utilization", "matmul")
    if flops is None:
        empty = dict.fromkeys(("model_flops_per_image", *names))
        return {**empty, "memory_bandwidth_gb_s": measure_bandwidth(device)}
    products = {
        precision: measure_products(precision, device) for precision in _PRECISIONS
    }
    peak = fastest_product(products[config.precision]).gflops
    speed = config.batch_size / statistics.median(measured.seconds)
    return {
        "model_flops_per_image": flops,
        "peak_matmul_gflops": peak,
        "model_flops_utilization": flops * speed / (peak * 1e9),
        "matmul": {
            name: [asdict(product) for product in found]
            for name, found in products.items()
        },
        "memory_bandwidth_gb_s": measure_bandwidth(device),
    }


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write a result as JSON, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: _write(temporary, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote.

    Raises:
        ConfigError: there is no such file.
        DataError: it is not a result of a measurement.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file: name the JSON of a measurement.")
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from error
    known = found if isinstance(found, dict) else {}
    missing = [name for name in _NEEDED if name not in known]
    numbers = [known.get(name) for name in _NEEDED[:2]]
    are_numbers = all(isinstance(value, int | float) for value in numbers)
    if missing or not are_numbers or not isinstance(known["settings"], dict):
        raise DataError(
            f"{path} is no result of spectralgpt benchmark (missing or wrong: "
            f"{', '.join(missing) or 'values'}). Write one with --json."
        )
    return known


def differing_settings(one: Result, two: Result) -> dict[str, tuple[Any, Any]]:
    """Return what was set otherwise in two measurements, or ran on another machine."""
    both = [
        {
            **result["settings"],
            "threads": result.get("threads"),
            "device": result.get("device"),
            "cpu": (result.get("machine") or {}).get("cpu"),
            "gpu": (result.get("machine") or {}).get("gpu"),
        }
        for result in (one, two)
    ]
    names = dict.fromkeys([*both[0], *both[1]])
    values = {name: (both[0].get(name), both[1].get(name)) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}
