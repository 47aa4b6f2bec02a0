from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectralgpt.errors import ConfigError
from spectralgpt.scenes.windows import cover


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
