"""From layers to the share of each spectrum and each cover in each pixel.

Shapes are painted on cells finer than a pixel; here they are averaged, so that pixels
at edges are mixed. Everything after this step works on shares, which makes a sensor
with hundreds of bands as cheap as one with four.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.simulation.materials import Cover, Layer
from spectralgpt.data.simulation.terrain import Field

__all__ = ["Composition", "block_mean", "compose"]


@dataclass(frozen=True)
class Composition:
    """What pixels are made of.

    Args:
        spectra: (M, n, n) share of each spectrum of the palette, times illumination.
        covers: (number of covers, n, n) share of each `Cover`; sums to 1.
    """

    spectra: NDArray[np.float32]
    covers: NDArray[np.float32]


def block_mean(field: Field, factor: int) -> Field:
    """Average (..., n * factor, n * factor) over blocks: (..., n, n)."""
    *lead, height, width = field.shape
    blocks = field.reshape(*lead, height // factor, factor, width // factor, factor)
    # Two sums of contiguous axes are several times faster than one over both.
    mean: Field = blocks.sum(axis=-1).sum(axis=-2) / np.float32(factor * factor)
    return mean


def compose(
    layers: list[Layer], light: Field, factor: int, num_spectra: int
) -> Composition:
    """Lay the layers over each other and average them over pixels.

    Args:
        layers: lowest first; the lowest one covers everything.
        light: (n * factor, n * factor) illumination of each fine cell.
        factor: fine cells along one side of a pixel.
        num_spectra: M, the size of the palette.
    """
    size = light.shape[0] // factor
    spectra = np.zeros((num_spectra, size, size), dtype=np.float32)
    covers = np.zeros((len(Cover), size, size), dtype=np.float32)
    seen = np.ones_like(light)
    seen_cover = np.ones_like(light)
    pixel = _pixel_of_cell(size, factor)
    for layer in reversed(layers):
        weight = seen * layer.coverage
        seen = seen - weight
        if layer.cover is not None:
            cover_weight = seen_cover * layer.coverage
            seen_cover = seen_cover - cover_weight
            covers[layer.cover] += block_mean(cover_weight, factor)
        if isinstance(layer.spectrum, np.ndarray):
            cell = layer.spectrum.ravel() * (size * size) + pixel
            sums = np.bincount(cell, (weight * light).ravel(), spectra.size)
            spectra += sums.reshape(spectra.shape).astype(np.float32) / factor**2
        else:
            spectra[layer.spectrum] += block_mean(weight * light, factor)
    return Composition(spectra, covers)


def _pixel_of_cell(size: int, factor: int) -> NDArray[np.intp]:
    line = np.arange(size * factor) // factor
    pixel: NDArray[np.intp] = (line[:, None] * size + line[None, :]).ravel()
    return pixel
