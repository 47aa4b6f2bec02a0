"""Read the windows that cover a scene, row by row, and join what a model makes of them.

Each pixel is read once: rows of pixels that the next windows show again are held. What
windows give is blended with weights that fade towards their borders, so that no seams
show; reading and computing run ahead in threads of their own.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Raster, RasterItem, Scene, Window
from spectralgpt.scenes.windows import cover_axis, stride_px
from spectralgpt.sensors import Band
from spectralgpt.threads import one_thread_a_product

__all__ = [
    "Layout",
    "RowBlender",
    "WindowBatch",
    "blend",
    "plan_windows",
    "prefetch",
    "prepare_windows",
    "read_batches",
    "window_weight",
]

FloatArray = NDArray[np.float32]
_EDGE_WEIGHT = 0.05
_HALF = 0.5
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """Windows over a scene, whose last row and column end with it.

    Args:
        height: of the scene, px.
        width: of the scene, px.
        side: of a window, px; less is left of it where the scene is smaller.
        stride: between windows, px.
    """

    height: int
    width: int
    side: int
    stride: int

    @property
    def rows(self) -> list[int]:
        """First rows of the windows."""
        return cover_axis(self.height, self.side, self.stride)

    @property
    def columns(self) -> list[int]:
        """First columns of the windows."""
        return cover_axis(self.width, self.side, self.stride)

    def strips(self, first_row: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (row, row below) of the strips that rows of windows finish.

        Args:
            first_row: of the first strip that is wanted. Rows of windows that reach
                into it come before, so that it is blended as if all were.
        """
        for row, below in pairwise([*self.rows, self.height]):
            if row + self.side > first_row:
                yield row, below

    def windows(self, row: int) -> list[Window]:
        """Return one row of windows."""
        rows, width = min(self.side, self.height - row), min(self.side, self.width)
        return [Window(row, column, rows, width) for column in self.columns]


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one row that show something.

    Args:
        windows: where they lie, from the left; none if nothing is shown.
        rasters: of each window, one a date.
        is_known: of each window (h, w), where all dates have a valid band.
        is_last: no windows of this row follow.
    """

    windows: list[Window]
    rasters: list[list[Raster]]
    is_known: list[NDArray[np.bool_]]
    is_last: bool


def read_batches(
    items: Sequence[RasterItem],
    bands: Sequence[tuple[Band, ...]],
    layout: Layout,
    batch_size: int,
    first_row: int = 0,
) -> Generator[WindowBatch]:
    """Read all windows of an image, or of two dates on the same pixels.

    What is read at once, and which windows come in one batch, depends on the layout
    alone, so that a run from a later row gives the same numbers.

    Args:
        items: the image, or before and after.
        bands: of each.
        layout: the windows.
        batch_size: windows in a batch, at most.
        first_row: see `Layout.strips`.

    Yields:
        At least one batch a row of windows.
    """
    with ExitStack() as stack:
        dates = [
            _HeldRows(stack.enter_context(Scene(item, used)), layout)
            for item, used in zip(items, bands, strict=True)
        ]
        for row, _ in layout.strips(first_row):
            windows = layout.windows(row)
            for held in dates:
                held.move(row)
            for start in range(0, len(windows), batch_size):
                part = windows[start : start + batch_size]
                yield _cut(dates, part, start + batch_size >= len(windows))


def blend(
    predicted: Iterable[tuple[WindowBatch, FloatArray | None]],
    layout: Layout,
    layers: int,
    first_row: int = 0,
) -> Iterator[tuple[int, FloatArray]]:
    """Join what was predicted of overlapping windows, from the top downwards.

    Args:
        predicted: batches of `read_batches` in their order, and values (B, layers, H,
            W) of their windows; None for a batch without windows.
        layout: the windows.
        layers: numbers a pixel.
        first_row: as given to `read_batches`.

    Yields:
        The first row, and means (layers, rows, W); NaN where no window knew anything.
    """
    blender = RowBlender(layers, layout.width, layout.side)
    batches = iter(predicted)
    for row, below in layout.strips(first_row):
        is_last = False
        while not is_last:
            batch, values = next(batches)
            is_last = batch.is_last
            if values is None:
                continue
            for window, is_known, part in zip(
                batch.windows, batch.is_known, values, strict=True
            ):
                inside = part[:, : window.height, : window.width]
                blender.add(window.column, inside, is_known)
        means = blender.take(below - row)
        if row >= first_row:
            yield row, means


def prepare_windows(
    batch: WindowBatch, preprocessing: Preprocessing, side: int
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Turn windows into model input, each for itself.

    Args:
        batch: at least one window.
        preprocessing: the model's contract.
        side: of the images, px; smaller windows are padded with invalid pixels below
            and to the right, as in training.

    Returns:
        images and valid, (B, T, C, side, side) each.
    """
    prepared = [
        [preprocessing.prepare(r.padded(side, side, "constant")) for r in dates]
        for dates in batch.rasters
    ]
    images = np.stack([np.stack([image for image, _ in dates]) for dates in prepared])
    valid = np.stack([np.stack([known for _, known in dates]) for dates in prepared])
    return images, valid


def plan_windows(
    item: RasterItem, bands: tuple[Band, ...], side: int, overlap: float, patch: int
) -> Layout:
    """Lay windows over a scene that overlap by a share, whole patches apart.

    Raises:
        ConfigError: the overlap is not in [0, 1).
    """
    height, width = item.shape(bands)
    return Layout(height, width, side, stride_px(side, overlap, patch))


def _cut(
    dates: Sequence["_HeldRows"], windows: Sequence[Window], is_last: bool
) -> WindowBatch:
    batch = WindowBatch([], [], [], is_last)
    for window in windows:
        rasters = [held.cut(window) for held in dates]
        is_known = np.logical_and.reduce([r.valid.any(axis=0) for r in rasters])
        if is_known.any():
            batch.windows.append(window)
            batch.rasters.append(rasters)
            batch.is_known.append(is_known)
    return batch


class _HeldRows:
    """The rows of a scene that a row of windows shows."""

    def __init__(self, scene: Scene, layout: Layout) -> None:
        self._scene, self._layout = scene, layout
        bottoms = [min(row + layout.side, layout.height) for row in layout.rows]
        # Always the same pieces: resampling in others may differ in the last bit.
        self._unread = deque(pairwise([0, *bottoms]))
        self._top = 0
        self._raster: Raster | None = None

    def move(self, row: int) -> None:
        """Drop the rows above, and read what else the windows from here on show."""
        bottom, width = row + self._layout.side, self._layout.width
        held = [] if self._raster is None else [_from(self._raster, row - self._top)]
        while self._unread and self._unread[0][0] < bottom:
            start, stop = self._unread.popleft()
            if stop > row:
                piece = self._scene.read(Window(start, 0, stop - start, width))
                held.append(_from(piece, row - start))
        self._top, self._raster = row, _stack(held)

    def cut(self, window: Window) -> Raster:
        """Return a window of the row of windows that was moved to."""
        if self._raster is None:
            raise RuntimeError("move to a row first")
        across = slice(window.column, window.column + window.width)
        return _part(self._raster, np.s_[:, : window.height, across])


def _from(raster: Raster, row: int) -> Raster:
    return _part(raster, np.s_[:, max(0, row) :])


def _part(raster: Raster, at: tuple[slice, ...]) -> Raster:
    """Return some of the pixels, without their place."""
    return replace(
        raster, pixels=raster.pixels[at], valid=raster.valid[at], transform=None
    )


def _stack(parts: Sequence[Raster]) -> Raster:
    """Put rasters below each other."""
    return replace(
        parts[0],
        pixels=np.concatenate([part.pixels for part in parts], axis=1),
        valid=np.concatenate([part.valid for part in parts], axis=1),
    )


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


def prefetch(items: Generator[T, None, Any], depth: int = 2) -> Iterator[T]:
    """Yield what a generator yields, which runs ahead in a thread of its own.

    The generator runs in that one thread from its beginning to its `finally`, so that
    it may hold files that are for one thread, and computes in the precision of the
    thread that asks. Its errors are raised here, in their turn. Meanwhile numpy's
    products keep to one thread: several would wait in turn for the model's threads.

    Args:
        items: the generator.
        depth: how many items it may be ahead.
    """
    end: Any = object()
    with (
        one_thread_a_product(),
        ThreadPoolExecutor(1, initializer=_prepare_thread()) as pool,
    ):
        pending = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, items, end))
                yield item
        finally:
            for waiting in pending:
                waiting.cancel()
            pool.submit(items.close).result()


def _prepare_thread() -> Callable[[], None]:
    """Return what gives another thread the autocast of this one, and few threads."""
    states = [
        (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in ("cpu", "cuda")
    ]

    def prepare() -> None:
        for kind, is_enabled, dtype in states:
            torch.set_autocast_enabled(kind, is_enabled)
            torch.set_autocast_dtype(kind, dtype)
        # Where OpenBLAS runs on OpenMP, each thread has a limit of its own.
        one_thread_a_product()

    return prepare
