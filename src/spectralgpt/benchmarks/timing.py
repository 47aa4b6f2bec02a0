"""Clocks on training steps: whole steps first, then some split into parts."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from spectralgpt.benchmarks.machine import peak_rss_bytes, synchronize
from spectralgpt.models.encoder import SpectralEncoder

__all__ = ["SPLIT_STEPS", "Measured", "PartClock", "StepTimer", "watch_parts"]

SPLIT_STEPS = 5


@dataclass
class Measured:
    """What was measured of steps.

    Attributes:
        seconds: of each whole step.
        parts: median seconds of each part of a step, backward included.
        backward: the same of the backward pass alone.
        peak_rss: most memory of the process after the whole steps, bytes.
        peak_device: most memory on the accelerator in the whole steps, bytes.
        weights: memory of the weights, bytes; of inference only.
    """

    seconds: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)
    peak_rss: int | None = None
    peak_device: int | None = None
    weights: int | None = None

    def note_memory(self, device: torch.device) -> None:
        """Take the peaks, before anything else is measured."""
        self.peak_rss = peak_rss_bytes()
        if device.type == "cuda":
            self.peak_device = torch.cuda.max_memory_allocated(device)


class PartClock:
    """Split steps into parts that follow each other without gaps.

    Args:
        device: is waited for at each boundary.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_backward = False
        self.has_reached_head = False
        self._last: float | None = None
        self._step: dict[tuple[str, bool], float] = defaultdict(float)
        self._steps: list[dict[tuple[str, bool], float]] = []

    def start(self) -> None:
        """Begin a step here."""
        synchronize(self.device)
        self._step = defaultdict(float)
        self.is_backward = self.has_reached_head = False
        self._last = time.perf_counter()

    def end_part(self, part: str, of_gradient: bool = False) -> None:
        """Give the time since the last boundary to a part.

        Args:
            part: its name.
            of_gradient: it was spent on gradients, also if the whole step's backward
                pass has not begun.
        """
        if self._last is None:
            return
        synchronize(self.device)
        now = time.perf_counter()
        self._step[part, self.is_backward or of_gradient] += now - self._last
        self._last = now

    def end_step(self) -> None:
        """Keep the step."""
        if self._last is not None:
            self._steps.append(dict(self._step))
        self._last = None

    def medians(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return median seconds by part, of all and of the backward pass alone."""
        every = list(dict.fromkeys(key for step in self._steps for key in step))
        names = dict.fromkeys(part for part, _ in every)
        backward = {
            part: statistics.median(step.get((part, True), 0.0) for step in self._steps)
            for part, is_backward in every
            if is_backward
        }
        both = {
            part: statistics.median(
                step.get((part, False), 0.0) + step.get((part, True), 0.0)
                for step in self._steps
            )
            for part in names
        }
        return both, backward


@contextmanager
def watch_parts(
    clock: PartClock, encoder: SpectralEncoder, head: nn.Module | None, name: str = ""
) -> Iterator[None]:
    """Mark where the encoder begins, and where the head begins and ends.

    What comes before the encoder's blocks (masking, cutting, embedding) is the part
    `embedding`; what follows the head is the caller's. A model that runs a part without
    calling its module has that part's time in the next one. The head may be called more
    than once a step, for some images each time, with its gradients taken in between.

    Args:
        clock: gets the boundaries.
        encoder: its blocks are watched.
        head: decoder or classifier; None if there is none.
        name: of the part that it is.
    """
    block: Any = encoder.blocks[0]
    hooks = [_mark_inputs(block, clock, lambda: "embedding", "encoder")]
    if head is not None:

        def before() -> str:
            was_reached, clock.has_reached_head = clock.has_reached_head, True
            # What follows its gradients is their sum over the parts of a batch.
            return name if was_reached else "encoder"

        hooks.append(_mark_inputs(head, clock, before, name))

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            _end_forward(clock, name)
            _mark_gradient(output, clock, "loss")

        hooks.append(head.register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mark_inputs(
    module: nn.Module, clock: PartClock, before: Callable[[], str], own: str
) -> Any:
    def at_entry(module: nn.Module, args: Any, kwargs: Any) -> None:
        _end_forward(clock, before())
        _mark_gradient([*args, *kwargs.values()], clock, own)

    return module.register_forward_pre_hook(at_entry, with_kwargs=True)


def _end_forward(clock: PartClock, part: str) -> None:
    # Blocks run once more in the backward pass where activations are recomputed.
    if not clock.is_backward:
        clock.end_part(part)


def _mark_gradient(values: Any, clock: PartClock, part: str) -> None:
    """End a part of the backward pass when the gradient of a tensor is there."""
    found: Sequence[Any] = values if isinstance(values, list | tuple) else [values]
    for value in found:
        if clock.is_backward or not isinstance(value, Tensor):
            continue
        if value.requires_grad:
            value.register_hook(lambda gradient: clock.end_part(part, True))
            return


class StepTimer(Callback):
    """Time training steps from the end of one to the end of the next.

    The split is made in steps of its own, because its boundaries wait for the device.

    Args:
        device: where the steps run.
        warmup: steps that are not measured.
        steps: whole steps that are.
        watch: gives what marks the parts; see `watch_parts`.
        on_step: called after each step with the number done.
    """

    def __init__(
        self,
        device: torch.device,
        warmup: int,
        steps: int,
        watch: Callable[[PartClock], Any],
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.measured = Measured()
        self.clock = PartClock(device)
        self.total = warmup + steps + SPLIT_STEPS
        self._device, self._warmup, self._steps = device, warmup, steps
        self._watch, self._on_step = watch, on_step
        self._watching: Any = None
        self._done = 0
        self._last = 0.0

    @property
    def is_splitting(self) -> bool:
        """Whether the steps are split by now."""
        return self._watching is not None

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """The batch is there."""
        if self.is_splitting:
            self.clock.end_part("data")

    def on_before_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """The loss is there."""
        if self.is_splitting:
            self.clock.end_part("loss")

    def on_before_backward(self, *args: Any, **kwargs: Any) -> None:
        """The old gradients are gone."""
        if self.is_splitting:
            self.clock.end_part("optimizer")
            self.clock.is_backward = True

    def on_after_backward(self, *args: Any, **kwargs: Any) -> None:
        """The last gradients, those of the embedding, are there."""
        if self.is_splitting:
            self.clock.end_part("embedding")
            self.clock.is_backward = False

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The weights are updated."""
        if self.is_splitting:
            self.clock.end_part("optimizer")
            self.clock.end_step()
        synchronize(self._device)
        now, before = time.perf_counter(), self._last
        self._done += 1
        if self._warmup < self._done <= self._warmup + self._steps:
            self.measured.seconds.append(now - before)
        if self._done == self._warmup and self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        if self._done == self._warmup + self._steps:
            self.measured.note_memory(self._device)
            self._watching = self._watch(self.clock)
            self._watching.__enter__()
        if self._on_step is not None:
            self._on_step(self._done)
        if self.is_splitting:
            self.clock.start()
        self._last = time.perf_counter()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the split, and the marks off the model."""
        self._watching.__exit__(None, None, None)
        self.measured.parts, self.measured.backward = self.clock.medians()
