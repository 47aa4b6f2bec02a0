"""The demo's pretraining: the shipped recipe, on its imagery, for the time given."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.demo.imagery import Imagery
from spectralgpt.errors import BandError
from spectralgpt.models.sizes import build_autoencoder
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.recipes import find_recipe
from spectralgpt.training.configuration import read_config
from spectralgpt.training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["demo_config", "fit_to_time", "run_pretraining"]

_TIMED_STEPS = 3
_WARMUP_SHARE = 0.1
_CIRRUS_NM = (1360.0, 1400.0)


def demo_config(imagery: Imagery, folder: Path, seed: int) -> PretrainConfig:
    """Return the recipe `demo` on this imagery.

    Args:
        imagery: what is trained on.
        folder: gets the descriptions of the images, so that the run can be repeated.
        seed: of weights, order, crops and masks.

    Raises:
        BandError: the images have no band in common.
    """
    recipe = read_config(find_recipe("demo"), PretrainConfig)
    bands = _common_bands(imagery)
    data = replace(
        recipe.data,
        root=imagery.root,
        sources=_write_sources(imagery, folder),
        sensor=imagery.strips[0].item.sensor.name,
        bands=bands,
        exclude_bands=(),
    )
    return replace(recipe, data=data, seed=seed)


def _common_bands(imagery: Imagery) -> tuple[str, ...]:
    """Name the bands of the mapped scene that see the ground.

    Between 1360 and 1400 nm water vapour hides it, and a cirrus band is empty.
    """
    low, high = _CIRRUS_NM
    bands = [
        band.name
        for band in imagery.strips[0].item.bands
        if not low <= band.wavelength_nm <= high
    ]
    if not bands:
        raise BandError(f"{imagery.title} has no band that sees the ground.")
    return tuple(bands)


def _write_sources(imagery: Imagery, folder: Path) -> tuple[str, ...]:
    """Write descriptions for the run; those that ship with the package stay there."""
    if imagery.descriptions:
        return tuple(str(path) for path in imagery.descriptions)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "imagery.yaml"
    content = {"sensor": imagery.strips[0].item.sensor.name, "holdout": "auto"}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return (str(path),)


def fit_to_time(
    config: PretrainConfig, imagery: Imagery, minutes: float
) -> PretrainConfig:
    """Set the epochs so that training takes about this long on this machine.

    A few optimizer steps are timed first, reading included.

    Args:
        config: the run.
        imagery: what it trains on.
        minutes: wall-clock time for training alone.
    """
    contract = sensor_preprocessing(
        config.data.sensor, config.data.bands, image_size=config.data.image_size
    )
    dataset = PretrainingDataset(imagery.items, contract, crops=config.data.crops)
    with torch.random.fork_rng(devices=[]):
        model = build_autoencoder(
            config.model.size,
            image_size=config.data.image_size,
            num_bands=len(contract.bands),
            wavelengths_nm=contract.wavelengths_nm,
        )
        started = 0.0
        for step in range(_TIMED_STEPS + 1):
            if step == 1:
                started = time.monotonic()  # The first step pays for starting up.
            samples = [
                dataset[index % len(dataset)]["images"]
                for index in range(config.trainer.batch_size)
            ]
            model(torch.stack(samples), config.masking.ratio).loss.backward()
        seconds = (time.monotonic() - started) / _TIMED_STEPS
    batch = config.trainer.batch_size
    steps = (config.data.samples_per_epoch or len(dataset)) // batch
    epochs = max(2, round(60 * minutes / (seconds * steps)))
    return replace(
        config,
        trainer=replace(config.trainer, epochs=epochs),
        optimizer=replace(config.optimizer, warmup_epochs=_WARMUP_SHARE * epochs),
    )


def run_pretraining(
    config: PretrainConfig, folder: Path, callbacks: Sequence["Callback"] = ()
) -> Path:
    """Pretrain in `folder`, replacing an earlier run of the demo there."""
    from spectralgpt.training.pretraining import pretrain

    return pretrain(config, folder, overwrite=True, callbacks=callbacks)
