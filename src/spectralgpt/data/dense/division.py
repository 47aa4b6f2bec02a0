"""Splitting images with masks: whole places, blocks on the ground, or folds."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.dense.chips import DenseSet
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.counts import count_chips, count_places
from spectralgpt.data.overlaps import report_overlaps
from spectralgpt.data.splits import (
    Fractions,
    assign_blocks,
    chip_centres,
    find_apart,
    keep_share,
    refuse_untaught,
    report_missing,
    spread_classes,
    wanted_splits,
)
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import Window

__all__ = ["cut_tiles", "divide_dense"]

logger = logging.getLogger(__name__)

_FEWEST_FOLDS = 3  # One to test, one to choose weights by, one to learn from.


def divide_dense(dense: DenseSet, config: DenseDataConfig, seed: int) -> DenseSet:
    """Split as configured and keep the configured share of training places.

    Classes that a split lacks, and chips of one split that show ground of another, are
    said aloud.

    Args:
        dense: chips with the splits that the archive states.
        config: how to split.
        seed: of the split and of the choice of training places.

    Raises:
        DataError: the chips cannot be split that way, or train would learn nothing of
            a class.
        ConfigError: options of the split make no sense.
    """
    divided = _split(dense, config, seed)
    report_overlaps(divided.chips, divided.source)
    return _keep_fraction(divided, config.train_fraction, seed)


def cut_tiles(dense: DenseSet, tile_px: int) -> DenseSet:
    """Cut each image into square tiles; those at the far edges are smaller."""
    chips = []
    for chip in dense.chips:
        height, width = chip.item.shape()
        whole = chip.window or Window(0, 0, height, width)
        for row in range(whole.row, whole.row + whole.height, tile_px):
            for column in range(whole.column, whole.column + whole.width, tile_px):
                tile = Window(
                    row,
                    column,
                    min(tile_px, whole.row + whole.height - row),
                    min(tile_px, whole.column + whole.width - column),
                )
                chips.append(replace(chip, window=tile))
    return replace(dense, chips=tuple(chips))


def _split(dense: DenseSet, config: DenseDataConfig, seed: int) -> DenseSet:
    given = {chip.split for chip in dense.chips}
    if config.split == "blocks":
        return _split_blocks(dense, config, seed)
    if config.split == "folds":
        return _split_folds(dense, config, seed)
    if config.split == "stratified" or (config.split == "auto" and given == {""}):
        return _split_stratified(dense, config.fractions, seed)
    if "" in given:
        without = sum(chip.split == "" for chip in dense.chips)
        raise DataError(
            f"{dense.source}: {without} of {len(dense.chips)} images have no split. "
            "Give all of them one, or set data.split to stratified, blocks or folds."
        )
    return dense if "val" in given else _val_from_train(dense, config, seed)


def _split_blocks(dense: DenseSet, config: DenseDataConfig, seed: int) -> DenseSet:
    centres = chip_centres(dense.chips)
    held = [_classes_in(counts) for counts in count_chips(dense)]
    splits = assign_blocks(
        centres, held, config.fractions, config.block_m, seed, dense.source
    )
    if config.gap_m > 0:
        apart = find_apart(centres, splits, config.gap_m)
        splits = [
            name if kept else "" for name, kept in zip(splits, apart, strict=True)
        ]
    # Classes that only lie in a gap are missed, too.
    _check_classes(splits, held, dense, config.fractions)
    chips = zip(dense.chips, splits, strict=True)
    return replace(
        dense, chips=tuple(replace(chip, split=name) for chip, name in chips if name)
    )


def _split_folds(dense: DenseSet, config: DenseDataConfig, seed: int) -> DenseSet:
    places = dense.places
    count = len(places) if config.num_folds is None else config.num_folds
    if not _FEWEST_FOLDS <= count <= len(places) or config.fold >= count:
        raise ConfigError(
            f"{dense.source} has {len(places)} places: data.num_folds must be in "
            f"{_FEWEST_FOLDS}..{len(places)} and data.fold below it (found: {count} "
            f"and {config.fold})."
        )
    order = list(places)
    if config.num_folds is not None:
        np.random.default_rng(seed).shuffle(order)
    fold_of = {place: rank % count for rank, place in enumerate(order)}
    named = {config.fold: "test", (config.fold + 1) % count: "val"}
    split_of = {place: named.get(fold, "train") for place, fold in fold_of.items()}
    counts = count_places(dense)
    report_missing(
        [split_of[place] for place in places],
        [_classes_in(counts[place]) for place in places],
        dense.class_names,
        dense.source,
    )
    return _with_splits(dense, split_of)


def _split_stratified(dense: DenseSet, fractions: Fractions, seed: int) -> DenseSet:
    """Deal whole places out so that the splits have similar shares of rare classes.

    Places are put in the order of their share of the class that is rarest overall, and
    each run of neighbours in that order is dealt to all splits in random order.
    """
    wanted = wanted_splits(fractions)
    places = dense.places
    if len(places) < len(wanted):
        raise DataError(
            f"{dense.source} has {len(places)} places, too few for the splits "
            f"{', '.join(wanted)}. Set data.tile_px and data.split blocks, or other "
            "data.fractions."
        )
    counts = count_places(dense)
    total = np.sum(list(counts.values()), axis=0)
    rarest = int(np.argmin(np.where(total > 0, total, np.inf)))
    rng = np.random.default_rng(seed)
    shares = {p: counts[p][rarest] / max(1, counts[p].sum()) for p in places}
    # Equal shares, such as none at all, come in random order.
    ranks = rng.permutation(len(places))
    order = sorted(places, key=lambda p: (shares[p], ranks[places.index(p)]))
    dealt = _deal(order, wanted, fractions, rng)
    held = [_classes_in(counts[place]) for place in places]
    splits = spread_classes([dealt[place] for place in places], held, wanted)
    _check_classes(splits, held, dense, fractions)
    return _with_splits(dense, dict(zip(places, splits, strict=True)))


def _deal(
    order: Sequence[str],
    wanted: Sequence[str],
    fractions: Fractions,
    rng: np.random.Generator,
) -> dict[str, str]:
    """Deal places out in order, each split at its own pace."""
    total = len(order)
    left = {name: max(1, round(fractions.of(name) * total)) for name in wanted}
    left[wanted[0]] += total - sum(left.values())
    quota = dict(left)
    run = math.ceil(1 / min(fractions.of(name) for name in wanted))
    assigned: dict[str, str] = {}
    for start in range(0, total, run):
        for place in rng.permutation(np.array(order[start : start + run], object)):
            name = max(wanted, key=lambda name: left[name] / quota[name])
            assigned[str(place)] = name
            left[name] -= 1
    return assigned


def _val_from_train(dense: DenseSet, config: DenseDataConfig, seed: int) -> DenseSet:
    """Take a val split out of train, so that test never chooses a checkpoint."""
    share = config.fractions.val
    logger.warning(
        "%s has no val split: %.0f %% of the places of train are held out as val.",
        dense.source,
        share * 100,
    )
    train = dense.select("train")
    divided = _split_stratified(train, Fractions(1 - share, share, 0), seed)
    rest = tuple(chip for chip in dense.chips if chip.split != "train")
    return replace(dense, chips=divided.chips + rest)


def _keep_fraction(dense: DenseSet, fraction: float, seed: int) -> DenseSet:
    """Keep a share of the places of train, and of each class one place at the least.

    Smaller shares lie inside larger ones.
    """
    if fraction == 1.0:
        return dense
    train = dense.select("train")
    counts = count_places(train)
    places = train.places
    held = [_classes_in(counts[place]) for place in places]
    rng = np.random.default_rng(seed)
    chosen = keep_share([range(len(places))], held, fraction, rng)
    kept = {places[number] for number in chosen}
    return replace(
        dense,
        chips=tuple(
            chip for chip in dense.chips if chip.split != "train" or chip.place in kept
        ),
    )


def _classes_in(counts: NDArray[np.int64]) -> frozenset[int]:
    return frozenset(np.flatnonzero(counts).tolist())


def _check_classes(
    splits: Sequence[str],
    held: Sequence[frozenset[int]],
    dense: DenseSet,
    fractions: Fractions,
) -> None:
    """Refuse a split that leaves train nothing of a class; name what others lack."""
    refuse_untaught(splits, held, dense.class_names, dense.source, fractions)
    report_missing(splits, held, dense.class_names, dense.source)


def _with_splits(dense: DenseSet, splits: Mapping[str, str]) -> DenseSet:
    chips = (replace(chip, split=splits[chip.place]) for chip in dense.chips)
    return replace(dense, chips=tuple(chips))
