"""What all figures share: their size and colours, and how bands become a picture.

Figures are built with matplotlib's object interface, which keeps no global state. Bands
are chosen by wavelength, so the same code draws any sensor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import CATEGORY_COLOURS, to_rgb
from spectralgpt.errors import BandError
from spectralgpt.rasters import RasterFile, read_raster
from spectralgpt.sensors import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ERROR_COLOURS = "cividis"
INK = "#1c2329"
HATCH = (1.0, 0.55)
"""Greys of what shows nothing."""
_LEVELS = 255
_STRIPES = 64
"""Along the longer side of a picture."""
_RED_NM, _GREEN_NM, _BLUE_NM, _NIR_NM, _SWIR_NM = 665.0, 560.0, 490.0, 842.0, 1610.0
# A band further away than this shows something else than the colour's name says.
_TOLERANCE_NM = 60.0
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
_SMALLEST_SPAN = 1e-6


def new_figure(width_in: float, height_in: float) -> "Figure":
    """Return an empty figure of this size in inches, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def height_of(picture: NDArray[Any], width_in: float) -> float:
    """Return the height in inches of a picture this wide, no more than its width."""
    height, width = picture.shape[:2]
    return width_in * min(1.0, max(height / width, 0.25))


def category_colours(count: int) -> tuple[str, ...]:
    """Return `count` different colours such as "#0072B2", the safest first."""
    if count <= len(CATEGORY_COLOURS):
        return CATEGORY_COLOURS[:count]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    wheel = colormaps["turbo"]
    return tuple(to_hex(wheel(index / (count - 1))) for index in range(count))


def tidy(axes: "Axes") -> None:
    """Take away the frame's upper and right side and draw a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#d8dcdf", linewidth=0.6)
    axes.set_axisbelow(True)


def hide_ticks(axes: "Axes") -> None:
    """Take away ticks and frame, as for a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_legend(
    figure: Any,
    handles: Sequence[Any],
    most_columns: int,
    place: str = "outside lower center",
) -> float:
    """Draw a legend outside the panels of a figure, or of a part of one.

    Args:
        figure: the figure.
        handles: what is drawn, with labels.
        most_columns: fewer are taken where labels are too long to stand side by side.
        place: as in matplotlib.

    Returns:
        Its height in inches.
    """
    for columns in range(min(len(handles), most_columns), 0, -1):
        # Rows that are equally full.
        even = math.ceil(len(handles) / math.ceil(len(handles) / columns))
        legend = figure.legend(
            handles=handles, loc=place, ncols=even, frameon=False, fontsize=9
        )
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= figure.bbox.width:
            break
        legend.remove()
    return float(extent.height / figure.dpi)


@dataclass(frozen=True)
class _Composite:
    """Bands shown as one picture: three for red, green and blue, or one for grey."""

    name: str
    indices: tuple[int, ...]
    band_names: tuple[str, ...]


@dataclass(frozen=True)
class Stretch:
    """The values shown darkest and brightest, one pair a band: both (C,)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def apply(
        self, pixels: NDArray[np.float32], indices: Sequence[int]
    ) -> NDArray[np.float32]:
        """Turn chosen bands of pixels (C, H, W) into a picture (H, W, 3) of 0..1.

        Args:
            pixels: (C, H, W), in the unit of the stretch.
            indices: three bands for red, green and blue, or one for a grey picture.
        """
        chosen = list(indices)
        low = self.low[chosen, None, None]
        span = np.maximum(self.high[chosen, None, None] - low, _SMALLEST_SPAN)
        channels = np.clip((pixels[chosen] - low) / span, 0, 1).astype(np.float32)
        picture = np.empty((*channels.shape[1:], 3), np.float32)
        picture[...] = np.moveaxis(channels, 0, -1)
        return picture


def choose_composites(bands: Sequence[Band]) -> tuple[_Composite, ...]:
    """Choose what to show of these bands: true colour, false colour and one band.

    Colours that the sensor does not see are left out; the single band is always there,
    in the short-wave infrared where the sensor sees it.

    Raises:
        BandError: there are no bands.
    """
    if not bands:
        raise BandError("there are no bands to choose from: give at least one.")
    wanted = (
        ("true colour", (_RED_NM, _GREEN_NM, _BLUE_NM)),
        ("false colour", (_NIR_NM, _RED_NM, _GREEN_NM)),
    )
    found = []
    for name, wavelengths in wanted:
        indices = [_nearest_band(bands, wanted_nm) for wanted_nm in wavelengths]
        gaps = [
            abs(bands[index].wavelength_nm - wanted_nm)
            for index, wanted_nm in zip(indices, wavelengths, strict=True)
        ]
        if max(gaps) <= _TOLERANCE_NM and len(set(indices)) == len(indices):
            found.append((name, indices))
    single = _nearest_band(bands, _SWIR_NM)
    found.append((f"{bands[single].wavelength_nm:.0f} nm", [single]))
    return tuple(
        _Composite(name, tuple(indices), tuple(bands[index].name for index in indices))
        for name, indices in found
    )


def _nearest_band(bands: Sequence[Band], wavelength_nm: float) -> int:
    distances = [abs(band.wavelength_nm - wavelength_nm) for band in bands]
    return distances.index(min(distances))


def paint_classes(
    classes: NDArray[np.integer[Any]], colours: Sequence[str]
) -> NDArray[np.float32]:
    """Turn class indices (H, W) into colours (H, W, 3), hatched where there is none.

    Args:
        classes: what is negative, or beyond the colours, is no class.
        colours: one a class, such as "#0072B2".
    """
    known = (classes >= 0) & (classes < len(colours))
    table = np.array([to_rgb(colour) for colour in colours]) / _LEVELS
    return hatch(table.astype(np.float32)[np.where(known, classes, 0)], ~known)


def hatch(
    picture: NDArray[np.float32], where: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Hatch a picture (H, W, 3) where it shows nothing; as no class is, nor imagery."""
    rows, columns = np.indices(where.shape)
    width = max(2, max(where.shape) // _STRIPES)
    stripes = (rows + columns) // width % 2
    picture[where] = np.array(HATCH, np.float32)[stripes[where], None]
    return picture


def measure_stretch(
    pixels: NDArray[np.float32], valid: NDArray[np.bool_] | None = None
) -> Stretch:
    """Measure the 2nd and 98th percentile of each band of pixels (C, ...).

    Args:
        pixels: (C, ...), any unit.
        valid: the same shape, false where a pixel holds no data.
    """
    flat = pixels.reshape(len(pixels), -1)
    used = np.isfinite(flat)
    if valid is not None:
        used &= valid.reshape(len(pixels), -1)
    limits = [
        np.percentile(band[keep], (_LOW_PERCENT, _HIGH_PERCENT))
        if keep.any()
        else (0, 1)
        for band, keep in zip(flat, used, strict=True)
    ]
    low, high = np.asarray(limits, dtype=np.float32).T
    return Stretch(low, high)


def paint_bands(
    pixels: NDArray[np.float32], valid: NDArray[np.bool_], bands: Sequence[Band]
) -> NDArray[np.float32]:
    """Paint pixels in their first composite, white where a band of it has no data.

    Args:
        pixels: (C, H, W), any unit.
        valid: the same shape.
        bands: the C bands.

    Returns:
        (H, W, 3), 0..1.
    """
    chosen = list(choose_composites(bands)[0].indices)
    picture = measure_stretch(pixels, valid).apply(pixels, chosen)
    picture[~valid[chosen].all(axis=0)] = 1
    return picture


def read_picture(
    item: RasterFile, bands: Sequence[Band], size: tuple[int, int] | None
) -> tuple[str, NDArray[np.float32]]:
    """Read the bands of a raster's first composite alone, and paint them.

    Args:
        item: the raster.
        bands: of it, to choose from.
        size: rows and columns to thin out to; None reads all pixels.

    Returns:
        The name of the composite, and the picture (H, W, 3), see `paint_bands`.
    """
    composite = choose_composites(bands)[0]
    shown = [bands[index] for index in composite.indices]
    raster = read_raster(item, shown, out_size=size)
    return composite.name, paint_bands(raster.pixels, raster.valid, shown)
