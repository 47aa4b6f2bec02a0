"""Windows over whole scenes: laid, read row by row, and joined.

Each pixel is read once: rows of pixels that the next windows show again are held. What
windows give is blended with weights that fade towards their borders, so that no seams
show; reading and computing run ahead in threads of their own.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.config import check_range
from spectralgpt.errors import BandError, ConfigError, ShapeError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Raster, RasterFile, Scene, Window
from spectralgpt.sensors import Band
from spectralgpt.threads import one_thread_a_product

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_EDGE_WEIGHT = 0.05
_HALF = 0.5
T = TypeVar("T")
_POOLS: set[ThreadPoolExecutor] = set()
"""Those that generators run ahead in."""


def cover_axis(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of windows that cover an axis.

    Windows lie `stride` apart; the last one ends with the axis. A window that is longer
    than the axis starts at 0.

    Args:
        length: of the axis, px.
        size: of a window, px.
        stride: px between the first pixels of windows, 1 .. size.

    Raises:
        ConfigError: a window or stride below 1, or gaps between windows.
    """
    if length < 1 or size < 1 or not 1 <= stride <= size:
        raise ConfigError(
            f"Windows of {size} px every {stride} px do not cover {length} px: use "
            "a stride of 1 px to one window."
        )
    last = max(0, length - size)
    return [*range(0, last, stride), last]


def stride_px(size: int, overlap: float, patch_size: int) -> int:
    """Return the pixels between windows, a whole number of patches.

    Args:
        size: side of a window, px.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        patch_size: side of a patch, px.

    Raises:
        ConfigError: the overlap is not in that range.
    """
    check_range("at least 0 and below 1", {"overlap": overlap})
    return max(patch_size, int(size * (1 - overlap)) // patch_size * patch_size)


@dataclass(frozen=True)
class WindowPlan:
    """Square windows that cover a scene, or a part of it; some may reach beyond.

    Args:
        rows: first rows of the windows, ascending.
        columns: first columns of the windows, ascending.
        side: of a window, px.
        height: of what they cover, px.
        width: of what they cover, px.
    """

    rows: Sequence[int]
    columns: Sequence[int]
    side: int
    height: int
    width: int

    @property
    def span(self) -> int:
        """Pixels from the first column of windows to the end of the last."""
        return self.columns[-1] + self.side - self.columns[0]

    def strips(self, first_row: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (row, row below) of the strips that rows of windows finish.

        Args:
            first_row: of the first strip that is wanted. Rows of windows that reach
                into it come before, so that it is blended as if all were.
        """
        for row, below in pairwise([*self.rows, self.height]):
            if row + self.side > first_row:
                yield row, below


def plan_windows(
    item: RasterFile, bands: tuple[Band, ...], side: int, overlap: float, patch: int
) -> WindowPlan:
    """Lay windows over a scene, from its first pixel to its last.

    Args:
        item: the scene.
        bands: that are read; they say how fine its pixels are.
        side: of a window, px.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        patch: windows lie a whole multiple of this apart, px.

    Raises:
        ConfigError: the overlap is not in that range.
    """
    size, stride = item.shape(bands), stride_px(side, overlap, patch)
    rows, columns = (cover_axis(length, side, stride) for length in size)
    return WindowPlan(rows, columns, side, *size)


def choose_bands(preprocessing: Preprocessing, item: RasterFile) -> tuple[Band, ...]:
    """Return the item's bands that are the model's, in the model's order.

    Raises:
        BandError: one is missing; it is named.
    """
    try:
        return tuple(item.bands[i] for i in preprocessing.match(item.bands))
    except BandError as error:
        raise BandError(f"{item.name}: {error}") from error


def check_size(item: RasterFile, bands: tuple[Band, ...], patch_size: int) -> None:
    """Refuse images that are smaller than a token.

    Args:
        item: the image.
        bands: those that are read; the finest gives the image's size.
        patch_size: side of a token, px.

    Raises:
        ShapeError: it is.
    """
    height, width = item.shape(bands)
    if min(height, width) < patch_size:
        raise ShapeError(
            f"{item.name} is {height} x {width} px, smaller than a token of "
            f"{patch_size} x {patch_size} px. Use larger images."
        )


Compute = Callable[
    ["WindowBatch", FloatArray, BoolArray], tuple["WindowBatch", Iterable[FloatArray]]
]
"""From windows, images and validity (B, T, C, side, side) to windows, whose `is_known`
may be another, and values (layers, h, w) of each."""


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one row that show something.

    Args:
        row: first row of the windows.
        columns: first columns of the windows, ascending; none if nothing is shown.
        rasters: of each window, one per date; less than a window beyond the scene.
        is_known: of each window (h, w), where all dates have a valid band.
        is_last: no windows of this row follow.
    """

    row: int
    columns: list[int]
    rasters: list[list[Raster]]
    is_known: list[BoolArray]
    is_last: bool


def read_batches(
    items: Sequence[RasterFile],
    bands: Sequence[tuple[Band, ...]],
    plan: WindowPlan,
    batch_size: int,
    first_row: int = 0,
) -> Generator[WindowBatch]:
    """Read all windows of an image, or of two dates on the same pixels.

    What is read at once, and which windows come in one batch, depends on the plan
    alone, so that a run from a later row gives the same numbers.

    Args:
        items: the image, or before and after.
        bands: of each.
        plan: the windows; they begin with the scene.
        batch_size: windows in a batch, at most.
        first_row: see `WindowPlan.strips`.

    Yields:
        At least one batch per row of windows.
    """
    with ExitStack() as stack:
        dates = [
            stack.enter_context(closing(_read_strips(item, used, plan, first_row)))
            for item, used in zip(items, bands, strict=True)
        ]
        yield from cut_batches(dates, plan, batch_size, first_row)


def cut_batches(
    dates: Sequence[Iterable[Raster]],
    plan: WindowPlan,
    batch_size: int,
    first_row: int = 0,
) -> Generator[WindowBatch]:
    """Cut strips, one per row of windows, into batches; see `read_batches`."""
    for (row, _), *strips in zip(plan.strips(first_row), *dates, strict=True):
        for start in range(0, len(plan.columns), batch_size):
            is_last = start + batch_size >= len(plan.columns)
            batch = WindowBatch(row, [], [], [], is_last)
            for column in plan.columns[start : start + batch_size]:
                left = column - plan.columns[0]
                at = np.s_[:, : plan.side, left : left + plan.side]
                rasters = [_part(strip, at) for strip in strips]
                is_known = np.logical_and.reduce([r.valid.any(axis=0) for r in rasters])
                if is_known.any():
                    batch.columns.append(column)
                    batch.rasters.append(rasters)
                    batch.is_known.append(is_known)
            yield batch


def compute_strips(
    batches: Generator[WindowBatch],
    plan: WindowPlan,
    preprocessing: Preprocessing,
    compute: Compute,
    layers: int,
    *,
    first_row: int = 0,
    cell: int = 1,
    ahead: bool = True,
) -> Iterator[tuple[int, FloatArray]]:
    """Compute on windows, each prepared for itself, and join what overlaps, by rows.

    Args:
        batches: of `read_batches`.
        plan: the windows.
        preprocessing: the model's contract.
        compute: what is made of windows.
        layers: numbers per cell.
        first_row: as given to `read_batches`.
        cell: side of the cells that numbers are of, px; divides all of the plan.
        ahead: read and compute in threads of their own.

    Yields:
        The first row, px, and means (layers, rows, W) of cells; NaN where no window
        knew anything.
    """
    prepared = _prepare(batches, preprocessing, plan.side)
    computed = (
        (batch, None) if arrays is None else compute(batch, *arrays)
        for batch, arrays in (_prefetch(prepared) if ahead else prepared)
    )
    joined = _prefetch(computed) if ahead else computed
    return _blend(joined, plan, layers, first_row, cell)


def _prepare(
    batches: Iterator[WindowBatch], preprocessing: Preprocessing, side: int
) -> Generator[tuple[WindowBatch, tuple[FloatArray, BoolArray] | None]]:
    """Give the model's input for each batch, (B, T, C, side, side), and its validity.

    Smaller windows are padded with invalid pixels below and to the right, as in
    training.
    """
    for batch in batches:
        if not batch.columns:
            yield batch, None
            continue
        prepared = [
            [preprocessing.prepare(r.padded(side, side, "constant")) for r in dates]
            for dates in batch.rasters
        ]
        images = np.stack([np.stack([i for i, _ in dates]) for dates in prepared])
        valid = np.stack(
            [np.stack([known for _, known in dates]) for dates in prepared]
        )
        yield batch, (images, valid)


def _blend(
    computed: Iterator[tuple[WindowBatch, Iterable[FloatArray] | None]],
    plan: WindowPlan,
    layers: int,
    first_row: int,
    cell: int,
) -> Iterator[tuple[int, FloatArray]]:
    """Join values of overlapping windows, from the top downwards."""
    first = plan.columns[0]
    blender = _RowBlender(layers, plan.span // cell, plan.side // cell)
    for row, below in plan.strips(first_row):
        is_last = False
        while not is_last:
            batch, values = next(computed)
            is_last = batch.is_last
            if values is None:
                continue
            for column, is_known, part in zip(
                batch.columns, batch.is_known, values, strict=True
            ):
                height, width = is_known.shape
                inside = part[:, :height, :width]
                blender.add((column - first) // cell, inside, is_known)
        means = blender.take((below - row) // cell)
        if below > first_row:
            edges = (max(0, -row), -first, plan.width - first)
            top, left, right = (edge // cell for edge in edges)
            yield max(0, row), means[:, top:, left:right]


def _read_strips(
    item: RasterFile, bands: tuple[Band, ...], plan: WindowPlan, first_row: int
) -> Generator[Raster]:
    """Read what each row of windows shows; rows that the next ones show are held."""
    bottoms = [min(row + plan.side, plan.height) for row in plan.rows]
    # Always the same pieces: resampling in others may differ in the last bit.
    unread = deque(pairwise([0, *bottoms]))
    held: list[Raster] = []
    top = 0
    with Scene(item, bands) as scene:
        for row, _ in plan.strips(first_row):
            held = [_part(each, np.s_[:, row - top :]) for each in held]
            while unread and unread[0][0] < row + plan.side:
                start, stop = unread.popleft()
                if stop > row:
                    piece = scene.read(Window(start, 0, stop - start, plan.width))
                    held.append(_part(piece, np.s_[:, max(0, row - start) :]))
            pixels = np.concatenate([part.pixels for part in held], axis=1)
            valid = np.concatenate([part.valid for part in held], axis=1)
            held, top = [replace(held[0], pixels=pixels, valid=valid)], row
            yield held[0]


def _part(raster: Raster, at: tuple[slice, ...]) -> Raster:
    """Return some of the pixels, without their place."""
    return replace(
        raster, pixels=raster.pixels[at], valid=raster.valid[at], transform=None
    )


def _window_weight(side: int) -> NDArray[np.float64]:
    """Weigh the cells of a window (side, side): a raised cosine, low at the borders.

    With windows that overlap by half, weights add up to a constant. They are nowhere
    zero, so that a scene's edge, which one window alone shows, keeps its value.
    """
    phase = (np.arange(side) + _HALF) / side
    ramp = _EDGE_WEIGHT + (1 - _EDGE_WEIGHT) * np.sin(np.pi * phase) ** 2
    return np.outer(ramp, ramp)


class _RowBlender:
    """Weighted means of overlapping windows, finished from the top downwards.

    Windows are added one row of windows after the other, and rows of pixels taken out
    as soon as no window below reaches them. No more rows than a window has are held.
    """

    def __init__(self, layers: int, width: int, side: int) -> None:
        self._sums = np.zeros((layers, side, width), dtype=np.float32)
        self._weights = np.zeros((side, width), dtype=np.float32)
        self._window = _window_weight(side).astype(np.float32)

    def add(self, column: int, values: FloatArray, is_known: NDArray[np.bool_]) -> None:
        """Add the known pixels (h, w) of a window (layers, h, w) from a column on.

        Its first row is the first not yet taken.
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


def _prefetch(items: Generator[T, None, Any], depth: int = 2) -> Iterator[T]:
    """Yield what a generator yields, which runs so many items ahead in its own thread.

    The generator runs in that one thread from its beginning to its `finally`, so that
    it may hold files that are for one thread, and computes in the precision of the
    thread that asks. Its errors are raised here, in their turn. Meanwhile numpy's
    products keep to one thread: several would wait in turn for the model's threads.
    """
    end: Any = object()
    own: list[int] = []
    prepare = _prepare_thread()

    def begin() -> None:
        own.append(threading.get_ident())
        prepare()

    pool = ThreadPoolExecutor(1, initializer=begin)
    # Collected with a generator that somebody left unfinished, the pool would have no
    # thread any more to close the items in, and closing would wait for ever.
    _POOLS.add(pool)
    with one_thread_a_product():
        pending = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, items, end))
                yield item
        finally:
            for waiting in pending:
                waiting.cancel()
            closed = pool.submit(items.close)
            # Python may collect this in the pool's own thread, which cannot wait.
            is_elsewhere = threading.get_ident() not in own
            pool.shutdown(wait=is_elsewhere)
            _POOLS.discard(pool)
            if is_elsewhere:
                closed.result()


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
