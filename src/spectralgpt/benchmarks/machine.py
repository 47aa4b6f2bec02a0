"""What the machine is, and the most it gives: products of matrices, memory traffic."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "MATMUL_SIZES",
    "PROBE_SIZE",
    "Product",
    "describe_machine",
    "fastest_product",
    "git_commit",
    "measure_bandwidth",
    "measure_products",
    "peak_rss_bytes",
    "synchronize",
]

MATMUL_SIZES = (512, 1024, 2048, 4096)
PROBE_SIZE = 1024  # Fast on every machine, and over in a moment.
_REPEATS = 5
_LEAST_SECONDS = 0.05  # Of one repeat, so that small products are timed as well.
_COPIED_BYTES = 256 * 2**20  # Far beyond any cache.
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Product:
    """One square product of matrices.

    Args:
        size: rows and columns.
        kernel: what computed it: `linear` (torch's own choice) or `onednn`.
        gflops: median speed, 10^9 operations a second.
    """

    size: int
    kernel: str
    gflops: float


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_products(
    precision: str, device: torch.device, sizes: Sequence[int] | None = None
) -> list[Product]:
    """Measure square products, each by every kernel there is for it.

    In fp32 on the CPU, `F.linear` goes through MKL or whatever torch was built with,
    and oneDNN, asked directly, may be twice as fast. TF32 stays off unless it was
    switched on.

    Args:
        precision: bf16 or fp32.
        device: where.
        sizes: rows and columns; None takes `MATMUL_SIZES`.
    """
    found = []
    for size in MATMUL_SIZES if sizes is None else sizes:
        generator = torch.Generator().manual_seed(size)
        one, two = (
            torch.rand(size, size, generator=generator).to(device, _DTYPES[precision])
            for _ in range(2)
        )
        for kernel, multiply in _kernels(precision, device).items():
            seconds = _time_call(_bound(multiply, one, two), device)
            found.append(Product(size, kernel, 2 * size**3 / seconds / 1e9))
    return found


def fastest_product(products: Sequence[Product]) -> Product:
    """Return the one with the highest speed."""
    return max(products, key=lambda product: product.gflops)


def _kernels(
    precision: str, device: torch.device
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    kernels: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"linear": F.linear}
    is_fp32_on_cpu = precision == "fp32" and device.type == "cpu"
    if is_fp32_on_cpu and torch.backends.mkldnn.is_available():
        kernels["onednn"] = _onednn_linear
    return kernels


def _onednn_linear(one: Tensor, two: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(one, two, None, "none", [], "")
    return product


def _bound(
    multiply: Callable[[Tensor, Tensor], Tensor], one: Tensor, two: Tensor
) -> Callable[[], object]:
    return lambda: multiply(one, two)


def measure_bandwidth(device: torch.device) -> float:
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


def peak_rss_bytes() -> int | None:
    """Return the most memory that this process has held so far; None on Windows."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.is_file():
        # What getrusage gives on Linux is at least what the parent held at the start.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() or None

    # An installed copy may lie in the checkout of something else.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
