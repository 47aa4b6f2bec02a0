"""Statistics of reflectance by band, measured on a sample of a data set."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spectralgpt.errors import DataError
from spectralgpt.preprocessing import BandStatistics
from spectralgpt.rasters import OpenFiles, RasterItem, Window, read_raster
from spectralgpt.sensors import Band

__all__ = ["band_statistics"]

_LOW_PERCENT, _HIGH_PERCENT = 1.0, 99.0


def band_statistics(
    items: Sequence[RasterItem],
    bands: Sequence[Band],
    source: str,
    num_windows: int = 256,
    window_px: int = 96,
    seed: int = 0,
) -> BandStatistics:
    """Measure reflectance by band on windows drawn over the images, by their size.

    Args:
        items: images.
        bands: which bands.
        source: what the images are, kept with the numbers.
        num_windows: windows drawn.
        window_px: their side in px; smaller images are taken whole.
        seed: of the draw.

    Raises:
        BandError: an image lacks a band.
        DataError: a band has no valid pixel.
    """
    if not items:
        raise DataError("no images to measure band statistics on.")
    files = OpenFiles()
    rng = np.random.default_rng(seed)
    shapes = [item.shape(bands) for item in items]
    areas = np.array([height * width for height, width in shapes], dtype=np.float64)
    seen: list[list[npt.NDArray[np.float32]]] = [[] for _ in bands]
    for number in rng.choice(len(items), size=num_windows, p=areas / areas.sum()):
        height, width = shapes[number]
        side = min(window_px, height), min(window_px, width)
        row = int(rng.integers(height - side[0] + 1))
        column = int(rng.integers(width - side[1] + 1))
        window = Window(row, column, *side)
        raster = read_raster(items[number], bands, window, files=files)
        for values, pixels, valid in zip(
            seen, raster.pixels, raster.valid, strict=True
        ):
            values.append(pixels[valid])
    files.close()
    return _summarise(bands, [np.concatenate(values) for values in seen], source)


def _summarise(
    bands: Sequence[Band], values: Sequence[npt.NDArray[np.float32]], source: str
) -> BandStatistics:
    empty = [band.name for band, v in zip(bands, values, strict=True) if not v.size]
    if empty:
        raise DataError(f"{source}: no valid pixel in band {', '.join(empty)}.")
    named = {band.name: v.astype(float) for band, v in zip(bands, values, strict=True)}

    def percentiles(percent: float) -> dict[str, float]:
        return {name: float(np.percentile(v, percent)) for name, v in named.items()}

    return BandStatistics(
        mean={name: float(v.mean()) for name, v in named.items()},
        std={name: float(v.std()) for name, v in named.items()},
        low=percentiles(_LOW_PERCENT),
        high=percentiles(_HIGH_PERCENT),
        source=source,
    )
