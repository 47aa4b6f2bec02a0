import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling import (
    LabelSource,
    MadeSet,
    TileRules,
    make_labelled_set,
)
from spectralgpt.data.samples import Sample, SampleSet, Target
from spectralgpt.errors import DataError
from spectralgpt.rasters import Raster, RasterFile
from spectralgpt.reports.data_sets import _plot_overview, plot_contact_sheet
from spectralgpt.reports.style import HATCH
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
    none = np.empty((0, 0))
    images = [(f"{i}.tif", f"class {i}", (colour,), none) for i in range(7)]
    images.append(("7.tif", "a very " + "long " * 9 + "name", (grey,), none))
    figure = plot_contact_sheet(images, "archive")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown[:7]] == [f"class {i}" for i in range(7)]
    assert len(shown) == 8
    # Names differ at their ends.
    assert re.fullmatch("a very .*….* name", shown[7].get_title())
    picture = np.asarray(shown[0].get_images()[0].get_array())
    # As many screen pixels as one sees: 32 for each of the image's.
    assert picture.shape == (256, 256, 3)
    assert set(np.unique(picture[:64])) == set(np.float32(HATCH))
    assert (picture[64:96, :32] == picture[64, 0]).all()
    assert picture[64:].std() > 0.1
    grey_picture = np.asarray(shown[7].get_images()[0].get_array())
    assert (grey_picture[..., 0] == grey_picture[..., 2]).all()


def masked_set(task: str, **facts: object) -> SampleSet:
    item = RasterFile("x", load_sensor("sentinel-2-l2a"), {}, 1.0, 0.0)
    dates = 2 if task == "change" else 1
    names = ("water", "trees", "snow") if task != "regression" else ("height",)
    return SampleSet((Sample((item,) * dates),), names, task, **facts)  # type: ignore


def panels_of(axes: Any, count: int, side: int = 256) -> list[np.ndarray]:
    picture = np.asarray(axes.get_images()[0].get_array())
    gap = (picture.shape[1] - count * side) // (count - 1)
    return [picture[:, at * (side + gap) :][:, :side] for at in range(count)]


def test_masks_stand_beside_their_images_in_the_colours_of_classes() -> None:
    before, after = raster(("B02", "B03", "B04")), raster(("B02", "B03", "B04"))
    after.pixels[:, 4:] = 0.9
    mask = np.zeros((8, 8), int)
    mask[4:], mask[:, 7] = 1, -1
    masked = masked_set("change", colours=("#0072B2", "#009E73", "#F4F9FC"))
    figure = plot_contact_sheet(
        [("a.tif", "a.tif · val", (before, after), mask)], "pairs", masked
    )
    assert figure.get_suptitle() == "pairs\nbefore | after | mask"
    one, two, codes = panels_of(figure.axes[0], 3)
    assert not np.allclose(one, two)
    assert np.allclose(codes[0, 0] * 255, (0, 114, 178))
    assert np.allclose(codes[200, 0] * 255, (0, 158, 115))
    # A pixel without a label is striped, so that it looks like no class.
    assert set(np.unique(codes[:32, 224:])) == set(np.float32(HATCH))
    # Snow is in none of the masks that are drawn.
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["water", "trees", "no data or label"]


def test_masks_of_numbers_are_drawn_on_one_scale() -> None:
    image, mask = raster(("B02", "B03", "B04")), np.full((8, 8), np.nan, np.float32)
    masked = masked_set("regression", target=Target("height", "m"))
    sheet = [("a.tif", "a.tif", (image,), mask)]
    # Nothing is measured anywhere.
    (_, drawn) = panels_of(plot_contact_sheet(sheet, "x", masked).axes[0], 2)
    assert set(np.unique(drawn)) == set(np.float32(HATCH))
    mask[:4], mask[4:] = 2.0, 30.0
    mask[0, 0] = np.nan
    figure = plot_contact_sheet(sheet, "x", masked)
    (_, drawn) = panels_of(figure.axes[0], 2)
    assert figure.axes[-1].get_xlabel() == "height, m; hatched: none"
    assert len(np.unique(drawn[:, 64:].reshape(-1, 3), axis=0)) == 2
    assert drawn[200, 200].sum() > drawn[40, 200].sum()


def test_no_images() -> None:
    with pytest.raises(DataError, match="no image to draw"):
        plot_contact_sheet([], "archive")
