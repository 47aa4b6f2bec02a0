"""Join overlapping windows without seams: weights that fade towards the borders."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowBlender", "window_weight"]

FloatArray = NDArray[np.float32]
_EDGE_WEIGHT = 0.05
_HALF = 0.5


def window_weight(side: int) -> NDArray[np.float64]:
    """Weigh the cells of a window (side, side): a raised cosine, low at the borders.

    With windows that overlap by half, weights add up to a constant. They are nowhere
    zero, so that a scene's edge, which one window alone shows, keeps its value.
    """
    phase = (np.arange(side) + _HALF) / side
    ramp = _EDGE_WEIGHT + (1 - _EDGE_WEIGHT) * np.sin(np.pi * phase) ** 2
    return np.outer(ramp, ramp)


class RowBlender:
    """Weighted means of overlapping windows, finished from the top downwards.

    Windows are added one row of windows after the other, and rows of pixels taken out
    as soon as no window below reaches them. No more rows than a window has are held.

    Args:
        layers: numbers a pixel.
        width: of the scene, px.
        side: of a window, px.
    """

    def __init__(self, layers: int, width: int, side: int) -> None:
        self._sums = np.zeros((layers, side, width), dtype=np.float32)
        self._weights = np.zeros((side, width), dtype=np.float32)
        self._window = window_weight(side).astype(np.float32)

    def add(self, column: int, values: FloatArray, is_known: NDArray[np.bool_]) -> None:
        """Add the known pixels of a window whose first row is the first not yet taken.

        Args:
            column: first column of the window.
            values: (layers, h, w).
            is_known: (h, w).
        """
        height, width = is_known.shape
        at = np.s_[:height, column : column + width]
        weight = self._window[:height, :width] * is_known
        self._sums[:, *at] += values * weight
        self._weights[at] += weight

    def take(self, rows: int) -> FloatArray:
        """Return the means of the first rows, (layers, rows, W), and go on below them.

        Pixels that no window knew are NaN.
        """
        sums, weights = self._sums[:, :rows].copy(), self._weights[:rows].copy()
        for held in (self._sums, self._weights):
            rest = held[..., rows:, :].copy()
            held[...] = 0
            held[..., : rest.shape[-2], :] = rest
        is_known = weights > 0
        return np.where(
            is_known, sums / np.where(is_known, weights, 1), np.float32("nan")
        )
