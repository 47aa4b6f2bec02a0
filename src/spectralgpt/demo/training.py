"""The demo's pretraining: the shipped recipe, on its imagery, for the time given."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.demo.imagery import Imagery
from spectralgpt.errors import BandError, ConfigError
from spectralgpt.models.building import build_autoencoder
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.recipes import find_recipe
from spectralgpt.training.configuration import read_config
from spectralgpt.training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = [
    "Speed",
    "demo_config",
    "fit_to_time",
    "measure_speed",
    "run_pretraining",
    "using_threads",
]

_TIMED_CALLS = 4
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
        use_bands=bands,
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
    facts = {"sensor": imagery.strips[0].item.sensor.name} | imagery.stated.facts
    if facts["sensor"].endswith(".yaml"):
        facts["sensor"] = str(Path(facts["sensor"]).absolute())
    content = {
        {"band_pattern": "pattern"}.get(name, name): list(v) if type(v) is tuple else v
        for name, v in facts.items()
    } | {"holdout": "auto"}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return (str(path),)


@dataclass(frozen=True)
class Speed:
    """How fast this machine trains.

    Args:
        threads: threads with which it does so.
        seconds: one optimizer step, reading included.
    """

    threads: int
    seconds: float


def measure_speed(config: PretrainConfig, imagery: Imagery) -> Speed:
    """Time a few training steps with all of torch's threads, and with one.

    On a machine shared with others, or in a container with fewer processors than it
    shows, many threads wait for each other and one alone is faster.

    Args:
        config: the run; one worker reads ahead of it.
        imagery: what it trains on.
    """
    contract = sensor_preprocessing(
        config.data.sensor, config.data.use_bands, image_size=config.data.image_size
    )
    dataset = PretrainingDataset(imagery.items, contract, crops=config.data.crops)
    batch = config.trainer.batch_size
    images = [dataset[index % len(dataset)]["images"] for index in range(batch)]
    reading = _time(lambda: [dataset[index % len(dataset)] for index in range(batch)])
    with torch.random.fork_rng(devices=[]):
        model = build_autoencoder(
            config.model.size,
            image_size=config.data.image_size,
            num_bands=len(contract.bands),
            wavelengths_nm=contract.wavelengths_nm,
        )
    stacked = torch.stack(images)
    generator = torch.Generator().manual_seed(config.seed)

    def step() -> None:
        output = model(stacked, config.masking.ratio, generator=generator)
        output.loss.backward()

    found = []
    for threads in sorted({torch.get_num_threads(), 1}):
        with using_threads(threads):
            step()  # Pays for starting up.
            computing = _time(step)
        # With a core to spare the worker reads meanwhile; else both take turns.
        alone = threads < (os.cpu_count() or 1)
        seconds = max(computing, reading) if alone else computing + reading
        found.append(Speed(threads, seconds))
    return min(found, key=lambda speed: speed.seconds)


def _time(action: Callable[[], object]) -> float:
    """Return the mean wall-clock time of a few calls, seconds."""
    started = time.monotonic()
    for _ in range(_TIMED_CALLS):
        action()
    return (time.monotonic() - started) / _TIMED_CALLS


@contextlib.contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch use this many threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_to_time(
    config: PretrainConfig, seconds: float, minutes: float
) -> PretrainConfig:
    """Set the epochs so that training takes about this long.

    Args:
        config: the run.
        seconds: wall-clock time of one optimizer step.
        minutes: wall-clock time for training alone.

    Raises:
        ConfigError: the recipe does not say how long an epoch is.
    """
    crops = config.data.samples_per_epoch
    if crops is None:
        raise ConfigError("the demo's recipe needs data.samples_per_epoch: set it.")
    per_epoch = crops // config.trainer.batch_size * seconds
    epochs = max(2, round(60 * minutes / per_epoch))
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
