import numpy as np
import pytest

from spectralgpt.errors import DataError
from spectralgpt.rasters import Raster
from spectralgpt.reports.contact_sheet import plot_contact_sheet
from spectralgpt.sensors import load_sensor


def raster(names: tuple[str, ...], side: int = 8) -> Raster:
    sensor = load_sensor("sentinel-2-l2a")
    pixels = np.random.default_rng(0).random((len(names), side, side), np.float32)
    valid = np.ones(pixels.shape, bool)
    valid[:, :2] = False
    return Raster(pixels, valid, tuple(sensor.band(n) for n in names), None, None, "x")


def test_every_image_is_drawn_with_its_title() -> None:
    colour, grey = raster(("B02", "B03", "B04")), raster(("B11",))
    images = [(colour, f"class {i}") for i in range(7)] + [
        (grey, "a very " + "long " * 9)
    ]
    figure = plot_contact_sheet(images, "archive")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown[:7]] == [f"class {i}" for i in range(7)]
    assert len(shown) == 8
    assert shown[7].get_title().endswith("…")
    picture = np.asarray(shown[0].get_images()[0].get_array())
    assert picture.shape == (8, 8, 3)
    # What holds no data is white.
    assert (picture[:2] == 1).all()
    assert picture[2:].std() > 0.1
    grey_picture = np.asarray(shown[7].get_images()[0].get_array())
    assert (grey_picture[..., 0] == grey_picture[..., 2]).all()


def test_no_images() -> None:
    with pytest.raises(DataError, match="no image to draw"):
        plot_contact_sheet([], "archive")
