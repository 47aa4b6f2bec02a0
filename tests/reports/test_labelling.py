from pathlib import Path

import numpy as np

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling import (
    LabelSource,
    Overview,
    TileRules,
    make_labelled_set,
)
from spectralgpt.reports.labelling import plot_overview
from tests.label_files import SENSOR, halves, write_labels, write_scene


def test_the_picture_names_splits_and_classes(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    path = write_labels(tmp_path / "a.gpkg", *halves())
    seen = []

    def draw(overview: Overview, _: Path) -> None:
        figure = plot_overview(overview)
        top, bottom = figure.subfigs
        (legend,) = top.legends
        seen.extend(text.get_text() for text in legend.get_texts())
        maps = top.axes[1].images[0].get_array()
        # Water in blue above trees in green.
        assert np.allclose(maps[3, 3] * 255, (0, 114, 178))
        assert np.allclose(maps[90, 3] * 255, (0, 158, 115))
        # Each tile once, and two lines around each block.
        blocks = {tile.tile.cell for tile in overview.tiles}
        drawn = len(overview.tiles) + 2 * len(blocks)
        assert len(top.axes[0].patches) == drawn
        assert len(bottom.axes) == 2 * len(overview.samples(3))

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
