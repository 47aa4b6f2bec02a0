from pathlib import Path

import pytest
import torch

from spectralgpt.benchmarks import measurement
from spectralgpt.benchmarks.settings import BenchmarkConfig
from spectralgpt.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "train"}, "use pretrain, finetune, inference, data"),
        ({"mode": "data"}, "name it with --data"),
        ({"mode": "inference", "data": Path("x")}, "leave out --data"),
        ({"mode": "finetune", "decoder": "cross"}, "has no decoder"),
        ({"model": "gigantic"}, "'gigantic' is unknown"),
        ({"steps": 4}, "--steps is 4; it must be at least 5"),
        ({"warmup": 0}, "--warmup is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"workers": -1}, "--workers is -1"),
        ({"threads": 0}, "--threads is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchmarkConfig(**settings)  # type: ignore[arg-type]


def test_auto_takes_a_device_that_is_there() -> None:
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert measurement._find_device("auto").type == wanted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toaster", "is no device"),
        ("meta", "is not supported"),
        ("cuda:99", "this machine has [0-9]+ CUDA devices"),
    ],
)
def test_devices_that_are_not_there_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measurement._find_device(name)
