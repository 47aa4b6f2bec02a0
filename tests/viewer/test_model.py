"""Which part of a scene the model is given."""

from hypothesis import given
from hypothesis import strategies as st

from spectralgpt.rasters import Window
from spectralgpt.viewer import model

SIDES = st.integers(1, 400)


@given(SIDES, SIDES, st.data(), st.sampled_from([8, 32, 96]))
def test_windows_lie_in_the_scene_and_are_whole_tiles(
    height: int, width: int, data: st.DataObject, tile: int
) -> None:
    view = Window(
        data.draw(st.integers(0, height - 1)),
        data.draw(st.integers(0, width - 1)),
        data.draw(SIDES),
        data.draw(SIDES),
    )
    found = model._window_in_view((height, width), view, tile, 192)
    assert found.row + found.height <= height
    assert found.column + found.width <= width
    for side, length in ((found.height, height), (found.width, width)):
        assert side == length < tile or (side % tile == 0 and side <= 192)


def test_the_window_is_the_middle_of_what_is_looked_at() -> None:
    found = model._window_in_view((1000, 1000), Window(300, 500, 200, 100), 32, 384)
    assert found == Window(304, 502, 192, 96)
