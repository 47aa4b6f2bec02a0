"""Short trials of a training: what its steps cost, and which learning rate it takes.

A trial is the training itself, in a folder that is not kept, until a callback has seen
enough. Nothing of it comes into a run.
"""

import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from spectralgpt.checkpoints import save_model
from spectralgpt.errors import ConfigError, SpectralGPTError, TrainingError
from spectralgpt.files import (
    check_replaceable,
    is_first_process,
    make_folder,
    write_file,
    write_table,
)
from spectralgpt.models.cpu import peak_rss_bytes
from spectralgpt.models.objective import Objective
from spectralgpt.reports.style import INK, category_colours, new_figure, tidy
from spectralgpt.reports.training_reports import QUEUE_FILLED
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_data import plain_contract
from spectralgpt.training.pretrain_models import build_model
from spectralgpt.training.pretraining import pretrain
from spectralgpt.training.transfer import TransferConfig

_LEAST_STEPS, _MOST_STEPS = 24, 4000
# A trial ends before it has scores to wait for or to keep models by.
_UNKEPT: dict[str, Any] = {"patience": 0, "save_top_k": 0}
RATES = 100
"""Optimizer steps of `find_rate`, each at a higher learning rate."""
RATES_TABLE, RATES_FIGURE = "learning_rates.csv", "learning_rates.png"
_RANGES = {"adamw": (1e-7, 1.0), "lars": (1e-4, 1e3)}
"""Of rates as the optimizer takes them: from what no model learns by to what none
endures."""
_KEPT = 0.9
"""Share of the smoothed loss that a step keeps."""
_STILL = RATES // 5
"""Steps at rates that are too low to learn anything: losses differ by chance alone."""
_CLEAR = 1.5
"""Standard deviations of that chance. Of a thousand losses without a fall, the smoothed
one of one falls further."""
_DIVERGED = 4.0
"""Times its best that the smoothed loss has reached. Source: Lightning's finder."""


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
    unscored: dict[str, Any] = {"validate_every_epochs": 0, "export_every_epochs": 0}
    trainer = replace(plan.trainer, **unscored, **_UNKEPT)
    trial = _without_end(replace(plan, trainer=trainer))
    clock = _Trial(seconds, _LEAST_STEPS * plan.trainer.accumulate)
    with contextlib.suppress(_EnoughError):
        pretrain(trial, folder, callbacks=[clock])
    # Other work on the machine makes single steps far slower.
    seconds, wall = (
        float(np.median(np.diff(ends)[len(ends) // 2 :])) * plan.trainer.accumulate
        for ends in (clock.ends, clock.wall_ends)
    )
    return seconds, wall, peak_rss_bytes()


def _without_end(plan: PretrainConfig) -> PretrainConfig:
    """Return a pretraining whose epochs are longer than trials, and draw nothing."""
    return replace(
        plan,
        steps=_MOST_STEPS * plan.trainer.epochs,
        data=replace(plan.data, samples_per_epoch=None),
        report=replace(plan.report, images=0),
    )


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


def find_rate(
    train: Callable[..., Path],
    config: PretrainConfig | TransferConfig,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> float:
    """Try rising learning rates on a training's first steps, and suggest one.

    Each optimizer step takes a higher rate, by a constant factor, until the loss
    diverges. Where the smoothed loss falls fastest is the suggestion: a place to begin,
    not the best rate. Weights, images and their order are those of the run.

    Args:
        train: `pretrain` or `finetune`.
        config: of the run; its own rate, warm-up and schedule are not used.
        output: folder that gets learning_rates.csv and learning_rates.png, of each rate
            and the loss before its step; nothing else in it is touched.
        overwrite: replace these two.
        progress: called after each of `RATES` steps, or of fewer if the loss diverges.

    Returns:
        `optimizer.base_lr`, to two digits.

    Raises:
        ConfigError: the configuration is wrong, has stages or an objective with a
            queue, or there is a table already.
        TrainingError: the loss does not fall clearly at any rate; it is written still.

    Source: Smith 2015, arXiv:1506.01186, learning-rate range test.
    """
    table = output / RATES_TABLE
    if is_first_process():
        check_replaceable(output, "table", ())
        if table.exists() and not overwrite:
            raise ConfigError(f"{table} is there already: pass --overwrite.")
    trial = _rates_trial(config)
    test = _RangeTest(*_RANGES[config.optimizer.algorithm], progress)
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(trial, Path(folder) / "trial", callbacks=[test])
        except _EnoughError:
            pass
        except TrainingError:
            # A loss that is not finite has diverged, unless no rate is to blame.
            if len(test.losses) < _STILL:
                raise
    # By it a rate of the optimizer becomes one for the base batch.
    unit = replace(config.optimizer, base_lr=1.0).rate(config.trainer.effective_batch)
    losses, smooth = test.losses, _smooth(test.losses)
    rates = [float(rate) for rate in test.rates[: len(losses)]]
    best = _steepest(losses, smooth)
    base_lr = None if best is None else float(f"{rates[best] / unit:.1e}")
    if is_first_process():
        columns = ("step", "learning_rate", "base_lr", "loss", "smoothed_loss")
        base = [rate / unit for rate in rates]
        values = zip(count(1), rates, base, losses, smooth, strict=False)
        make_folder(output)
        write_table(table, (dict(zip(columns, v, strict=True)) for v in values))
        _plot_rates(output / RATES_FIGURE, base, losses, smooth, base_lr)
    if base_lr is None:
        raise TrainingError(
            f"no learning rate is suggested: from {rates[0]:.0e} to {rates[-1]:.0e} "
            "the loss never fell by clearly more than it differs from step to step "
            f"({output / RATES_FIGURE}). Raise trainer.batch_size or accumulate, or "
            "check the images."
        )
    return base_lr


def _rates_trial(
    config: PretrainConfig | TransferConfig,
) -> PretrainConfig | TransferConfig:
    """Return the training without an end, and without what a run keeps or sends."""
    silent: dict[str, Any] = {"checkpoint_every_steps": 0, "loggers": ("csv",)}
    trainer = replace(config.trainer, ema_decay=0.0, **silent, **_UNKEPT)
    if isinstance(config, TransferConfig):
        samples = _MOST_STEPS * trainer.effective_batch
        return replace(config, trainer=trainer, samples_per_epoch=samples)
    if config.stages:
        raise ConfigError(
            "each stage has a learning rate of its own: leave out stages, and try with "
            "the settings of one."
        )
    return _without_end(replace(config, trainer=trainer))


class _RangeTest(Callback):
    """Raises the learning rate from step to step, until the loss diverges.

    Args:
        lowest: rate of the first step, as the optimizer takes it.
        highest: rate of the last one.
        progress: called after each step.

    Attributes:
        rates: of all steps, whether they come or not.
        losses: before each step that was made.
    """

    def __init__(
        self, lowest: float, highest: float, progress: Callable[[], object]
    ) -> None:
        self.rates = np.geomspace(lowest, highest, RATES)
        self.losses: list[float] = []
        self.progress = progress

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Put this step's rate in place of that of the schedule."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.set_rate(float(self.rates[len(self.losses)]))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        """Note the loss, when a step was made, and end the trial when all is seen."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.global_step == len(self.losses):
            return
        if QUEUE_FILLED in pl_module.last_terms:
            raise ConfigError(
                "the loss of an objective with a queue rises as harder keys come into "
                "it, and shows no learning rate: choose optimizer.base_lr by hand."
            )
        self.losses.append(pl_module.last_terms["loss"])
        self.progress()
        smooth = _smooth(self.losses)
        worst = max(smooth[0], _DIVERGED * min(smooth))
        if len(self.losses) == len(self.rates) or smooth[-1] > worst:
            raise _EnoughError


def _smooth(losses: Sequence[float]) -> list[float]:
    """Average exponentially; the first values are not drawn to 0."""
    mean, smooth = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = _KEPT * mean + (1 - _KEPT) * loss
        smooth.append(mean / (1 - _KEPT**number))
    return smooth


def _steepest(losses: Sequence[float], smooth: Sequence[float]) -> int | None:
    """Return the step at whose rate the loss falls fastest; None if it does not fall.

    Rates grow by a constant factor: the slope is by their logarithm. It is looked for
    up to the lowest value: a loss that came down after it had diverged says nothing.
    """
    lowest = int(np.argmin(smooth))
    if lowest <= _STILL:
        return None
    chance = float(np.std(losses[:_STILL], ddof=1))
    if smooth[_STILL - 1] - smooth[lowest] <= _CLEAR * chance:
        return None
    return _STILL + int(np.argmin(np.gradient(smooth[_STILL : lowest + 1])))


def _plot_rates(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    base_lr: float | None,
) -> None:
    """Draw losses by rates for the base batch, and the rate that is suggested."""
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    (colour,) = category_colours(1)
    axes.plot(rates, losses, color=colour, lw=0.6, alpha=0.4)
    axes.plot(rates, smooth, color=colour, label="smoothed")
    if base_lr is not None:
        axes.axvline(base_lr, color=INK, lw=0.8, ls="--", label=f"{base_lr:.1e}")
    axes.set_xscale("log")
    # What has diverged would leave nothing to see of the rest.
    axes.set_ylim(min(losses), 1.1 * max(losses[:_STILL]))
    axes.set_xlabel("optimizer.base_lr")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    tidy(axes)
    write_file(path, lambda to: figure.savefig(to, format="png", dpi=150))
