"""A step is the same whether it is one batch, several, or shared by processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.steps import CONTRASTS, SAMPLES, make_step

KINDS = ("maps", "dice", "numbers", "pretraining", "classification", "labels")


def check_alike(step: dict[str, Any], whole: dict[str, Any]) -> None:
    assert step["terms"] == pytest.approx(whole["terms"], abs=1e-6)
    assert step["gradients"].keys() == whole["gradients"].keys()
    assert max(float(found.abs().max()) for found in whole["gradients"].values()) > 1e-3
    for name, gradient in whole["gradients"].items():
        found = step["gradients"][name]
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_give_the_step_of_one_batch(kind: str, tmp_path: Path) -> None:
    whole = make_step(kind, tmp_path / "whole", SAMPLES, 1)
    for accumulate in (2, SAMPLES):
        folder = tmp_path / f"parts{accumulate}"
        parts = make_step(kind, folder, SAMPLES // accumulate, accumulate)
        check_alike(parts, whole)


@pytest.mark.parametrize(("kind", "accumulate"), [("dice", 1), ("pretraining", 2)])
def test_two_processes_give_the_step_of_one(
    kind: str, accumulate: int, tmp_path: Path
) -> None:
    two = step_of_two(kind, tmp_path / "two", accumulate)
    check_alike(two, make_step(kind, tmp_path / "one", SAMPLES, 1))


@pytest.mark.parametrize("kind", CONTRASTS)
def test_two_processes_compare_all_of_their_images(kind: str, tmp_path: Path) -> None:
    two = step_of_two(kind, tmp_path / "two")
    one = make_step(kind, tmp_path / "one", SAMPLES, 1)
    assert two["terms"] == pytest.approx(one["terms"], rel=1e-5)
    # What a batch is normalised by takes some gradients to zero, up to round-off.
    size = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        apart = float((two["gradients"][name] - gradient).abs().max())
        assert apart <= 1e-4 * size, name
    for name, value in one["state"].items():
        found = two["state"][name]
        if name == "queue":
            # Keys of one step stand in the order of their processes.
            value, found = (each[:, each[0].argsort()] for each in (value, found))
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)


def step_of_two(kind: str, folder: Path, accumulate: int = 1) -> dict[str, Any]:
    """Return what `make_step` gives in two processes that share the batch."""
    words = (kind, folder, SAMPLES // accumulate // 2, accumulate, 2)
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.steps", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = torch.load(folder / "step.pt", weights_only=True)
    return found
