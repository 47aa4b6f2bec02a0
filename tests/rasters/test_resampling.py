import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.rasters.grid import Axis, resample


def whole(pixels, rows, columns, valid=None):
    if valid is None:
        valid = np.ones(pixels.shape, dtype=bool)
    (top, bottom), (left, right) = rows.span, columns.span
    cut = slice(None), slice(top, bottom), slice(left, right)
    return resample(pixels[cut], valid[cut], rows, columns)


def noise(height, width, seed=0):
    values = np.random.default_rng(seed).random((2, height, width))
    return values.astype(np.float32)


def test_whole_pixels_come_back_unchanged():
    pixels = noise(9, 11)
    out, valid = whole(pixels, Axis.between(2, 7, 5, 9), Axis.between(1, 9, 8, 11))
    np.testing.assert_array_equal(out, pixels[:, 2:7, 1:9])
    assert valid.all()


@pytest.mark.parametrize("out", [16, 24, 48, 64])
def test_enlarging_and_shrinking_match_torch_bicubic(out):
    pixels = noise(32, 32)
    ours, _ = whole(pixels, Axis.between(0, 32, out, 32), Axis.between(0, 32, out, 32))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None], size=out, mode="bicubic", antialias=True
    )[0].numpy()
    inner = slice(5, -5)  # at the border torch renormalises, ours repeats the edge
    np.testing.assert_allclose(
        ours[:, inner, inner], theirs[:, inner, inner], atol=2e-6
    )


def test_cubic_is_exact_for_straight_lines():
    ramp = np.arange(20, dtype=np.float32)[None, :, None].repeat(20, axis=2)
    rows = Axis.between(4.25, 12.75, 17, 20)
    out, _ = whole(ramp, rows, Axis.between(0, 20, 20, 20))
    centres = 4.25 + (np.arange(17) + 0.5) * 0.5 - 0.5
    np.testing.assert_allclose(out[0, :, 3], centres, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    start=st.floats(0, 20),
    length=st.floats(1, 20),
    out=st.integers(1, 40),
    first=st.integers(0, 39),
)
def test_part_of_an_axis_equals_the_axis_of_the_part(start, length, out, first):
    first = min(first, out - 1)
    axis = Axis.between(start, start + length, out, 40)
    step = length / out
    alone = Axis.between(start + first * step, start + out * step, out - first, 40)
    pixels = noise(40, 3)
    columns = Axis.between(0, 3, 3, 3)
    together, _ = whole(pixels, axis, columns)
    apart, _ = whole(pixels, alone, columns)
    np.testing.assert_allclose(together[:, first:], apart, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 30), out=st.integers(1, 60), value=st.floats(-1, 2))
def test_constant_stays_constant(size, out, value):
    pixels = np.full((1, size, size), value, dtype=np.float32)
    axis = Axis.between(0, size, out, size)
    result, valid = whole(pixels, axis, axis)
    np.testing.assert_allclose(result, value, atol=1e-5)
    assert valid.all()


def test_invalid_pixels_do_not_leak_into_valid_ones():
    pixels = np.full((1, 12, 12), 0.3, dtype=np.float32)
    valid = np.ones(pixels.shape, dtype=bool)
    valid[:, 4:8, 4:8] = False
    pixels[~valid] = 0
    axis = Axis.between(0, 12, 30, 12)
    out, known = whole(pixels, axis, axis, valid)
    np.testing.assert_allclose(out[known], 0.3, atol=1e-5)
    assert not known[:, 10:20, 10:20].any()
    assert (out[~known] == 0).all()
    assert known.sum() == 30 * 30 - 10 * 10


def test_edge_is_repeated_for_one_pixel_and_no_further():
    axis = Axis.between(-3, 7, 10, 5)
    pixels = np.arange(5, dtype=np.float32)[None, :, None]
    out, valid = whole(pixels, axis, Axis.between(0, 1, 1, 1))
    assert valid[0, :, 0].tolist() == [False] * 2 + [True] * 7 + [False]
    assert out[0, 2, 0] == 0
    assert out[0, 8, 0] == 4


def test_wide_scenes_equal_their_parts():
    rng = np.random.default_rng(0)
    pixels = rng.random((2, 4, 700), dtype=np.float32)
    valid = np.ones(pixels.shape, bool)
    rows, columns = Axis.between(0, 4, 8, 4), Axis.between(0, 700, 1400, 700)
    whole, _ = resample(pixels, valid, rows, columns)
    for start in range(0, 1400, 350):
        part = columns.part(start, start + 350)
        first, last = part.span
        seen = np.s_[..., first:last]
        alone, _ = resample(pixels[seen], valid[seen], rows, part)
        np.testing.assert_allclose(whole[..., start : start + 350], alone, atol=1e-6)


def test_whole_pixels_are_copied_not_shared():
    pixels = np.ones((1, 3, 3), dtype=np.float32)
    axis = Axis.between(0, 3, 3, 3)
    out, _ = resample(pixels, np.ones(pixels.shape, bool), axis, axis)
    out[:] = 5
    assert (pixels == 1).all()
