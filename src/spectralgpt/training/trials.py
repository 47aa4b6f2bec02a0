"""Short trials of a training: what its steps cost.

A trial is the training itself, in a folder that is not kept, until a callback has seen
enough. Nothing of it comes into a run.
"""

import contextlib
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from spectralgpt.checkpoints import save_model
from spectralgpt.errors import SpectralGPTError, TrainingError
from spectralgpt.models.cpu import peak_rss_bytes
from spectralgpt.models.objective import Objective
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_data import plain_contract
from spectralgpt.training.pretrain_models import build_model
from spectralgpt.training.pretraining import pretrain

_LEAST_STEPS, _MOST_STEPS = 24, 4000


@dataclass(frozen=True)
class Cost:
    """What a step of a pretraining takes.

    Attributes:
        seconds: processor seconds, all threads together.
        wall: seconds by the clock.
        memory: most memory of the process, bytes; None where that is not known.
        gflop: of forward and backward passes of a step, 1e9 operations; None where they
            cannot be counted.
    """

    seconds: float
    wall: float
    memory: int | None
    gflop: float | None = None


class _EnoughError(Exception):
    """A trial has seen enough."""


def measure_cost(plan: PretrainConfig, seconds: float = 0.0) -> Cost:
    """Measure the first steps of a pretraining, in a process of their own.

    The first ones wait for files that later ones find in memory: the later half counts.

    Args:
        plan: the pretraining.
        seconds: processor seconds that the steps take together, at least.

    Raises:
        TrainingError: that process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        at = Path(folder) / "trial"
        trial = pool.submit(_measure, plan, at, threads, seconds)
        try:
            of_step, wall, memory = trial.result()
        except BrokenProcessPool:
            raise TrainingError(
                f"a trial of objective {plan.objective} ended without an answer: its "
                "process was killed, perhaps for want of memory. Lower "
                "trainer.batch_size or the model's size."
            ) from None
    return Cost(of_step, wall, memory, _count_gflop(plan))


def _measure(
    plan: PretrainConfig, folder: Path, threads: int, seconds: float
) -> tuple[float, float, int | None]:
    """Train for a while; returns the first three of `Cost`."""
    torch.set_num_threads(threads)
    trial = replace(
        plan,
        steps=_MOST_STEPS * plan.trainer.epochs,
        report=replace(plan.report, images=0),
        trainer=replace(plan.trainer, validate_every_epochs=0, export_every_epochs=0),
    )
    clock = _Trial(seconds, _LEAST_STEPS * plan.trainer.accumulate)
    with contextlib.suppress(_EnoughError):
        pretrain(trial, folder, callbacks=[clock])
    # Other work on the machine makes single steps far slower.
    seconds, wall = (
        float(np.median(np.diff(ends)[len(ends) // 2 :])) * plan.trainer.accumulate
        for ends in (clock.ends, clock.wall_ends)
    )
    return seconds, wall, peak_rss_bytes()


def _count_gflop(plan: PretrainConfig) -> float | None:
    """Count the products of a step by torch's own counter; None if it cannot."""
    contract = plain_contract(plan, plan.data)
    side = contract.image_size
    try:
        with torch.device("meta"):
            # Weights to start from have values, which nothing here has.
            anew = replace(plan, model=replace(plan.model, start_from=None))
            model = build_model(anew, contract)
            batch = torch.zeros(
                plan.trainer.effective_batch, len(contract.bands), side, side
            )
            with FlopCounterMode(display=False) as counter:
                model(batch, plan.masking.ratio).loss.backward()
    # Some objectives draw with Python, which tensors without values cannot.
    except (RuntimeError, NotImplementedError, TypeError, SpectralGPTError):
        return None
    return counter.get_total_flops() / 1e9


class Clock(Callback):
    """Counts processor seconds of training, and keeps the model after each epoch.

    Args:
        points: gets a model for each epoch; None keeps none.

    Attributes:
        seconds: so far, over all resumed parts.
        ends: processor time at the end of each step of this part.
    """

    def __init__(self, points: Path | None) -> None:
        self.points = points
        self.seconds = 0.0
        self.ends: list[float] = []
        self._began = time.process_time()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._began = time.process_time()

    def on_train_batch_end(self, *args: Any) -> None:
        """Count a micro-batch."""
        now = time.process_time()
        self.seconds += now - self._began
        self._began = now
        self.ends.append(now)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the model, with the seconds that it took."""
        model = getattr(pl_module, "model", None)
        if self.points is None or not isinstance(model, Objective):
            return
        done = trainer.current_epoch + 1
        facts = {"seconds": self.seconds, "step": trainer.global_step}
        save_model(self.points / f"epoch-{done}", model, extra=facts)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scoring held-out images is no training."""
        self._began = time.process_time()

    def state_dict(self) -> dict[str, Any]:
        """Keep the seconds with the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's seconds."""
        self.seconds = float(state_dict["seconds"])


class _Trial(Clock):
    """Ends a trial after so many seconds and micro-batches, timed by the clock, too."""

    def __init__(self, least_seconds: float, least_batches: int) -> None:
        super().__init__(None)
        self.least = least_seconds, least_batches
        self.wall_ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """Count a micro-batch."""
        super().on_train_batch_end(*args)
        self.wall_ends.append(time.monotonic())
        least_seconds, least_batches = self.least
        if self.seconds >= least_seconds and len(self.ends) >= least_batches:
            raise _EnoughError
