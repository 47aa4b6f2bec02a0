import gc
import threading
from collections.abc import Generator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from spectralgpt.errors import ConfigError
from spectralgpt.rasters import Scene, Window, read_raster
from spectralgpt.scenes.maps import _map_strips
from spectralgpt.scenes.windows import (
    WindowPlan,
    _prefetch,
    _RowBlender,
    _window_weight,
    cover_axis,
    plan_windows,
    read_batches,
)
from tests.dense_files import blobs
from tests.map_scenes import describe, join, rule_mapper, write_scene


def cover(height: int, width: int, side: int, stride: int) -> WindowPlan:
    rows, columns = (cover_axis(most, side, stride) for most in (height, width))
    return WindowPlan(rows, columns, side, height, width)


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.integers(1, 40),
    data=st.data(),
)
def test_windows_cover_every_pixel_of_any_scene(
    height: int, width: int, size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, size))
    seen = np.zeros((height, width), dtype=int)
    plan = cover(height, width, size, stride)
    for row, column in product(plan.rows, plan.columns):
        assert row + min(size, height) <= height
        assert column + min(size, width) <= width
        seen[row : row + size, column : column + size] += 1
    assert seen.min() > 0


def test_gaps_between_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not cover"):
        cover(10, 10, 4, 5)


@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.integers(0, 89))
def test_strips_cover_every_row_once_and_begin_above_what_is_wanted(
    height: int, side: int, stride: int, first: int
) -> None:
    layout = cover(height, 8, side, min(stride, side))
    strips = list(layout.strips())
    assert [row for row, _ in strips] == [0, *(below for _, below in strips)][:-1]
    assert strips[-1][1] == height
    starts = [row for row, _ in strips if row <= first]
    begun = list(layout.strips(starts[-1]))
    # Every row of windows that reaches into the strip is there.
    assert begun == [s for s in strips if s[0] + side > starts[-1]]
    assert (starts[-1] in [row for row, _ in begun]) or height <= side


@pytest.mark.parametrize("first", [0, 16, 48, 96])
def test_a_map_from_a_later_row_equals_the_whole_one_to_the_bit(
    first: int, tmp_path: Path
) -> None:
    classes = blobs(130, 70, seed=3, classes=3)
    item = describe(write_scene(tmp_path / "a.tif", classes))
    mapper = rule_mapper(tmp_path)
    whole = list(_map_strips(mapper, [item]))
    later = list(_map_strips(mapper, [item], first))
    wanted = [strip for strip in whole if strip[0] >= first]
    assert [row for row, _ in later] == [row for row, _ in wanted]
    for (_, found), (_, probabilities) in zip(later, wanted, strict=True):
        assert found.tobytes() == probabilities.tobytes()
    assert len(join(whole)) == 130


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_every_pixel_is_read_once_and_windows_hold_what_the_file_does(
    overlap: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = describe(write_scene(tmp_path / "a.tif", blobs(101, 75, seed=1, classes=3)))
    mapper = rule_mapper(tmp_path)
    bands = mapper.bands(item)
    layout = plan_windows(item, bands, 32, overlap, 8)
    rows_read = []
    read = Scene.read

    def counted(scene: Scene, window: object = None) -> object:
        rows_read.append((window.row, window.height))  # type: ignore[attr-defined]
        return read(scene, window)  # type: ignore[arg-type]

    monkeypatch.setattr(Scene, "read", counted)
    seen = 0
    for batch in read_batches([item], [bands], layout, 4):
        for column, (raster,) in zip(batch.columns, batch.rasters, strict=True):
            alone = read_raster(item, bands, Window(batch.row, column, 32, 32))
            np.testing.assert_array_equal(raster.pixels, alone.pixels)
            np.testing.assert_array_equal(raster.valid, alone.valid)
            seen += 1
    assert seen == len(layout.rows) * len(layout.columns)
    ends = np.cumsum([0, *(height for _, height in rows_read)])
    assert [row for row, _ in rows_read] == ends[:-1].tolist()
    assert ends[-1] == 101


def test_weights_are_those_computed_by_hand() -> None:
    # 0.05 + 0.95 sin^2 of pi / 8 and 3 pi / 8.
    low, high = 0.189124, 0.860876
    row = np.array([low, high, high, low])
    np.testing.assert_allclose(_window_weight(4), np.outer(row, row), atol=1e-6)


def test_weights_of_windows_that_overlap_by_half_add_up_to_a_constant() -> None:
    ramp = _window_weight(8)[3] / _window_weight(8)[3, 0]
    np.testing.assert_allclose(ramp[:4] + ramp[4:], (ramp[:4] + ramp[4:])[0])


def test_a_pixel_of_two_windows_is_their_weighted_mean() -> None:
    blender = _RowBlender(1, 6, 4)
    everywhere = np.ones((4, 4), np.bool_)
    blender.add(0, np.full((1, 4, 4), 1, np.float32), everywhere)
    blender.add(2, np.full((1, 4, 4), 3, np.float32), everywhere)
    row = blender.take(4)[0, 0]
    low, high = 0.189124, 0.860876
    third = (1 * high + 3 * low) / (high + low)
    np.testing.assert_allclose(row, [1, 1, third, 4 - third, 3, 3], atol=1e-5)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    side=st.integers(1, 16),
    data=st.data(),
)
def test_every_pixel_of_any_scene_comes_out_once_with_its_own_value(
    height: int, width: int, side: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, side))
    scene = np.arange(height * width, dtype=np.float32).reshape(1, height, width)
    blender = _RowBlender(1, width, side)
    rows = cover_axis(height, side, stride)
    out = []
    for row, below in zip(rows, [*rows[1:], height], strict=True):
        for column in cover_axis(width, side, stride):
            part = scene[:, row : row + side, column : column + side]
            blender.add(column, part, np.ones(part.shape[1:], np.bool_))
        out.append(blender.take(below - row))
    np.testing.assert_allclose(np.concatenate(out, axis=1), scene, rtol=1e-5)


def test_pixels_that_no_window_knows_are_nan_and_spoil_nothing() -> None:
    blender = _RowBlender(1, 3, 3)
    known = np.ones((3, 3), np.bool_)
    known[1, 1] = False
    blender.add(0, np.full((1, 3, 3), 7, np.float32), known)
    found = blender.take(3)[0]
    assert np.isnan(found[1, 1])
    assert found[known] == pytest.approx(7)


def test_items_come_in_order_from_another_thread_that_runs_ahead() -> None:
    begun: list[int] = []
    threads = set()

    def count() -> Generator[int]:
        for number in range(5):
            begun.append(number)
            threads.add(threading.get_ident())
            yield number

    found = []
    for number in _prefetch(count(), depth=2):
        if number == 0:
            second = threading.Event()
            for _ in range(200):
                if len(begun) >= 2:
                    break
                second.wait(0.01)
            assert 1 in begun
        found.append(number)
    assert found == list(range(5))
    assert threading.get_ident() not in threads
    assert len(threads) == 1


def test_an_error_comes_after_what_went_well() -> None:
    def fail() -> Generator[int]:
        yield 1
        raise ValueError("broken")

    found = _prefetch(fail())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_stopping_early_ends_the_generator_in_its_own_thread() -> None:
    ended = []

    def endless() -> Generator[int]:
        own = threading.get_ident()
        try:
            while True:
                yield 1
        finally:
            ended.append(threading.get_ident() == own)

    for _ in _prefetch(endless()):
        break
    assert ended == [True]
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


@pytest.mark.parametrize("collects", ["another thread", "its own thread"])
def test_what_was_left_unfinished_in_a_cycle_is_closed_when_it_is_collected(
    collects: str,
) -> None:
    # As the frames of an error's traceback hold each other.
    closed, go_on = threading.Event(), threading.Event()

    def items() -> Generator[int]:
        try:
            yield 1
            go_on.wait(10)
            if collects == "its own thread":
                gc.collect()
            yield 2
        finally:
            closed.set()

    ahead = _prefetch(items())
    assert next(ahead) == 1
    cycle: list[object] = [ahead]
    cycle.append(cycle)
    del ahead, cycle
    collector = threading.Thread(target=gc.collect, daemon=True)
    if collects == "another thread":
        collector.start()
    go_on.set()
    assert closed.wait(10)
    if collects == "another thread":
        collector.join(10)
        assert not collector.is_alive()


def test_what_runs_ahead_computes_in_the_precision_of_its_user() -> None:
    a = torch.ones(2, 2)

    def multiply() -> Generator[torch.dtype]:
        yield (a @ a).dtype

    def nested() -> Generator[torch.dtype]:
        yield from _prefetch(multiply())

    assert list(_prefetch(nested())) == [torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        assert list(_prefetch(nested())) == [torch.bfloat16]
    assert list(_prefetch(nested())) == [torch.float32]


def test_numpys_products_keep_to_one_thread_meanwhile() -> None:
    def count_threads() -> Generator[int]:
        yield max(found["num_threads"] for found in openblas().info())

    if not openblas().info():
        pytest.skip("this numpy does not multiply with OpenBLAS")
    with openblas().limit(limits=3, user_api="blas"):
        assert list(_prefetch(count_threads())) == [1]
        assert max(found["num_threads"] for found in openblas().info()) == 3


def openblas() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")
