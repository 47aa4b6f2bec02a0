"""Pictures of what the masked autoencoder saw, hid and rebuilt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import ShapeError
from spectralgpt.reports.composites import (
    Composite,
    Stretch,
    choose_composites,
    measure_stretch,
)
from spectralgpt.reports.style import ERROR_COLOURS, hide_ticks, new_figure, tidy
from spectralgpt.sensors import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Reconstruction",
    "draw_spectrum",
    "error_picture",
    "plot_reconstruction",
    "plot_spectra",
    "show_picture",
    "varied_pixels",
    "visible_picture",
]

_HIDDEN_GREY = 0.5
_SPECTRA = 4
_INK = "#1c2329"
_MARKER_PT, _SMALL_MARKER_PT = 6.0, 2.4
# Above this, a spectrum is a curve rather than a row of points.
_MANY_BANDS = 40
_ENOUGH = 0.9
_TITLES = ("input", "visible to the model", "rebuilt", "error where hidden")


@dataclass(frozen=True)
class Reconstruction:
    """One image before and after the masked autoencoder.

    Args:
        image: (C, H, W), in any unit.
        rebuilt: (C, H, W), the prediction for all tokens, in the same unit.
        is_masked: bool (C, H, W), true where the model did not see the pixel.
        bands: the C bands.
        name: where the image comes from.
        unit: of `image`, for the axes.
        valid: bool (C, H, W), false where a pixel holds no data and is left blank; None
            if all do.

    Raises:
        ShapeError: the arrays and the bands do not fit each other.
    """

    image: NDArray[np.float32]
    rebuilt: NDArray[np.float32]
    is_masked: NDArray[np.bool_]
    bands: tuple[Band, ...]
    name: str
    unit: str = "scaled reflectance"
    valid: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Check that pixels, predictions, masks and bands fit each other."""
        shapes = {self.image.shape, self.rebuilt.shape, self.is_masked.shape}
        if self.valid is not None:
            shapes.add(self.valid.shape)
        if len(shapes) > 1 or self.image.ndim != 3:
            raise ShapeError(
                f"reconstruction of {self.name}: found shapes {sorted(shapes)}; image, "
                "rebuilt and is_masked must all be (bands, rows, columns)."
            )
        if len(self.bands) != len(self.image):
            raise ShapeError(
                f"reconstruction of {self.name}: {len(self.bands)} bands are named, "
                f"the image has {len(self.image)}."
            )

    @property
    def pasted(self) -> NDArray[np.float32]:
        """The image with only its masked pixels replaced by the prediction."""
        return np.where(self.is_masked, self.rebuilt, self.image)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Where the model had something to predict: hidden pixels that hold data."""
        return self.is_masked if self.valid is None else self.is_masked & self.valid

    def is_blank(self, indices: Sequence[int]) -> NDArray[np.bool_]:
        """Where any of these bands holds no data: (H, W)."""
        if self.valid is None:
            return np.zeros(self.image.shape[1:], dtype=bool)
        return np.logical_not(self.valid[list(indices)].all(axis=0))


def visible_picture(
    reconstruction: Reconstruction, composite: Composite, stretch: Stretch
) -> NDArray[np.float32]:
    """Return the composite with every hidden band of every pixel at mid grey.

    A pixel is plain grey only where all bands of the composite are hidden; where some
    are visible they keep their values, and the tint says so. (H, W, 1 or 3).
    """
    picture = stretch.apply(reconstruction.image, composite)
    hidden = reconstruction.is_masked[list(composite.indices)]
    return np.where(np.moveaxis(hidden, 0, -1), np.float32(_HIDDEN_GREY), picture)


def error_picture(
    reconstruction: Reconstruction, composite: Composite
) -> NDArray[np.float32]:
    """Return the mean absolute error over the hidden bands of the composite: (H, W).

    NaN where all its bands are visible: there was nothing to predict.
    """
    chosen = list(composite.indices)
    hidden = reconstruction.counted[chosen]
    error = np.abs(reconstruction.rebuilt[chosen] - reconstruction.image[chosen])
    counts = hidden.sum(axis=0)
    sums = np.where(hidden, error, 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan).astype(np.float32)


def plot_reconstruction(
    reconstruction: Reconstruction, stretch: Stretch | None = None
) -> "Figure":
    """Draw one image: a row a composite; input, visible part, rebuilt and error.

    Args:
        reconstruction: the image and its prediction.
        stretch: values shown darkest and brightest; None measures them on the image.
            Input and rebuilt always share it.
    """
    stretch = stretch or measure_stretch(reconstruction.image, reconstruction.valid)
    composites = choose_composites(reconstruction.bands)
    figure = new_figure(9.2, 2.05 * len(composites) + 0.6)
    grid = figure.subplots(len(composites), len(_TITLES), squeeze=False)
    errors = [error_picture(reconstruction, composite) for composite in composites]
    highest = _highest(errors)
    for row, composite, error in zip(grid, composites, errors, strict=True):
        pictures = (
            stretch.apply(reconstruction.image, composite),
            visible_picture(reconstruction, composite, stretch),
            stretch.apply(reconstruction.pasted, composite),
        )
        for axes, picture in zip(row, pictures, strict=False):
            picture[reconstruction.is_blank(composite.indices)] = 1.0
            show_picture(axes, picture)
        shown = row[-1].imshow(error, cmap=ERROR_COLOURS, vmin=0, vmax=highest)
        row[-1].set_facecolor("#d9d9d9")
        for axes in row:
            hide_ticks(axes)
        names = ", ".join(composite.band_names)
        row[0].set_ylabel(f"{composite.name}\n{names}", fontsize=9.5)
    for axes, title in zip(grid[0], _TITLES, strict=True):
        axes.set_title(title, fontsize=10.5)
    bar = figure.colorbar(shown, ax=grid[:, -1].tolist(), shrink=0.8, pad=0.03)
    bar.set_label(f"absolute error ({reconstruction.unit})", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(reconstruction.name, fontsize=11.5, x=0.01, ha="left")
    return figure


def _highest(errors: Sequence[NDArray[np.float32]]) -> float:
    known = np.concatenate([error[np.isfinite(error)] for error in errors])
    return float(np.percentile(known, 99)) if known.size else 1.0


def show_picture(axes: "Axes", picture: NDArray[np.float32]) -> None:
    """Draw a picture (H, W, 1 or 3) of 0..1, in grey if it has one channel."""
    if picture.shape[-1] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(picture)


def plot_spectra(
    reconstruction: Reconstruction, pixels: Sequence[tuple[int, int]] | None = None
) -> "Figure":
    """Draw spectra of some pixels, measured and rebuilt, over wavelength.

    Args:
        reconstruction: the image and its prediction.
        pixels: (row, column) of each; None takes four spread over the image's
            brightness.
    """
    pixels = list(pixels or varied_pixels(reconstruction))
    figure = new_figure(9.2, 2.9 * ((len(pixels) + 1) // 2))
    grid = figure.subplots((len(pixels) + 1) // 2, 2, squeeze=False, sharex=True)
    for axes, (row, column) in zip(grid.flat, pixels, strict=False):
        draw_spectrum(axes, reconstruction, row, column)
    for axes in list(grid.flat)[len(pixels) :]:
        axes.set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def varied_pixels(reconstruction: Reconstruction) -> list[tuple[int, int]]:
    """Pick pixels at evenly spaced ranks of mean brightness, darkest to brightest.

    Pixels that hold data in far fewer bands than others are not picked.
    """
    brightness = reconstruction.image.mean(axis=0)
    order = np.argsort(brightness, axis=None)
    if reconstruction.valid is not None:
        count = reconstruction.valid.sum(axis=0).ravel()
        order = order[count[order] >= _ENOUGH * count.max()]
    ranks = np.linspace(0.02, 0.98, _SPECTRA) * (order.size - 1)
    found = np.unravel_index(order[ranks.astype(int)], brightness.shape)
    return [(int(row), int(column)) for row, column in zip(*found, strict=True)]


def draw_spectrum(
    axes: "Axes", reconstruction: Reconstruction, row: int, column: int
) -> None:
    """Draw the spectrum of one pixel, measured and rebuilt, over wavelength."""
    order = np.argsort([band.wavelength_nm for band in reconstruction.bands])
    wavelengths = np.array([reconstruction.bands[at].wavelength_nm for at in order])
    true = reconstruction.image[order, row, column]
    if reconstruction.valid is not None:
        true = np.where(reconstruction.valid[order, row, column], true, np.nan)
    rebuilt = reconstruction.rebuilt[order, row, column]
    hidden = reconstruction.counted[order, row, column]
    size = _MARKER_PT if len(order) <= _MANY_BANDS else _SMALL_MARKER_PT
    axes.plot(wavelengths, true, color=_INK, linewidth=1.3, label="measured")
    axes.plot(
        wavelengths,
        np.where(hidden, true, np.nan),
        color=_INK,
        linestyle="",
        marker="o",
        markersize=size,
        markerfacecolor="white",
        markeredgewidth=size / _MARKER_PT,
        label="measured, hidden from the model",
    )
    axes.plot(wavelengths[~hidden], true[~hidden], "o", color=_INK, markersize=size)
    axes.plot(
        wavelengths,
        np.where(hidden, rebuilt, np.nan),
        color="#D55E00",
        linewidth=1.3,
        marker="s",
        markersize=size * 2 / 3,
        label="rebuilt",
    )
    axes.set_title(f"row {row}, column {column}", loc="left", fontsize=10)
    axes.set_xlabel("wavelength (nm)", fontsize=9)
    axes.set_ylabel(reconstruction.unit, fontsize=9)
    tidy(axes)
