from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling import (
    LabelSource,
    MadeSet,
    TileRules,
    make_labelled_set,
)
from spectralgpt.errors import DataError
from spectralgpt.rasters import Raster
from spectralgpt.reports.data_sets import _plot_overview, plot_contact_sheet
from spectralgpt.sensors import load_sensor
from tests.label_files import SENSOR, halves, write_labels, write_scene


def test_the_picture_names_splits_and_classes(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    path = write_labels(tmp_path / "a.gpkg", *halves())
    seen = []

    def draw(made: MadeSet, _: Path) -> None:
        figure = _plot_overview(made)
        top, bottom = figure.subfigs
        (legend,) = top.legends
        seen.extend(text.get_text() for text in legend.get_texts())
        maps = top.axes[1].images[0].get_array()
        # Water in blue above trees in green.
        assert np.allclose(maps[3, 3] * 255, (0, 114, 178))
        assert np.allclose(maps[90, 3] * 255, (0, 158, 115))
        # Each tile once, and two lines around each block.
        blocks = {tile.cell for tile in made.tiles}
        drawn = len(made.tiles) + 2 * len(blocks)
        assert len(top.axes[0].patches) == drawn
        assert len(bottom.axes) == 2 * len(made.samples(3))

    make_labelled_set(
        [scene],
        ImageFormat(sensor=SENSOR, offset=0.0),
        LabelSource(path, "cover"),
        TileRules(tile_px=16, gap_m=40.0),
        tmp_path / "out",
        draw=draw,
    )
    assert [text.split(":")[0] for text in seen] == [
        *("train", "val", "test", "trees", "water", "no label")
    ]


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
