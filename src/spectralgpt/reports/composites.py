"""Pictures of multispectral images: which bands make which colours, and how stretched.

Bands are chosen by wavelength, so the same code draws any sensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import BandError
from spectralgpt.sensors import Band

__all__ = [
    "Composite",
    "Stretch",
    "choose_composites",
    "measure_stretch",
    "nearest_band",
]

_RED_NM, _GREEN_NM, _BLUE_NM, _NIR_NM, _SWIR_NM = 665.0, 560.0, 490.0, 842.0, 1610.0
# A band further away than this shows something else than the colour's name says.
_TOLERANCE_NM = 60.0
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
_SMALLEST_SPAN = 1e-6


@dataclass(frozen=True)
class Composite:
    """Bands shown as one picture.

    Args:
        name: such as `true colour`.
        indices: three bands for red, green and blue, or one for a grey picture.
        band_names: their names, in the same order.
    """

    name: str
    indices: tuple[int, ...]
    band_names: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name and bands, such as `true colour (B04, B03, B02)`."""
        return f"{self.name} ({', '.join(self.band_names)})"


@dataclass(frozen=True)
class Stretch:
    """The values shown darkest and brightest, one pair a band: both (C,)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def apply(
        self, pixels: NDArray[np.float32], composite: Composite
    ) -> NDArray[np.float32]:
        """Turn pixels (C, H, W) into a picture (H, W, 1 or 3) of 0..1."""
        chosen = list(composite.indices)
        low = self.low[chosen, None, None]
        span = np.maximum(self.high[chosen, None, None] - low, _SMALLEST_SPAN)
        picture = np.clip((pixels[chosen] - low) / span, 0, 1).astype(np.float32)
        return np.ascontiguousarray(np.moveaxis(picture, 0, -1))


def nearest_band(bands: Sequence[Band], wavelength_nm: float) -> int:
    """Return the index of the band whose centre is nearest.

    Raises:
        BandError: there are no bands.
    """
    if not bands:
        raise BandError("there are no bands to choose from: give at least one.")
    distances = [abs(band.wavelength_nm - wavelength_nm) for band in bands]
    return distances.index(min(distances))


def choose_composites(bands: Sequence[Band]) -> tuple[Composite, ...]:
    """Choose what to show of these bands: true colour, false colour and one band.

    Colours that the sensor does not see are left out; the single band is always there,
    in the short-wave infrared where the sensor sees it.

    Raises:
        BandError: there are no bands.
    """
    wanted = (
        ("true colour", (_RED_NM, _GREEN_NM, _BLUE_NM)),
        ("false colour", (_NIR_NM, _RED_NM, _GREEN_NM)),
    )
    composites = []
    for name, wavelengths in wanted:
        indices = tuple(nearest_band(bands, wanted_nm) for wanted_nm in wavelengths)
        gaps = [
            abs(bands[index].wavelength_nm - wanted_nm)
            for index, wanted_nm in zip(indices, wavelengths, strict=True)
        ]
        if max(gaps) <= _TOLERANCE_NM and len(set(indices)) == len(indices):
            composites.append(_composite(name, indices, bands))
    single = nearest_band(bands, _SWIR_NM)
    wavelength_nm = bands[single].wavelength_nm
    composites.append(_composite(f"{wavelength_nm:.0f} nm", (single,), bands))
    return tuple(composites)


def _composite(name: str, indices: tuple[int, ...], bands: Sequence[Band]) -> Composite:
    return Composite(name, indices, tuple(bands[index].name for index in indices))


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
