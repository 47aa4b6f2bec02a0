"""Errors of held-out images: those of a run, and those of the stages before it.

What a model forgets as it goes on to other images shows only where the first ones are
scored again.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Sampler

from spectralgpt.data.pretraining import MixedDataset, PretrainingDataset
from spectralgpt.errors import BandError, ConfigError, ShapeError
from spectralgpt.models.objective import Objective
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.tasks.pretraining import PretrainingTask, score_reconstructions
from spectralgpt.training.loading import (
    FixedBatchSampler,
    KeyedDataset,
    SampleKey,
    build_loader,
)
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_data import PretrainingData

_log = logging.getLogger(__name__)
ByName = dict[str, dict[str, float]]
"""Errors as `score_reconstructions` gives them, by data set."""


def load_batches(
    images: MixedDataset, batches: Sampler[list[SampleKey]], workers: int
) -> DataLoader[dict[str, Any]]:
    """Return what reads the images batch by batch."""
    return build_loader(KeyedDataset(images, by_batch=True), batches, workers)


def score_held_out(
    model: Objective,
    config: PretrainConfig,
    held_out: MixedDataset,
    parts: Sequence[Sequence[int]],
) -> ByName:
    """Score held-out images against simple fillers.

    Args:
        model: on the CPU.
        config: how images are masked, and batches made.
        held_out: the images.
        parts: for each of their data sets the indices that count.
    """
    task = PretrainingTask(model, config.masking.ratio, config.masking.style)
    size, seed = config.trainer.batch_size, config.seed
    return {
        name: score_reconstructions(
            task, load_batches(held_out, FixedBatchSampler([part], size, seed), 0)
        )
        for name, part in zip(held_out.names, parts, strict=True)
    }


def score_again(
    model: Objective,
    contract: Preprocessing,
    stages: Mapping[str, tuple[PretrainConfig, PretrainingData]],
) -> ByName:
    """Score a stage's model on what the stages before it held out.

    Images are masked as in the stage that they come from, and scaled as the model says;
    those with other bands than it takes are left out, which is logged.

    Args:
        model: on the CPU.
        contract: of the model.
        stages: configuration and images of each stage before it, by name.

    Returns:
        Errors by stage, or "stage, data set" where a stage has several.
    """
    found: ByName = {}
    for name, (config, data) in stages.items():
        if data.held_out is None:
            continue
        try:
            images = _scaled_by(data.held_out, contract)
            scores = score_held_out(model, config, images, data.scored)
        except (BandError, ConfigError, ShapeError) as error:
            _log.warning("images of stage %r are not scored again: %s", name, error)
            continue
        single = len(scores) == 1
        for part, errors in scores.items():
            if errors:
                found[name if single else f"{name}, {part}"] = errors
    return found


def _scaled_by(images: MixedDataset, contract: Preprocessing) -> MixedDataset:
    """Return the images as another model takes them.

    Raises:
        BandError: it takes other bands.
    """

    def scaled(dataset: PretrainingDataset) -> PretrainingDataset:
        own = dataset.preprocessing
        other = contract.for_bands(own.bands)
        # Bands of one name are not the same on every sensor.
        if other.bands != own.bands:
            raise BandError(
                f"the model takes {', '.join(other.band_names)} of {other.sensor}, "
                f"they are {', '.join(own.band_names)} of {own.sensor}."
            )
        changed = copy.copy(dataset)
        changed.preprocessing = other.for_images(own.image_size)
        return changed

    parts = [scaled(dataset) for dataset in images.datasets]
    return MixedDataset(dict(zip(images.names, parts, strict=True)))
