"""Results of measurements, beside the most that the machine gives: made and read."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt import __version__
from spectralgpt.benchmarks.settings import BenchmarkConfig
from spectralgpt.benchmarks.steps import Measured, measure_steps, synchronize
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.files import read_json

Result = dict[str, Any]
PROBE_SIZE = 1024  # Fast on every machine, and over in a moment.
_MATMUL_SIZES = (512, 1024, 2048, 4096)
_REPEATS = 5
_LEAST_SECONDS = 0.05  # Of one repeat, so that small products are timed as well.
_COPIED_BYTES = 256 * 2**20  # Far beyond any cache.
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_NEEDED = ("images_per_second", "seconds_per_step", "settings")


def run_benchmark(
    config: BenchmarkConfig, on_step: Callable[[int], None] = lambda done: None
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
    device = _find_device(config.device)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        # Its load is that of other programs only before the steps begin.
        machine = describe_machine(device)
        threads = torch.get_num_threads()
        probes: list[float] = []

        def after_step(done: int) -> None:
            if config.mode != "data" and 0 < done - config.warmup <= config.steps:
                found = measure_products(config.precision, device, (PROBE_SIZE,))
                probes.append(_fastest_gflops(found))
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
            "settings": json.loads(json.dumps(asdict(config), default=str)),
        }
    finally:
        torch.set_num_threads(before)


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
    config: BenchmarkConfig, measured: Measured, flops: int | None, device: torch.device
) -> Result:
    """Compare the speed with the fastest products; nothing to compare in loading."""
    products, peak, share = None, None, None
    if flops is not None:
        products = {name: measure_products(name, device) for name in _DTYPES}
        peak = _fastest_gflops(products[config.precision])
        speed = config.batch_size / statistics.median(measured.seconds)
        share = flops * speed / (peak * 1e9)
    return {
        "model_flops_per_image": flops,
        "peak_matmul_gflops": peak,
        "model_flops_utilization": share,
        "matmul": products,
        "memory_bandwidth_gb_s": _measure_bandwidth(device),
    }


def _find_device(name: str) -> torch.device:
    """Return the device of a name, `auto` for CUDA where there is any, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device {name!r} is no device: use auto, cpu, cuda or cuda:1."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name!r} is not supported: use cpu or cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"--device {name!r}: this machine has {count} CUDA devices that torch can "
            "use. Use auto or cpu."
        )
    return device


def measure_products(
    precision: str, device: torch.device, sizes: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Measure square products of matrices, each by every kernel there is for it.

    In fp32 on the CPU, `F.linear` goes through MKL or whatever torch was built with,
    and oneDNN, asked directly, may be twice as fast. TF32 stays off unless it was
    switched on.

    Args:
        precision: bf16 or fp32.
        device: where.
        sizes: rows and columns; None takes those of a measurement.

    Returns:
        For each product its `size`, the `kernel` that computed it, `linear` (torch's
        own choice) or `onednn`, and the median of `gflops`, 10^9 operations per second.
    """
    found = []
    for size in _MATMUL_SIZES if sizes is None else sizes:
        generator = torch.Generator().manual_seed(size)
        one, two = (
            torch.rand(size, size, generator=generator).to(device, _DTYPES[precision])
            for _ in range(2)
        )
        for kernel, multiply in _kernels(precision, device).items():
            seconds = _time_call(partial(multiply, one, two), device)
            gflops = 2 * size**3 / seconds / 1e9
            found.append({"size": size, "kernel": kernel, "gflops": gflops})
    return found


def _fastest_gflops(products: Sequence[Mapping[str, Any]]) -> float:
    """Return the highest speed of any product, 10^9 operations per second."""
    return max(float(product["gflops"]) for product in products)


def _kernels(
    precision: str, device: torch.device
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    kernels: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"linear": F.linear}
    is_fp32_on_cpu = precision == "fp32" and device.type == "cpu"
    if is_fp32_on_cpu and torch.backends.mkldnn.is_available():
        kernels["onednn"] = lambda one, two: torch.ops.mkldnn._linear_pointwise(
            one, two, None, "none", [], ""
        )
    return kernels


def _measure_bandwidth(device: torch.device) -> float:
    """Measure the copying of a large array: bytes read plus written, GB/s."""
    source = torch.ones(_COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    seconds = _time_call(lambda: target.copy_(source), device)
    return 2 * _COPIED_BYTES / seconds / 1e9


@torch.inference_mode()
def _time_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call, after one that warms up."""

    def run(times: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(times):
            call()
        synchronize(device)
        return (time.perf_counter() - start) / times

    run(1)
    times = max(1, round(_LEAST_SECONDS / max(run(1), 1e-9)))
    return statistics.median(run(times) for _ in range(_REPEATS))


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the processor, the cores this process may use, and the GPU, if used."""
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    is_cuda = device.type == "cuda"
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(device) if is_cuda else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Return the commit that the package runs from, None if it is not from a checkout.

    It ends in `-dirty` where files differ from the commit.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    # An installed copy may lie in the checkout of something else.
    is_ours = [*git, "ls-files", "--error-unmatch", "__init__.py"]
    commit = [*git, *["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]]
    run = partial(
        subprocess.run, capture_output=True, text=True, check=True, timeout=10
    )
    try:
        run(is_ours)
        return run(commit).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def read_result(path: Path) -> Result:
    """Read the JSON that `spectralgpt benchmark` wrote.

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
        result["settings"]
        | {name: result.get(name) for name in ("threads", "device")}
        | {name: (result.get("machine") or {}).get(name) for name in ("cpu", "gpu")}
        for result in (one, two)
    ]
    names = dict.fromkeys([*both[0], *both[1]])
    values = {name: (both[0].get(name), both[1].get(name)) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}
