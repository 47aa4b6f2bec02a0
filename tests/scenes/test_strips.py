from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectralgpt.rasters import Scene, read_raster
from spectralgpt.scenes.mapping import map_scene
from spectralgpt.scenes.strips import Layout, plan_windows, read_batches
from tests.dense_files import blobs
from tests.map_scenes import describe, join, rule_mapper, write_scene


@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.integers(0, 89))
def test_strips_cover_every_row_once_and_begin_above_what_is_wanted(
    height: int, side: int, stride: int, first: int
) -> None:
    layout = Layout(height, 8, side, min(stride, side))
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
    whole = list(map_scene(mapper, [item], overlap=0.5))
    later = list(map_scene(mapper, [item], overlap=0.5, first_row=first))
    wanted = [strip for strip in whole if strip.row >= first]
    assert [strip.row for strip in later] == [strip.row for strip in wanted]
    for found, strip in zip(later, wanted, strict=True):
        assert found.probabilities.tobytes() == strip.probabilities.tobytes()
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
        for window, (raster,) in zip(batch.windows, batch.rasters, strict=True):
            alone = read_raster(item, bands, window)
            np.testing.assert_array_equal(raster.pixels, alone.pixels)
            np.testing.assert_array_equal(raster.valid, alone.valid)
            seen += 1
    assert seen == len(layout.rows) * len(layout.columns)
    ends = np.cumsum([0, *(height for _, height in rows_read)])
    assert [row for row, _ in rows_read] == ends[:-1].tolist()
    assert ends[-1] == 101
