"""Maps on disk: what they say of themselves, and what they hold."""

from pathlib import Path

import pytest
import rasterio

from spectralgpt.rasters import OpenFiles
from spectralgpt.rasters.lookup import sample_map, shown_grid
from spectralgpt.rasters.maps import open_map
from tests.raster_files import S2_L2A, constant, write_tiff
from tests.viewer.places import (
    COLOURS,
    GRID,
    NAMES,
    classes,
    write_classes,
    write_measures,
    write_scene,
)


def test_our_maps_keep_names_and_colours(tmp_path: Path) -> None:
    found = open_map(write_classes(tmp_path / "map.tif"))
    assert found is not None
    assert found.kind == "classes"
    assert tuple(found.names.values()) == NAMES
    assert tuple(found.colours.values()) == COLOURS
    files = OpenFiles()
    codes, valid = sample_map(found, 0, shown_grid(GRID, 0, 0, 1, 96), GRID, files)
    files.close()
    assert (codes[valid] == classes()[:, :96][valid]).all()
    assert (valid == (classes()[:, :96] != 255)).all()


def test_measures_are_scaled_as_the_file_says(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "m.tif", constant([7], dtype="int16"), nodata=-1)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5,), (10.0,)
    found = open_map(path)
    assert found is not None
    assert found.kind == "measures"
    files = OpenFiles()
    values, valid = sample_map(
        found, 0, shown_grid(found.grid, 0, 0, 1, 16), found.grid, files
    )
    files.close()
    assert valid.all()
    assert values == pytest.approx(13.5)


def test_a_table_of_colours_alone_makes_classes(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "m.tif", constant([1], dtype="uint8"), nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {1: (10, 20, 30, 255), 2: (200, 100, 0, 255)})
    found = open_map(path)
    assert found is not None
    assert (found.names[1], found.colours[1]) == ("class 1", "#0a141e")
    assert (found.names[2], found.colours[2]) == ("class 2", "#c86400")


def test_scenes_are_no_maps(tmp_path: Path) -> None:
    assert open_map(write_scene(tmp_path / "scene.tif")) is None
    bands = constant(range(1000, 1012))
    path = write_tiff(tmp_path / "stack.tif", bands, descriptions=S2_L2A)
    assert open_map(path) is None
    assert open_map(write_measures(tmp_path / "measures.tif")) is not None
