"""Numbers as colours, and colours as PNG: all pictures that the page shows."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import to_rgb
from spectralgpt.errors import BandError
from spectralgpt.rasters.grid import Grid
from spectralgpt.rasters.lookup import shown_grid
from spectralgpt.rasters.maps import MapClass
from spectralgpt.reports.style import (
    Stretch,
    choose_composites,
    measure_stretch,
)
from spectralgpt.sensors import Band

Picture = NDArray[np.uint8]
"""(H, W, 4): red, green, blue and how opaque."""
ReadBands = Callable[
    [Sequence[Band], Grid], tuple[NDArray[np.float32], NDArray[np.bool_]]
]
"""Returns pixels and validity, both (C, H, W), of bands under a grid."""
_LEVELS = 255
_THIN_PX = 512
_LEGEND_STEPS = 9
_SMALLEST_SPAN = 1e-30
_COLOURS_A_PICTURE = (1, 3)


def thin_grid(base: Grid, most: int = _THIN_PX) -> Grid:
    """Return a grid of at most `most` pixels a side that covers all of another."""
    side = max(base.height, base.width)
    return shown_grid(base, 0, 0, -(-side // most), min(most, side))


class BandPictures:
    """Bands of one place as pictures, each band stretched alike everywhere.

    Args:
        bands: that there are.
        base: the grid that they lie on.
        read: reads bands under a part of the base; may be called by several threads.
    """

    def __init__(self, bands: Sequence[Band], base: Grid, read: ReadBands) -> None:
        self.bands, self.base, self.read = tuple(bands), base, read
        self.composites = choose_composites(self.bands)
        self._limits: dict[str, tuple[float, float]] = {}

    def choose(self, names: Sequence[str]) -> list[Band]:
        """Return the bands of these names.

        Raises:
            BandError: one is not there, or they are not one or three.
        """
        known = {band.name: band for band in self.bands}
        wrong = [name for name in names if name not in known]
        if wrong:
            raise BandError(f"no band {wrong[0][:40]!r} (there: {', '.join(known)}).")
        if len(names) not in _COLOURS_A_PICTURE:
            raise BandError(f"a picture is of one band or three, not {len(names)}.")
        return [known[name] for name in names]

    def stretch(self, bands: Sequence[Band]) -> Stretch:
        """Return the darkest and brightest values shown, measured once a band.

        Raises:
            RasterError: the bands cannot be read.
        """
        new = [band for band in dict.fromkeys(bands) if band.name not in self._limits]
        if new:
            pixels, valid = self.read(new, thin_grid(self.base))
            found = measure_stretch(pixels, valid)
            for band, *limits in zip(new, found.low, found.high, strict=True):
                self._limits[band.name] = float(limits[0]), float(limits[1])
        low, high = zip(*(self._limits[band.name] for band in bands), strict=True)
        return Stretch(np.array(low, np.float32), np.array(high, np.float32))

    def draw(self, names: Sequence[str], shown: Grid) -> Picture:
        """Draw bands by their names.

        Raises:
            BandError: see `choose`.
            RasterError: the bands cannot be read.
        """
        bands = self.choose(names)
        pixels, valid = self.read(list(dict.fromkeys(bands)), shown)
        # The same band may be shown in several colours.
        order = [list(dict.fromkeys(bands)).index(band) for band in bands]
        return draw_bands(pixels[order], valid[order], self.stretch(bands))


def draw_bands(
    pixels: NDArray[np.float32], valid: NDArray[np.bool_], stretch: Stretch
) -> Picture:
    """Draw one band in grey or three in colour; clear where one holds no data.

    Args:
        pixels: (1 or 3, H, W).
        valid: the same shape.
        stretch: of these bands.
    """
    indices = tuple(range(len(pixels)))
    shown = stretch.apply(pixels, indices)
    rgb = np.broadcast_to(shown, (*shown.shape[:2], 3))
    return _join(rgb, np.asarray(valid.all(axis=0)))


def draw_measures(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    limits: tuple[float, float],
    colours: str,
) -> Picture:
    """Draw numbers (H, W) by a colour map of matplotlib, clear where invalid."""
    from matplotlib import colormaps

    span = max(limits[1] - limits[0], _SMALLEST_SPAN)
    share = np.clip((np.where(valid, values, limits[0]) - limits[0]) / span, 0, 1)
    return _join(colormaps[colours](share)[..., :3], valid)


def draw_classes(
    codes: NDArray[np.generic], valid: NDArray[np.bool_], classes: Sequence[MapClass]
) -> Picture:
    """Draw class codes (H, W) in their colours, clear where there is no class."""
    picture = np.zeros((*codes.shape, 4), np.uint8)
    for each in classes:
        picture[valid & (codes == each.code)] = (*to_rgb(str(each.colour)), _LEVELS)
    return picture


def legend_colours(colours: str) -> list[str]:
    """Return colours such as "#440154" along a colour map, the lowest first."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    steps = np.linspace(0, 1, _LEGEND_STEPS)
    return [to_hex(colour) for colour in colormaps[colours](steps)]


def to_png(picture: Picture) -> bytes:
    """Encode a picture."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture), "RGBA").save(
        file, "PNG", compress_level=1
    )
    return file.getvalue()


def _join(rgb: NDArray[np.floating], is_shown: NDArray[np.bool_]) -> Picture:
    """Join colours (H, W, 3) of 0..1 with whether a pixel is shown."""
    alpha = np.where(is_shown, 1.0, 0.0)[..., None]
    shown = np.concatenate([rgb, alpha], axis=-1) * _LEVELS
    return np.rint(shown).astype(np.uint8)
