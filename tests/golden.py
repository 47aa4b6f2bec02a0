"""Reading the golden numbers and comparing with them."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

RELATIVE = 1e-5


def assert_close(found: Tensor, wanted: np.ndarray) -> None:
    """Largest difference at most 1e-5 of the largest wanted value."""
    difference = np.abs(found.detach().numpy() - wanted).max()
    assert difference <= RELATIVE * np.abs(wanted).max()


def read_keys(shared: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a published model by key."""
    table: dict[str, Any] = json.loads((shared / "golden" / name).read_text())
    return {key: tuple(shape) for key, shape in table.items()}


def formula_weights(keys: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by the formula of golden/README.md."""
    weights = {}
    for name, shape in keys.items():
        state = np.random.RandomState(zlib.crc32(name.encode()))
        values = state.standard_normal(shape).astype(np.float32) * np.float32(0.03)
        if len(shape) == 1 and name.endswith("weight"):
            values = values + 1
        weights[name] = torch.from_numpy(values)
    return weights


def formula_input(tag: str, shape: tuple[int, ...]) -> Tensor:
    """Inputs by the formula of golden/README.md."""
    state = np.random.RandomState(zlib.crc32(tag.encode()))
    return torch.from_numpy(state.random_sample(shape).astype(np.float32))
