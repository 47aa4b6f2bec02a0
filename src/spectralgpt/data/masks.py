"""Masks laid over images: codes looked up as class indices, or measured numbers."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt import losses
from spectralgpt.data.samples import MaskFile, Sample, SampleSet, Target
from spectralgpt.errors import DataError, RasterError, SpectralGPTError
from spectralgpt.losses import IGNORE
from spectralgpt.rasters import (
    Align,
    Grid,
    RasterFile,
    Window,
    overlay,
    read_codes,
    read_raster,
)
from spectralgpt.rasters.files import Header, read_header
from spectralgpt.rasters.lookup import Overlay, read_values

logger = logging.getLogger(__name__)
_Numbers = NDArray[np.int64]
_SHOWN = 8
_USED_AS_NODATA = (-9999.0, -99999.0, -32768.0, float(np.finfo(np.float32).min))
"""Numbers that stand for nothing in many files which do not say so."""
_LOOKED_AT = 2**24
"""Most numbers that a target is described by, of each sample those at equal steps."""
_MOST_CODES = 16
"""So few whole numbers, and no others, may be codes of classes."""
_PERCENTS = (1, 20, 40, 50, 60, 80, 99)


def lay_masks(
    paths: Sequence[Path],
    image: RasterFile,
    index: int = 1,
    align: Align = "auto",
    one_a_class: bool = False,
) -> tuple[MaskFile, Header]:
    """Lay the masks of an image over it; reads none of their pixels.

    Args:
        paths: one file of codes, or a file per class in the order of the classes.
        image: what they show, at its first date.
        index: layer of the files, from 1.
        align: see `MaskFile`.
        one_a_class: whether each file shows one class.

    Returns:
        The mask, and the header of the first file.

    Raises:
        RasterError: a file cannot be read, has no such layer, or does not fit.
    """
    masks: list[MaskFile] = []
    headers = [read_header(path) for path in paths]
    grid = image.grid()
    for number, (path, header) in enumerate(zip(paths, headers, strict=True)):
        if index > header.count:
            raise RasterError(
                f"{path} has {header.count} layers, number {index} was asked for. Set "
                "data.mask_index."
            )
        nodata, code = header.nodata[index - 1], number if one_a_class else None
        mask = MaskFile(path, index, header.grid, nodata, align, code)
        masks.append(replace(mask, scale=header.scales[index - 1]))
    for mask in masks:
        _lay_mask(mask, grid, image.name)
    return replace(masks[0], others=tuple(masks[1:])), headers[0]


def _lay_mask(mask: MaskFile, image: Grid, name: str) -> Overlay:
    """Lay one file of a mask over an image."""
    grid = mask.grid or read_header(mask.path).grid
    try:
        return overlay(image, grid, mask.align)
    except RasterError as error:
        raise RasterError(
            f"mask {mask.path} does not fit image {name}: {error}"
        ) from None


def read_target(
    samples: SampleSet, sample: Sample, image: Grid, window: Window
) -> NDArray[Any]:
    """Read class indices, or the numbers of a target, in a window of an image.

    Args:
        samples: what the codes or numbers mean.
        sample: whose mask.
        image: the grid that `window` counts in.
        window: pixels of it.

    Returns:
        (H, W) int64, `IGNORE` where there is no label; for regression float32, NaN
        where there is none.

    Raises:
        DataError: a code is neither a class nor ignored, or a number out of range;
            names it.
        RasterError: the mask cannot be read, or does not fit the image.
    """
    assert sample.mask is not None, sample.name
    if samples.target is not None:
        return _read_target(samples.target, sample.mask, image, window, sample.name)
    codes, known = _read_mask(sample.mask, image, window, sample.name)
    found, positions = np.unique(codes, return_inverse=True)
    labelled = set(np.unique(codes[known]).tolist())
    no_label = {*samples.ignored, sample.mask.nodata} - set(samples.codes)
    unknown = sorted(labelled - set(samples.codes) - no_label)
    if unknown:
        shown = ", ".join(
            f"{code} ({int((codes[known] == code).sum())} px)"
            for code in unknown[:_SHOWN]
        )
        more = ", ..." if len(unknown) > _SHOWN else ""
        names = (
            f"{code} {samples.class_names[i]}" for code, i in samples.codes.items()
        )
        raise DataError(
            f"{sample.mask.path} holds unknown class codes {shown}{more}; known: "
            f"{', '.join(names)}. Add them to data.classes, or to data.ignored."
        )
    table = np.array([samples.codes.get(int(code), IGNORE) for code in found])
    return np.where(known, table[positions].reshape(codes.shape), IGNORE)


def seen_codes(masks: Iterable[MaskFile], ignored: Iterable[int]) -> tuple[int, ...]:
    """Return the codes that occur in masks, sorted, but for nodata and ignored ones.

    Raises:
        RasterError: a mask cannot be read.
    """
    left_out = set(ignored)
    seen: set[int] = set()
    for mask in masks:
        grid = mask.grid or read_header(mask.path).grid
        window = Window(0, 0, grid.height, grid.width)
        # Laid over itself, a mask is read as it is.
        itself = replace(mask, grid=grid, align="shape")
        codes, known = _read_mask(itself, grid, window, str(mask.path))
        found = set(np.unique(codes[known]).tolist())
        seen |= found - left_out - {mask.nodata}
    return tuple(sorted(seen))


def _read_mask(
    mask: MaskFile, image: Grid, window: Window, name: str
) -> tuple[_Numbers, NDArray[np.bool_]]:
    """Return codes (H, W) and whether there is one (H, W)."""
    codes, known = _read_file(mask, image, window, name)
    if mask.stands_for is None:
        return codes, known
    combined = np.zeros(codes.shape, np.int64)
    labelled = np.zeros(codes.shape, np.bool_)
    for file in (mask, *mask.others):
        codes, known = _read_file(file, image, window, name)
        inside = known & (codes != 0) & (codes != file.nodata)
        both = inside & labelled
        if both.any():
            raise DataError(
                f"{file.path}: {int(both.sum())} pixels belong to another class too. "
                "Mend the masks."
            )
        combined[inside] = file.stands_for or 0
        labelled |= inside
    return combined, labelled


def _read_file(
    mask: MaskFile, image: Grid, window: Window, name: str
) -> tuple[_Numbers, NDArray[np.bool_]]:
    rows, columns = _lay_mask(mask, image, name).pixels(window)
    return read_codes(mask.path, mask.index, rows, columns)


def _read_target(
    target: Target, mask: MaskFile, image: Grid, window: Window, name: str
) -> NDArray[np.float32]:
    rows, columns = _lay_mask(mask, image, name).pixels(window)
    numbers, known = read_values(mask.path, mask.index, rows, columns)
    for nodata in (mask.nodata, target.nodata):
        if nodata is not None:
            known &= numbers != nodata
    seen = numbers[known]
    lowest = float(seen.min()) if seen.size else 0.0
    if target.range is None and lowest in _USED_AS_NODATA:
        raise DataError(
            f"{mask.path} holds {lowest:g}, which stands for nothing in many "
            "files: state data.target.nodata, or data.target.range if it is a value."
        )
    own = (target.scale, target.offset)
    scale, offset = (
        stated if given is None else given
        for given, stated in zip(own, mask.scale, strict=True)
    )
    values = np.where(known, numbers.astype(np.float64) * scale + offset, np.nan)
    if target.range is not None:
        low, high = target.range
        slack = (high - low) * np.finfo(np.float32).eps
        beyond = (values < low - slack) | (values > high + slack)
        if beyond.any():
            raise DataError(
                f"{mask.path} holds {values[beyond][0]:g} {target.unit} "
                f"({int(beyond.sum())} px), outside data.target.range {low:g} to "
                f"{high:g}. Mend the mask, or state nodata, scale, offset or range."
            )
    return values.astype(np.float32)


def count_classes(samples: SampleSet) -> dict[str, dict[str, int]]:
    """Images with each label, or labelled pixels, by split and class name.

    Raises:
        DataError: a mask holds an unknown code.
        RasterError: a mask cannot be read.
    """
    counts: dict[str, _Numbers] = {}
    for sample, found in zip(samples.samples, count_samples(samples), strict=True):
        counts[sample.split] = counts.get(sample.split, 0) + found
    return {
        split: dict(zip(samples.class_names, map(int, values), strict=True))
        for split, values in counts.items()
    }


def count_samples(samples: SampleSet) -> list[_Numbers]:
    """Labels, or labelled pixels, of each class, (K,), of each sample.

    Raises:
        DataError: a mask holds an unknown code.
        RasterError: a mask cannot be read.
    """
    return [_count(samples, sample) for sample in samples.samples]


def balanced_class_weights(samples: SampleSet) -> tuple[float, ...]:
    """Weigh classes by the inverse of their labels or pixels.

    Over all of these the mean weight is 1, so the learning rate can stay. A class that
    does not occur weighs nothing.

    Raises:
        DataError: there is no label at all, or a mask holds an unknown code.
    """
    counts = np.sum(count_samples(samples), axis=0)
    if not counts.any():
        what = "labels to balance" if samples.has_labels else "labelled pixel"
        raise DataError(f"{samples.source} has no {what}: classes cannot be weighed.")
    return losses.balanced_class_weights(counts.tolist())


def find_faults(samples: SampleSet) -> tuple[str, ...]:
    """Read everything once and say what is wrong: one message for each bad sample."""
    faults = []
    for sample in samples.samples:
        try:
            for item in sample.items:
                read_raster(item, window=sample.window)
            _count(samples, sample)
        except SpectralGPTError as error:
            faults.append(str(error))
    return tuple(faults)


def describe_target(samples: SampleSet) -> dict[str, float]:
    """Measure the numbers of regression masks, in the target's unit.

    Returns:
        `pixels`, `labelled` (share with a number, 0..1), `mean`, `std`, `least`, `most`
        and percentiles `p1`, `p20`, `p40`, `p50`, `p60`, `p80` and `p99`; only the
        first two where no pixel has a number.

    Raises:
        DataError: a number is out of range.
        RasterError: a mask cannot be read.
    """
    most, pixels, labelled = max(1, _LOOKED_AT // len(samples.samples)), 0, 0
    some = []
    for sample in samples.samples:
        grid = sample.item.grid()
        window = sample.window or Window(0, 0, grid.height, grid.width)
        found = read_target(samples, sample, grid, window)
        values = found[np.isfinite(found)].astype(np.float64)
        pixels, labelled = pixels + found.size, labelled + values.size
        some.append(values[:: max(1, -(-values.size // most))])
    described = {"pixels": float(pixels), "labelled": labelled / max(pixels, 1)}
    if not labelled:
        return described
    every = np.concatenate(some)
    _tell_if_codes(samples, np.unique(every))
    numbers = [every.mean(), every.std(), every.min(), every.max()]
    numbers += np.percentile(every, _PERCENTS).tolist()
    names = ["mean", "std", "least", "most", *(f"p{each}" for each in _PERCENTS)]
    return described | dict(zip(names, map(float, numbers), strict=True))


def _tell_if_codes(samples: SampleSet, values: NDArray[np.float64]) -> None:
    """Warn where numbers look like codes of classes: a few whole ones."""
    assert samples.target is not None
    if len(values) <= _MOST_CODES and not (values % 1).any():
        logger.warning(
            "%s: all masks hold a few whole numbers only (%s): if these are codes of "
            "classes, set data.task to segmentation; as %s they are learned in %s.",
            samples.source,
            ", ".join(f"{value:g}" for value in values),
            samples.target.name,
            samples.target.unit,
        )


def _count(samples: SampleSet, sample: Sample) -> _Numbers:
    if samples.has_labels:
        return np.bincount(np.array(sample.labels, int), minlength=samples.num_classes)
    grid = sample.item.grid()
    window = sample.window or Window(0, 0, grid.height, grid.width)
    target = read_target(samples, sample, grid, window)
    if samples.target is not None:
        return np.array([np.isfinite(target).sum()])
    return np.bincount(target[target >= 0], minlength=samples.num_classes)
