"""The steps that are measured, run by the code that users run, and clocks on them.

Whole steps are timed first; then some are split into parts, in steps of their own,
because the boundaries of parts wait for the device.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spectralgpt.benchmarks.settings import BenchmarkConfig, count_flops
from spectralgpt.building import (
    build_encoder,
    model_config,
    quantize_encoder,
    weight_bytes,
)
from spectralgpt.data.crops import CropConfig
from spectralgpt.errors import require
from spectralgpt.models.cpu import peak_rss_bytes
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.tokens import TokenGrid
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.sensors import Band
from spectralgpt.tasks.classification import ClassificationTask
from spectralgpt.tasks.pretraining import PretrainingTask
from spectralgpt.training.fit import fit
from spectralgpt.training.loading import EpochBatchSampler, KeyedDataset, build_loader
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from spectralgpt.training.pretrain_config import (
    DataConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
)
from spectralgpt.training.pretrain_data import load_pretraining_data
from spectralgpt.training.pretrain_models import build_model
from spectralgpt.training.pretraining import build_batches
from spectralgpt.training.run_folder import RunFolder
from spectralgpt.training.transfer import TransferConfig, start_encoder

require("lightning")
from lightning.pytorch import Callback  # noqa: E402

OnStep = Callable[[int], None]
_SPLIT_STEPS = 5
_RANGE_NM = (400.0, 2500.0)
_GSD_M = 10.0
_CLASSES = 10  # Of EuroSAT; their number is next to nothing in time.


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


def total_steps(config: BenchmarkConfig) -> int:
    """Count all steps that a measurement runs."""
    return config.warmup + config.steps + _SPLIT_STEPS * (config.mode != "data")


def measure_steps(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep = lambda done: None
) -> tuple[Measured, int | None]:
    """Run and time the steps.

    Args:
        config: which.
        device: where.
        on_step: called after each step with the number done.

    Returns:
        What was measured, and the counted operations of one image; None for loading.

    Raises:
        ConfigError: images that cannot be cut, or no such data set.
        DataError: the data set has no usable images.
    """
    if config.mode == "pretrain":
        return _measure_pretraining(config, device, on_step)
    if config.mode == "finetune":
        return _measure_finetuning(config, device, on_step)
    if config.mode == "inference":
        return _measure_inference(config, device, on_step)
    run = _pretrain_config(config, device, total_steps(config))
    batches = iter(_find_images(config, run)[0])
    return _time_steps(config, device, lambda: next(batches), on_step), None


def _find_images(
    config: BenchmarkConfig, run: PretrainConfig
) -> tuple[DataLoader[dict[str, Any]], EpochBatchSampler, Preprocessing, bool]:
    """Return what pretraining runs on, its contract, and whether it has series."""
    if config.data is None:
        contract, has_series = _random_contract(config), False
        samples = KeyedDataset(_RandomImages(contract, config.batch_size))
        batches = build_batches(run, [len(samples)], [1.0])
    else:
        data = load_pretraining_data(run)
        contract, has_series = data.preprocessing, data.has_series
        samples = KeyedDataset(data.train, by_batch=True)
        batches = build_batches(run, data.train.sizes, data.train.weights)
    loader = build_loader(samples, batches, config.workers)
    return loader, batches, contract, has_series


def _random_contract(config: BenchmarkConfig) -> Preprocessing:
    """Return a contract for random images: bands evenly over the solar spectrum."""
    centres = np.linspace(*_RANGE_NM, config.num_bands + 1)[:-1]
    width = (_RANGE_NM[1] - _RANGE_NM[0]) / config.num_bands
    bands = tuple(
        Band(f"R{number:03d}", float(centre), width, _GSD_M)
        for number, centre in enumerate(centres, start=1)
    )
    return Preprocessing("random", bands, image_size=config.image_size)


class _RandomImages:
    """Images as `PretrainingDataset` gives them: uniform in 0..1, made once."""

    def __init__(self, contract: Preprocessing, count: int) -> None:
        size = contract.image_size
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(
            count, len(contract.bands), size, size, generator=generator
        )
        self.bands = torch.tensor(contract.band_rows)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Give one image; nothing is drawn anew."""
        image = self.images[index]
        return {
            "images": image,
            "valid": torch.ones_like(image, dtype=torch.bool),
            "bands": self.bands,
            "gsd_m": torch.tensor(_GSD_M),
            "item": index,
        }


def _trainer_config(config: BenchmarkConfig, device: torch.device) -> TrainerConfig:
    """Return one epoch that writes nothing but its metrics."""
    return TrainerConfig(
        epochs=1,
        batch_size=config.batch_size,
        precision=config.precision,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        workers=config.workers,
        checkpoint_every_steps=0,
        export_every_epochs=0,
        validate_every_epochs=1,  # There is nothing to validate on.
        recompute_activations=config.recompute_activations,
        compile=config.compile,
    )


def _pretrain_config(
    config: BenchmarkConfig, device: torch.device, steps: int
) -> PretrainConfig:
    """Return the configuration of the pretraining run that is measured."""
    root, sources = config.data_root, (str(config.data),) if config.data else ()
    if config.data and config.data.is_dir() and not any(config.data.glob("*.yaml")):
        # A folder of images needs no description.
        root, sources = config.data, ()
    return PretrainConfig(
        model=ModelConfig(cast(Any, config.model), decoder=config.decoder),
        data=DataConfig(
            root=root,
            sources=sources,
            sensor=config.sensor,
            exclude_bands=config.exclude_bands,
            image_size=config.image_size,
            crops=CropConfig(val_share=0),
        ),
        masking=MaskingConfig(config.mask_ratio),
        optimizer=OptimizerConfig(warmup_epochs=0),
        trainer=_trainer_config(config, device),
        steps=steps,
    )


def _grid_of(contract: Preprocessing) -> TokenGrid:
    """Return the token grid of a contract's images; raises if they cannot be cut."""
    size = contract.image_size
    return TokenGrid(
        len(contract.bands), size, size, contract.patch_size, contract.bands_per_token
    )


def _measure_pretraining(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep
) -> tuple[Measured, int]:
    run = _pretrain_config(config, device, total_steps(config))
    loader, batches, contract, has_series = _find_images(config, run)
    grid = _grid_of(contract)
    model = build_model(run, contract, has_series)
    assert isinstance(model, MaskedAutoencoder), "what is measured"
    task = PretrainingTask(model, run.masking.ratio, run.masking.style)
    module = TrainingModule(task, run.optimizer, run.trainer, batches)
    marks = (model.encoder, model.decoder, "decoder")
    timer = _StepTimer(device, config, marks, on_step)
    measured = _fit(module, loader, run.trainer, timer)
    return measured, count_flops(model_config(model), grid, config.mask_ratio)[1]


def _measure_finetuning(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep
) -> tuple[Measured, int]:
    contract = _random_contract(config)
    grid = _grid_of(contract)
    usual = TransferConfig(model=config.model)
    optimizer = replace(usual.optimizer, warmup_epochs=0)
    trainer = _trainer_config(config, device)
    run = replace(usual, optimizer=optimizer, trainer=trainer)
    encoder = start_encoder(_random_encoder(config, contract), run)
    model = ClassificationModel(encoder, _CLASSES)
    names = [f"class {number}" for number in range(_CLASSES)]
    images = _LabelledImages(contract, config.batch_size)
    samples = total_steps(config) * config.batch_size
    batches = EpochBatchSampler(len(images), samples, config.batch_size, 1, 0)
    module = TrainingModule(
        ClassificationTask(model, names, "single-label"), optimizer, trainer, batches
    )
    timer = _StepTimer(device, config, (encoder, model.head, "head"), on_step)
    measured = _fit(module, build_loader(images, batches, 0), trainer, timer)
    return measured, count_flops(model_config(model), grid)[1]


class _LabelledImages(_RandomImages):
    """Random images with classes, as `LabelledDataset` gives them."""

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {"image": self.images[index], "target": torch.tensor(index % _CLASSES)}


def _random_encoder(config: BenchmarkConfig, contract: Preprocessing) -> Encoder:
    return build_encoder(
        config.model,
        image_size=contract.image_size,
        num_bands=len(contract.bands),
        wavelengths_nm=contract.wavelengths_nm,
    )


def _fit(
    module: TrainingModule,
    loader: DataLoader[dict[str, Any]],
    trainer: TrainerConfig,
    timer: "_StepTimer",
) -> Measured:
    with tempfile.TemporaryDirectory(prefix="spectralgpt-benchmark-") as folder:
        fit(module, loader, None, trainer, RunFolder(Path(folder)), callbacks=[timer])
    return timer.measured


def _measure_inference(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep
) -> tuple[Measured, int]:
    contract = _random_contract(config)
    grid = _grid_of(contract)
    encoder = _random_encoder(config, contract).to(device).eval()
    quantize_encoder(encoder, config.quantize)
    images = _RandomImages(contract, config.batch_size).images.to(device)

    @torch.inference_mode()
    def step() -> None:
        is_half = config.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16) if is_half else nullcontext():
            encoder(images)

    measured, clock = _time_steps(config, device, step, on_step), _PartClock(device)
    with _watch_parts(clock, encoder, None):
        for number in range(_SPLIT_STEPS):
            clock.start()
            step()
            clock.end_part("encoder")
            clock.end_step()
            on_step(config.warmup + config.steps + number + 1)
    measured.parts, _ = clock.medians()
    measured.weights = weight_bytes(encoder)
    return measured, count_flops(model_config(encoder), grid)[0]


def _time_steps(
    config: BenchmarkConfig,
    device: torch.device,
    step: Callable[[], object],
    on_step: OnStep,
) -> Measured:
    """Time whole steps that are nothing but a call."""
    measured = Measured()
    for number in range(config.warmup + config.steps):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        if number >= config.warmup:
            measured.seconds.append(time.perf_counter() - start)
        on_step(number + 1)
    measured.note_memory(device)
    return measured


class _PartClock:
    """Split steps into parts that follow each other without gaps."""

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
        """Give the time since the last boundary to a part, or to gradients of it."""
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

        def median(part: str, *kinds: bool) -> float:
            return statistics.median(
                sum(step.get((part, kind), 0.0) for kind in kinds)
                for step in self._steps
            )

        every = dict.fromkeys(key for step in self._steps for key in step)
        both = {part: median(part, False, True) for part, _ in every}
        return both, {part: median(part, True) for part, is_back in every if is_back}


@contextmanager
def _watch_parts(
    clock: _PartClock, encoder: Encoder, head: nn.Module | None, name: str = ""
) -> Iterator[None]:
    """Mark where the encoder begins, and where the head begins and ends.

    What comes before the encoder's blocks (masking, cutting, embedding) is the part
    `embedding`; what follows the head is the caller's. A model that runs a part without
    calling its module has that part's time in the next one. The head may be called more
    than once per step, for some images each time, with its gradients taken in between.
    """
    block: Any = encoder.blocks[0]
    hooks = [_mark_inputs(block, clock, lambda: "embedding", "encoder")]
    if head is not None:

        def before() -> str:
            was_reached, clock.has_reached_head = clock.has_reached_head, True
            # What follows its gradients is their sum over the parts of a batch.
            return name if was_reached else "encoder"

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            _end_forward(clock, name)
            _mark_gradient(output, clock, "loss")

        hooks.append(_mark_inputs(head, clock, before, name))
        hooks.append(head.register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mark_inputs(
    module: nn.Module, clock: _PartClock, before: Callable[[], str], own: str
) -> Any:
    def at_entry(module: nn.Module, args: Any, kwargs: Any) -> None:
        _end_forward(clock, before())
        _mark_gradient([*args, *kwargs.values()], clock, own)

    return module.register_forward_pre_hook(at_entry, with_kwargs=True)


def _end_forward(clock: _PartClock, part: str) -> None:
    # Blocks run once more in the backward pass where activations are recomputed.
    if not clock.is_backward:
        clock.end_part(part)


def _mark_gradient(values: Any, clock: _PartClock, part: str) -> None:
    """End a part of the backward pass when the gradient of a tensor is there."""
    found: Sequence[Any] = values if isinstance(values, list | tuple) else [values]
    for value in found:
        if clock.is_backward or not isinstance(value, Tensor):
            continue
        if value.requires_grad:
            value.register_hook(lambda gradient: clock.end_part(part, True))
            return


class _StepTimer(Callback):
    """Time training steps, each from the end of the one before; then split some."""

    def __init__(
        self,
        device: torch.device,
        config: BenchmarkConfig,
        marks: tuple[Encoder, nn.Module, str],
        on_step: OnStep,
    ) -> None:
        self.measured = Measured()
        self._clock = _PartClock(device)
        self._device, self._on_step = device, on_step
        self._warmup, self._whole = config.warmup, config.warmup + config.steps
        self._watching = _watch_parts(self._clock, *marks)
        self._done = 0
        self._last = 0.0

    # The clock ends no part before the whole steps are over and it is started.

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """The batch is there."""
        self._clock.end_part("data")

    def on_before_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """The loss is there."""
        self._clock.end_part("loss")

    def on_before_backward(self, *args: Any, **kwargs: Any) -> None:
        """The old gradients are gone."""
        self._clock.end_part("optimizer")
        self._clock.is_backward = True

    def on_after_backward(self, *args: Any, **kwargs: Any) -> None:
        """The last gradients, those of the embedding, are there."""
        self._clock.end_part("embedding")
        self._clock.is_backward = False

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The weights are updated."""
        self._clock.end_part("optimizer")
        self._clock.end_step()
        synchronize(self._device)
        now, before = time.perf_counter(), self._last
        self._done += 1
        if self._warmup < self._done <= self._whole:
            self.measured.seconds.append(now - before)
        if self._done == self._warmup and self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        if self._done == self._whole:
            self.measured.note_memory(self._device)
            self._watching.__enter__()
        self._on_step(self._done)
        if self._done >= self._whole:
            self._clock.start()
        self._last = time.perf_counter()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the split, and the marks off the model."""
        self._watching.__exit__(None, None, None)
        self.measured.parts, self.measured.backward = self._clock.medians()
