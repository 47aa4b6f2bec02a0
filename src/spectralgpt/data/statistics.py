"""Statistics of reflectance by band, measured on a sample of a data set."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spectralgpt.data.crops import own_bands, part_on
from spectralgpt.data.samples import SampleSet
from spectralgpt.errors import DataError, SpectralGPTError
from spectralgpt.preprocessing import BandStatistics, Preprocessing
from spectralgpt.rasters import OpenFiles, RasterFile, Window, read_raster
from spectralgpt.resampling import present
from spectralgpt.sensors import Band

_LOG = logging.getLogger(__name__)

_LOW_PERCENT, _HIGH_PERCENT = 1.0, 99.0
_LOOK_PX = 64
_MOST_LOOKS = 16
# Windows of images that are held against what a model was trained on, at most.
_FAR = 2.0
_LEAST = 1e-4
# Values of all bands held at once (256 MiB): windows of many bands are thinned.
_MOST_VALUES = 2**26


def band_statistics(
    items: Sequence[RasterFile],
    bands: Sequence[Band],
    source: str,
    num_windows: int = 256,
    window_px: int = 96,
    seed: int = 0,
    regions: Sequence[Window] | None = None,
    allow_missing: bool = False,
) -> BandStatistics:
    """Measure reflectance by band on windows drawn over the images, by their size.

    Args:
        items: images.
        bands: which bands.
        source: what the images are, kept with the numbers.
        num_windows: windows drawn.
        window_px: their side in px; smaller images are taken whole. With many bands not
            all pixels of a window count, so that memory stays bounded.
        seed: of the draw.
        regions: the part of each image that is measured; None measures all of it.
        allow_missing: take images that lack some of the bands.

    Returns:
        Statistics; NaN for bands that are absent in resampled images.

    Raises:
        BandError: an image lacks a band.
        DataError: a band has no valid pixel.
    """
    if not items:
        raise DataError("no images to measure band statistics on.")
    files = OpenFiles()
    rng = np.random.default_rng(seed)
    own = [own_bands(item, bands, allow_missing) for item in items]
    parts = regions or [
        Window(0, 0, *item.shape(list(found.values())))
        for item, found in zip(items, own, strict=True)
    ]
    areas = np.array([part.height * part.width for part in parts], dtype=np.float64)
    seen: dict[str, list[npt.NDArray[np.float32]]] = {band.name: [] for band in bands}
    for number in rng.choice(len(items), size=num_windows, p=areas / areas.sum()):
        part, found = parts[number], own[number]
        height, width = min(window_px, part.height), min(window_px, part.width)
        row = part.row + int(rng.integers(part.height - height + 1))
        column = part.column + int(rng.integers(part.width - width + 1))
        window = Window(row, column, height, width)
        raster = read_raster(items[number], list(found.values()), window, files=files)
        step = -(-height * width * len(bands) * num_windows // _MOST_VALUES)
        for name, pixels, valid in zip(found, raster.pixels, raster.valid, strict=True):
            seen[name].append(pixels[valid][::step])
    files.close()
    empty = np.empty(0, np.float32)
    joined = {name: np.concatenate([empty, *values]) for name, values in seen.items()}
    had = {bands[at].name for item in items for at in present(item, bands)}
    nothing = np.array([np.nan], np.float32)
    joined |= {name: nothing for name in joined.keys() - had}
    return _summarise(joined, source)


def sample_statistics(
    samples: SampleSet, bands: Sequence[Band], num_windows: int = 256, seed: int = 0
) -> BandStatistics:
    """Measure reflectance by band on samples, all dates alike, and nothing beside them.

    Args:
        samples: usually those of train.
        bands: which bands.
        num_windows: windows drawn.
        seed: of the draw.

    Raises:
        BandError: an image lacks a band.
        DataError: a band has no valid pixel.
        ShapeError: a part has no whole pixels in these bands.
    """
    parts = [(item, each.window) for each in samples.samples for item in each.items]
    regions = [
        part_on(item, window, list(own_bands(item, bands).values()))[1]
        for item, window in parts
    ]
    splits = {each.split for each in samples.samples} - {""}
    source = samples.source
    if len(splits) == 1:
        source = f"{splits.pop()} split of {source}"
    items = [item for item, _ in parts]
    return band_statistics(
        items, bands, source, num_windows, seed=seed, regions=regions
    )


def _summarise(
    named: dict[str, npt.NDArray[np.float32]], source: str
) -> BandStatistics:
    empty = [name for name, values in named.items() if not values.size]
    if empty:
        raise DataError(f"{source}: no valid pixel in band {', '.join(empty)}.")

    def percentiles(percent: float) -> dict[str, float]:
        return {name: float(np.percentile(v, percent)) for name, v in named.items()}

    return BandStatistics(
        mean={name: float(v.mean(dtype=float)) for name, v in named.items()},
        std={name: float(v.std(dtype=float)) for name, v in named.items()},
        low=percentiles(_LOW_PERCENT),
        high=percentiles(_HIGH_PERCENT),
        source=source,
    )


def tell_if_far(
    items: Sequence[RasterFile], contract: Preprocessing, name: str
) -> bool:
    """Warn where reflectance lies far from that of a model's training images.

    Another quantification or offset moves all bands; so may a scene of water alone.

    Args:
        items: images, some windows of which are looked at.
        contract: of the model; says nothing if it has not `seen` any images.
        name: of the images.

    Returns:
        Whether it warned.
    """
    seen = contract.seen
    if seen is None:
        return False
    try:
        area = sum(h * w for h, w in (item.shape() for item in items))
        looks = min(_MOST_LOOKS, 1 + area // _LOOK_PX**2)
        found = band_statistics(items, contract.bands, name, looks, _LOOK_PX)
    except SpectralGPTError:
        # Whoever reads the images says it better.
        return False
    # NaN is of bands that images lacked.
    had = {name for name in found.std if found.std[name] >= 0}
    new = [
        n for n in contract.band_names if n in had and math.isnan(seen.std.get(n, 0))
    ]
    if new:
        _LOG.warning(
            "%s has %s, which the images that the model was trained on lacked: expect "
            "worse results than for images of their sensor.",
            name,
            ", ".join(new),
        )
    both = {n for n, std in seen.std.items() if n in seen.mean and std >= 0} & had
    names = [band.name for band in contract.bands if band.name in both]
    if not names or not _is_far(found, seen, names):
        return False
    one, other = (np.median([each.mean[n] for n in names]) for each in (found, seen))
    _LOG.warning(
        "%s has a median reflectance of %.3g over the bands, the images that the model "
        "was trained on %.3g: check quantification, offset and unit, or expect wrong "
        "results.",
        name,
        one,
        other,
    )
    return True


def _is_far(found: BandStatistics, seen: BandStatistics, names: Sequence[str]) -> bool:
    """Whether most bands are shifted, or darker or brighter in mean and spread."""
    std = np.array([max(seen.std[name], _LEAST) for name in names])
    mean = np.array([max(seen.mean[name], _LEAST) for name in names])
    shift = [found.mean[name] - seen.mean[name] for name in names]
    stretch = float(np.median([found.std[name] for name in names] / std))
    level = float(np.median([found.mean[name] for name in names] / mean))
    is_scaled = max(stretch, level) < 1 / _FAR or min(stretch, level) > _FAR
    return is_scaled or float(np.median(np.abs(shift / std))) > _FAR
