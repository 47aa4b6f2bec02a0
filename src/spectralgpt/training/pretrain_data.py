"""From the data part of a configuration to data sets with their contracts."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from spectralgpt.checkpoints import load_model
from spectralgpt.data.crops import find_parts
from spectralgpt.data.identity import sample_data
from spectralgpt.data.listings import Index
from spectralgpt.data.packing import is_pack
from spectralgpt.data.pretraining import MixedDataset, PretrainingDataset
from spectralgpt.data.series import Series, items_of
from spectralgpt.data.sources import Source, find_items, find_series, read_source
from spectralgpt.data.statistics import band_statistics
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.models.tokens import TokenGrid
from spectralgpt.preprocessing import (
    BandStatistics,
    Preprocessing,
    sensor_preprocessing,
)
from spectralgpt.rasters import RasterFile, glob_folder
from spectralgpt.sensors import Band
from spectralgpt.training.pretrain_config import DataConfig, PretrainConfig, datasets_of

_log = logging.getLogger(__name__)
_BAND_SUBSETS = 0.7
"""Of runs that mix sensors; measured by `tools/unseen_sensor.py`."""
_Images = Sequence[RasterFile] | Sequence[Series]
_Image = TypeVar("_Image", RasterFile, Series)


@dataclass(frozen=True)
class PretrainingData:
    """What a run or stage trains on, and what it holds out.

    Args:
        preprocessing: the contract of the primary data set, the others' within.
        train: samples for training.
        held_out: fixed crops for scoring; None if nothing is held out.
        scored: for each held-out data set the indices of the crops that are scored.
        has_series: whether a data set's samples are series of dates.
        sample: tells the images from others.
    """

    preprocessing: Preprocessing
    train: MixedDataset
    held_out: MixedDataset | None
    scored: tuple[tuple[int, ...], ...]
    has_series: bool = False
    sample: str = ""


def load_pretraining_data(config: PretrainConfig) -> PretrainingData:
    """Find the images of a run or stage and settle their contracts.

    Raises:
        ConfigError: the configuration is wrong.
        DataError: there are no usable images.
    """
    datasets = datasets_of(config.data)
    settings = [data for _, data, _ in datasets]
    images = [_find_images(data) for data in settings]
    items = [items_of(found) for found in images]
    contracts = _contracts(config, settings, items)
    joined = _join_contracts(contracts)
    train, held_out, numbers, scored, first = {}, {}, [], [], 0
    for number, (name, data, _) in enumerate(datasets):
        subsets = data.band_subsets
        if subsets is None:
            is_spectral = joined.others and config.model.tokenizer != "linear"
            subsets = _BAND_SUBSETS if is_spectral else 0.0
        both = (name, data, images[number], contracts[number], subsets)
        train[name] = _dataset(*both, split="train")
        if data.crops.val_share:
            held_out[name] = _dataset(*both, split="val")
            numbers.append(number)
            count = len(held_out[name])
            indices = range(first, first + count)
            scored.append(tuple(spread(indices, data.max_held_out)))
            first += count
    has_series = any(each.num_dates is not None for each in train.values())
    return PretrainingData(
        joined,
        MixedDataset(train, [weight for *_, weight in datasets]),
        MixedDataset(held_out, numbers=numbers) if held_out else None,
        tuple(scored),
        has_series,
        sample_data([item for found in items for item in found]),
    )


def _find_images(data: DataConfig) -> _Images:
    """Find the images that a data set names, or series of them where it says so."""
    sources = _sources(data)
    if any(source.series for source in sources):
        return _share(find_series(sources, data.root, data.max_bad_share), data)
    return _share(find_items(sources, data.root, data.max_bad_share), data)


def _share(images: Sequence[_Image], data: DataConfig) -> list[_Image]:
    """Keep a share of the images, chosen by their names alone, in their order."""
    first = [items_of([image])[0].name for image in images]
    names = [hashlib.sha256(name.encode()).hexdigest() for name in first]
    count = max(1, round(data.image_share * len(images)))
    kept = set(sorted(range(len(images)), key=names.__getitem__)[:count])
    return [image for number, image in enumerate(images) if number in kept]


def _sources(data: DataConfig) -> list[Source]:
    sources = [read_source(path) for path in _descriptions(data.sources)]
    if not sources and not data.index and is_pack(data.root):
        sources = [read_source(data.root)]
        if stated := [name for name in data.facts if name != "sensor"]:
            raise ConfigError(
                f"data.{stated[0]} is of files in one folder, and {data.root} is a "
                "pack, which says it itself. Leave it out."
            )
    if not sources:
        index = Index(data.index, data.index_column) if data.index else None
        sources = [Source(name="images", index=index, **data.facts)]
    return sources


def spread(indices: Sequence[int], most: int) -> list[int]:
    """Choose up to `most` of them, evenly from first to last."""
    places = np.linspace(0, len(indices) - 1, min(most, len(indices)))
    return [indices[round(place)] for place in places]


def _descriptions(sources: Sequence[str]) -> list[str]:
    paths: list[str] = []
    for source in sources:
        if is_pack(source) or not Path(source).is_dir():
            paths.append(source)
            continue
        found = [str(path) for path in glob_folder(Path(source), "*.yaml")]
        if not found:
            raise ConfigError(
                f"data.sources: {source} holds no .yaml description and is no pack."
            )
        paths += found
    return paths


def _dataset(
    name: str,
    data: DataConfig,
    images: _Images,
    preprocessing: Preprocessing,
    band_subsets: float,
    split: str,
) -> PretrainingDataset:
    try:
        return PretrainingDataset(
            images,
            preprocessing,
            split,
            data.crops,
            data.max_bad_share,
            data.allow_missing_bands,
            data.token_budget,
            data.memory_mb,
            band_subsets,
        )
    except (ConfigError, DataError) as error:
        raise type(error)(f"data set {name!r}: {error}") from None


def _contracts(
    config: PretrainConfig,
    settings: Sequence[DataConfig],
    items: Sequence[Sequence[RasterFile]],
) -> list[Preprocessing]:
    """Return the contract of each data set; those of one sensor share statistics."""
    plain = [plain_contract(config, data) for data in settings]
    contracts = []
    stated_by = cache(lambda weights: load_model(weights).preprocessing)
    for data, own in zip(settings, plain, strict=True):
        if data.scaling == "image-minmax":
            contracts.append(own)
            continue
        if data.statistics is not None:
            known = _known_statistics(data, stated_by(data.statistics), own.bands)
            contracts.append(replace(own, scaling=data.scaling, statistics=known))
            continue
        same = [n for n, other in enumerate(plain) if other.sensor == own.sensor]
        statistics = _measure(
            [settings[n] for n in same],
            [items[n] for n in same],
            [plain[n] for n in same],
            config.seed,
        )
        contracts.append(replace(own, scaling=data.scaling, statistics=statistics))
    return contracts


def _known_statistics(
    data: DataConfig, contract: Preprocessing | None, bands: Sequence[Band]
) -> BandStatistics:
    """Return the statistics that some weights scale these bands by.

    Raises:
        ConfigError: they know none of these bands, or scale otherwise.
    """
    known = None if contract is None else contract.for_bands(bands)
    fits = known is not None and known.knows(bands) and known.scaling == data.scaling
    if known is None or known.statistics is None or not fits:
        scaling = "no scaling" if known is None else f"scaling {known.scaling}"
        raise ConfigError(
            f"data.statistics: {data.statistics} states {scaling}, and not that of "
            f"scaling {data.scaling} of {', '.join(band.name for band in bands)}. Name "
            "weights of these bands and this scaling, or leave it out."
        )
    return known.statistics


def _join_contracts(contracts: Sequence[Preprocessing]) -> Preprocessing:
    """Return one contract for several sensors: the first, with the rest as its others.

    Of data sets of one sensor the first one's image size is kept.
    """
    by_sensor: dict[str, Preprocessing] = {}
    for contract in contracts:
        known = by_sensor.setdefault(contract.sensor, contract)
        for name in ("band_names", "scaling", "statistics"):
            one, two = getattr(known, name), getattr(contract, name)
            if one != two:
                raise ConfigError(
                    f"two data sets of sensor {contract.sensor} differ in {name}: "
                    f"{one} and {two}. Give them the same."
                )
    first, *rest = by_sensor.values()
    return replace(first, others=tuple(rest))


def plain_contract(config: PretrainConfig, data: DataConfig) -> Preprocessing:
    """Return the contract before statistics are measured, scaled per image."""
    contract = sensor_preprocessing(
        data.sensor,
        data.use_bands,
        data.exclude_bands,
        image_size=data.image_size,
        patch_size=config.model.patch_size,
        bands_per_token=config.model.bands_per_token,
    )
    size = data.image_size
    # Raises if the images cannot be cut into tokens.
    TokenGrid(
        len(contract.bands), size, size, contract.patch_size, contract.bands_per_token
    )
    return contract


def _measure(
    settings: Sequence[DataConfig],
    items: Sequence[Sequence[RasterFile]],
    contracts: Sequence[Preprocessing],
    seed: int,
) -> BandStatistics:
    """Measure band statistics on the training parts of the data sets of one sensor."""
    images: list[RasterFile] = []
    regions = []
    for data, found, contract in zip(settings, items, contracts, strict=True):
        parts, _ = find_parts(
            found, contract, "train", data.crops, data.allow_missing_bands
        )
        images += [found[part.item] for part in parts]
        regions += [part.window for part in parts]
    roots = ", ".join(dict.fromkeys(str(data.root) for data in settings))
    return band_statistics(
        images,
        contracts[0].bands,
        f"the training parts of {len(images)} images under {roots}",
        seed=seed,
        regions=regions,
        allow_missing=any(data.allow_missing_bands for data in settings),
    )
