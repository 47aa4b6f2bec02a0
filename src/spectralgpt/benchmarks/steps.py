"""The steps that are measured, run by the code that users run."""

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from spectralgpt.benchmarks.config import BenchmarkConfig
from spectralgpt.benchmarks.flops import (
    count_classifier,
    count_encoder,
    count_pretraining,
)
from spectralgpt.benchmarks.inputs import (
    RandomImages,
    pretrain_config,
    random_contract,
    trainer_config,
)
from spectralgpt.benchmarks.machine import synchronize
from spectralgpt.benchmarks.timing import (
    SPLIT_STEPS,
    Measured,
    PartClock,
    StepTimer,
    watch_parts,
)
from spectralgpt.models.building import build_encoder, quantize_encoder, weight_bytes
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.tokens import TokenGrid
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.tasks.classification import ClassificationTask
from spectralgpt.tasks.pretraining import PretrainingTask
from spectralgpt.training.fit import RunFolder, TrainerConfig, fit
from spectralgpt.training.loading import (
    EpochBatchSampler,
    KeyedDataset,
    build_loader,
)
from spectralgpt.training.mixing import KeyedMixture
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_data import load_pretraining_data
from spectralgpt.training.pretrain_model import build_model
from spectralgpt.training.pretrain_stage import build_batches, build_training_module
from spectralgpt.training.transfer import TransferConfig, start_encoder

__all__ = ["measure_steps", "total_steps"]

OnStep = Callable[[int], None]
_CLASSES = 10  # Of EuroSAT; their number is next to nothing in time.


def total_steps(config: BenchmarkConfig) -> int:
    """Count all steps that a measurement runs."""
    return config.warmup + config.steps + (SPLIT_STEPS if config.mode != "data" else 0)


def measure_steps(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep | None = None
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
    return _measure_loading(config, device, on_step), None


@dataclass(frozen=True)
class _Images:
    """What pretraining runs on: samples, their contract and the shares of data sets."""

    samples: KeyedDataset
    contract: Preprocessing
    sizes: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)
    has_series: bool = False


def _find_images(config: BenchmarkConfig, run: PretrainConfig) -> _Images:
    if config.data is None:
        contract = random_contract(config)
        images = RandomImages(contract, config.batch_size)
        return _Images(KeyedDataset(images), contract, (len(images),))
    data = load_pretraining_data(run)
    train = data.train
    return _Images(
        KeyedMixture(train),
        data.preprocessing,
        train.sizes,
        train.weights,
        data.has_series,
    )


def _measure_pretraining(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep | None
) -> tuple[Measured, int]:
    run = pretrain_config(config, device, total_steps(config))
    images = _find_images(config, run)
    grid = _grid_of(images.contract)
    model = build_model(run, images.contract, images.has_series)
    task = PretrainingTask(model, run.masking.ratio, run.masking.style)
    batches = build_batches(run, images.sizes, images.weights)
    timer = StepTimer(
        device,
        config.warmup,
        config.steps,
        lambda clock: watch_parts(clock, model.encoder, model.decoder, "decoder"),
        on_step,
    )
    _fit(
        build_training_module(run, task, batches),
        build_loader(images.samples, batches, config.workers),
        run.trainer,
        timer,
    )
    flops = count_pretraining(model.config, grid, config.mask_ratio)
    return timer.measured, flops.training


def _fit(
    module: TrainingModule,
    loader: DataLoader[dict[str, Any]],
    trainer: TrainerConfig,
    timer: StepTimer,
) -> None:
    with tempfile.TemporaryDirectory(prefix="spectralgpt-benchmark-") as folder:
        fit(module, loader, None, trainer, RunFolder(Path(folder)), callbacks=[timer])


def _grid_of(contract: Preprocessing) -> TokenGrid:
    """Return the token grid of a contract's images; raises if they cannot be cut."""
    size = contract.image_size
    return TokenGrid(
        len(contract.bands), size, size, contract.patch_size, contract.bands_per_token
    )


def _measure_finetuning(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep | None
) -> tuple[Measured, int]:
    contract = random_contract(config)
    grid = _grid_of(contract)
    run = _transfer_config(config, device)
    model = ClassificationModel(
        start_encoder(_random_encoder(config, contract), run), _CLASSES
    )
    names = [f"class {number}" for number in range(_CLASSES)]
    images = _LabelledImages(contract, config.batch_size)
    batches = EpochBatchSampler(
        len(images), total_steps(config) * config.batch_size, config.batch_size, 1, 0
    )
    module = TrainingModule(
        ClassificationTask(model, names, "single-label"),
        run.optimizer,
        run.trainer.epochs,
        run.effective_batch,
        batches,
    )
    timer = StepTimer(
        device,
        config.warmup,
        config.steps,
        lambda clock: watch_parts(clock, model.encoder, model.head, "head"),
        on_step,
    )
    _fit(module, build_loader(images, batches, 0), run.trainer, timer)
    return timer.measured, count_classifier(
        model.encoder.config, grid, _CLASSES
    ).training


def _transfer_config(config: BenchmarkConfig, device: torch.device) -> TransferConfig:
    usual = TransferConfig(model=config.model)
    return replace(
        usual,
        optimizer=replace(usual.optimizer, warmup_epochs=0),
        trainer=trainer_config(config, device),
    )


class _LabelledImages(RandomImages):
    """Random images with classes, as `LabelledDataset` gives them."""

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {
            "image": self.images[index],
            "target": torch.tensor(index % _CLASSES),
        }


def _random_encoder(
    config: BenchmarkConfig, contract: Preprocessing
) -> SpectralEncoder:
    return build_encoder(
        config.model,
        image_size=contract.image_size,
        num_bands=len(contract.bands),
        wavelengths_nm=contract.wavelengths_nm,
    )


def _measure_inference(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep | None
) -> tuple[Measured, int]:
    contract = random_contract(config)
    grid = _grid_of(contract)
    encoder = _random_encoder(config, contract).to(device).eval()
    quantize_encoder(encoder, config.quantize)
    images = RandomImages(contract, config.batch_size).images.to(device)
    clock, measured = PartClock(device), Measured()

    @torch.inference_mode()
    def step() -> None:
        with _precision(config.precision, device):
            encoder(images)

    for number in range(config.warmup + config.steps):
        seconds = _time(step, device)
        if number >= config.warmup:
            measured.seconds.append(seconds)
        _report(on_step, number + 1)
    measured.note_memory(device)
    with watch_parts(clock, encoder, None):
        for number in range(SPLIT_STEPS):
            clock.start()
            step()
            clock.end_part("encoder")
            clock.end_step()
            _report(on_step, config.warmup + config.steps + number + 1)
    measured.parts, _ = clock.medians()
    measured.weights = weight_bytes(encoder)
    return measured, count_encoder(encoder.config, grid).forward


def _precision(name: str, device: torch.device) -> AbstractContextManager[Any]:
    if name == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _measure_loading(
    config: BenchmarkConfig, device: torch.device, on_step: OnStep | None
) -> Measured:
    run = pretrain_config(config, device, total_steps(config))
    images = _find_images(config, run)
    batches = build_batches(run, images.sizes, images.weights)
    loader = iter(build_loader(images.samples, batches, config.workers))
    measured = Measured()
    for number in range(total_steps(config)):
        seconds = _time(lambda: next(loader), device)
        if number >= config.warmup:
            measured.seconds.append(seconds)
        _report(on_step, number + 1)
    measured.note_memory(device)
    return measured


def _time(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def _report(on_step: OnStep | None, done: int) -> None:
    if on_step is not None:
        on_step(done)
