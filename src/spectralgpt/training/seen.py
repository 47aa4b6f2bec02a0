"""Whether what is scored was trained on: what a checkpoint knows of its images."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from spectralgpt.data.identity import SeenImages
from spectralgpt.data.splits import Located
from spectralgpt.errors import CheckpointError

__all__ = ["count_seen", "describe_seen", "note_seen", "read_seen", "split_settings"]

_log = logging.getLogger(__name__)

_SPLITS = ("train", "val")
_SETTINGS = (
    "split",
    "fractions",
    "block_m",
    "gap_m",
    "num_folds",
    "fold",
    "split_seed",
    "train_fraction",
    "tile_px",
    "eurosat_split",
)
"""What data sets are divided by, as far as they have it."""


def split_settings(extra: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return how the images of a model's training were divided.

    Args:
        extra: what its checkpoint says of it.
        known: settings that the data have.

    Returns:
        Settings by name; empty if the checkpoint does not say.
    """
    config = extra.get("config")
    data = config.get("data") if isinstance(config, Mapping) else None
    if not isinstance(data, Mapping):
        return {}
    return {name: data[name] for name in _SETTINGS if name in data and name in known}


def note_seen(
    chips: Mapping[str, Sequence[Located]], before: Mapping[str, SeenImages]
) -> dict[str, Any]:
    """Note the images of a training for its checkpoint.

    Args:
        chips: those that are learnt from and that choose the weights, by split.
        before: those that the start of the training has seen, by split.
    """
    found = {split: SeenImages.of(chips[split]) for split in _SPLITS}
    return {
        split: (seen.joined(before[split]) if split in before else seen).to_dict()
        for split, seen in found.items()
    }


def read_seen(extra: Mapping[str, Any], name: str) -> dict[str, SeenImages] | None:
    """Return the images that a model was fine-tuned on, by split.

    Args:
        extra: what its checkpoint says of it.
        name: what it is called in messages.

    Returns:
        None if it was fine-tuned and does not say; empty if it was not fine-tuned.

    Raises:
        CheckpointError: what it says is damaged.
    """
    seen = extra.get("seen")
    if seen is None:
        if "class_names" not in extra:
            return {}
        _log.warning(
            "%s does not say which images it was trained on: whether scored images are "
            "among them cannot be checked.",
            name,
        )
        return None
    if not isinstance(seen, Mapping) or set(seen) != set(_SPLITS):
        raise CheckpointError(f"{name}: what it says of its images is damaged.")
    return {split: SeenImages.from_dict(values) for split, values in seen.items()}


def count_seen(
    extra: Mapping[str, Any], name: str, chips: Sequence[Located]
) -> dict[str, int] | None:
    """Count scored images that a model was trained on, or chosen by; warn of them.

    Args:
        extra: what its checkpoint says of it.
        name: what it is called in messages.
        chips: what is scored.

    Returns:
        By split of the training; None if it cannot be told.

    Raises:
        CheckpointError: what the checkpoint says is damaged.
    """
    seen = read_seen(extra, name)
    if seen is None:
        return None
    counts = {split: images.count(chips) for split, images in seen.items()}
    if any(counts.values()):
        _log.warning("%s:%s", name, describe_seen(counts, len(chips)))
    return counts


def describe_seen(counts: Mapping[str, int] | None, images: int) -> str:
    """Say in a sentence, with a blank before, what `count_seen` found; or nothing."""
    if counts is None:
        return " Whether the model was trained on them cannot be told."
    trained, chosen = counts.get("train", 0), counts.get("val", 0)
    if not trained and not chosen:
        return ""
    return (
        f" {trained} of the {images} scored images were trained on and {chosen} chose "
        "the weights: the scores flatter the model. Score it on the test split of its "
        "training, or on other images."
    )
