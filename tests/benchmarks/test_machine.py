import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from spectralgpt.benchmarks import measurement, steps

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_are_timed_by_every_kernel(precision: str) -> None:
    products = measurement.measure_products(precision, CPU, sizes=(64, 128))
    kernels = {product["kernel"] for product in products}
    is_two = precision == "fp32" and torch.backends.mkldnn.is_available()
    assert kernels == ({"linear", "onednn"} if is_two else {"linear"})
    assert {product["size"] for product in products} == {64, 128}
    speeds = [product["gflops"] for product in products]
    assert measurement._fastest_gflops(products) == max(speeds)


def test_kernels_compute_the_same_product() -> None:
    one, two = (torch.rand(48, 48) for _ in range(2))
    for multiply in measurement._kernels("fp32", CPU).values():
        torch.testing.assert_close(multiply(one, two), one @ two.T)


def test_speed_is_operations_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return one

    kernels: dict[str, Callable[..., torch.Tensor]] = {"slow": slow}
    monkeypatch.setattr(measurement, "_kernels", lambda *_: kernels)
    (product,) = measurement.measure_products("fp32", CPU, sizes=(100,))
    # 2 * 100^3 operations in 20 ms or, on a busy machine, more.
    assert 0.001 < product["gflops"] <= 0.1


def test_bandwidth_counts_what_is_read_and_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measurement, "_time_call", lambda call, device: 0.5)
    expected = 2 * measurement._COPIED_BYTES / 0.5 / 1e9
    assert measurement._measure_bandwidth(CPU) == pytest.approx(expected)


def test_peak_memory_grows_with_what_is_held() -> None:
    before = steps.peak_rss_bytes()
    assert before is not None
    # More than whatever earlier tests may have given back.
    held = np.ones(before // 8 + 25_000_000)
    after = steps.peak_rss_bytes()
    assert after is not None
    assert after > held.nbytes
    assert after > before


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own figure")
def test_peak_memory_is_not_that_of_the_parent() -> None:
    held = np.ones(200_000_000)
    code = "from spectralgpt.benchmarks import steps; print(steps.peak_rss_bytes())"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert 0 < int(child.stdout) < held.nbytes


def test_machine_is_named() -> None:
    described = measurement.describe_machine(CPU)
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["gpu"] is None
