import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectralgpt.scenes.blending import RowBlender, window_weight
from spectralgpt.scenes.windows import cover_axis


def test_weights_are_those_computed_by_hand() -> None:
    # 0.05 + 0.95 sin^2 of pi / 8 and 3 pi / 8.
    low, high = 0.189124, 0.860876
    row = np.array([low, high, high, low])
    np.testing.assert_allclose(window_weight(4), np.outer(row, row), atol=1e-6)


def test_weights_of_windows_that_overlap_by_half_add_up_to_a_constant() -> None:
    ramp = window_weight(8)[3] / window_weight(8)[3, 0]
    np.testing.assert_allclose(ramp[:4] + ramp[4:], (ramp[:4] + ramp[4:])[0])


def test_a_pixel_of_two_windows_is_their_weighted_mean() -> None:
    blender = RowBlender(1, 6, 4)
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
    blender = RowBlender(1, width, side)
    rows = cover_axis(height, side, stride)
    out = []
    for row, below in zip(rows, [*rows[1:], height], strict=True):
        for column in cover_axis(width, side, stride):
            part = scene[:, row : row + side, column : column + side]
            blender.add(column, part, np.ones(part.shape[1:], np.bool_))
        out.append(blender.take(below - row))
    np.testing.assert_allclose(np.concatenate(out, axis=1), scene, rtol=1e-5)


def test_pixels_that_no_window_knows_are_nan_and_spoil_nothing() -> None:
    blender = RowBlender(1, 3, 3)
    known = np.ones((3, 3), np.bool_)
    known[1, 1] = False
    blender.add(0, np.full((1, 3, 3), 7, np.float32), known)
    found = blender.take(3)[0]
    assert np.isnan(found[1, 1])
    assert found[known] == pytest.approx(7)
