"""Desktop programs draw classes as we do: each once, in its colour."""

import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from spectralgpt.data.classes import CATEGORY_COLOURS
from spectralgpt.rasters import Grid, Layers, write_polygons, writing_map
from spectralgpt.rasters.maps import open_map
from tests.raster_files import constant, write_tiff

GRID = Grid(4, 8, Affine(10.0, 0.0, 5e5, 0.0, -10.0, 4e6), "EPSG:32632")


def write(folder: Path, count: int) -> tuple[Path, list[str], list[str]]:
    names = [f"<class> & {number}" for number in range(count)]
    names[1] = "woods\x01"
    colours = [colour.lower() for colour in CATEGORY_COLOURS[:count]]
    classes = (np.arange(32) % count).reshape(1, 4, 8).astype(np.uint8)
    path = folder / "map.tif"
    with writing_map(path, GRID, Layers.of_classes(names, colours)) as rows:
        rows(0, classes)
    names[1] = "woods "
    return path, names, colours


@pytest.mark.parametrize("count", [8, 20])
def test_a_raster_has_a_style_beside_it(count: int, tmp_path: Path) -> None:
    path, names, colours = write(tmp_path, count)
    style = ElementTree.parse(path.with_suffix(".qml"))
    entries = [node.attrib for node in style.iter("paletteEntry")]
    assert [entry["value"] for entry in entries] == [str(i) for i in range(count)]
    assert [entry["label"] for entry in entries] == names
    assert [entry["color"] for entry in entries] == colours
    assert len({entry["color"] for entry in entries}) == count
    legend = ElementTree.parse(f"{path}.aux.xml")
    assert [node.text for node in legend.iter("Category")] == names
    # As gdalinfo says them.
    found = open_map(path)
    assert found is not None
    assert list(found.colours.values()) == colours


def test_polygons_have_a_style_in_their_geopackage(tmp_path: Path) -> None:
    path, names, colours = write(tmp_path, 8)
    made = write_polygons(path, tmp_path / "map.gpkg", names, colours)
    with closing(sqlite3.connect(made)) as opened:
        kind = "select data_type from gpkg_contents where table_name = 'layer_styles'"
        assert opened.execute(kind).fetchall() == [("attributes",)]
        query = "select f_table_name, f_geometry_column, useAsDefault, styleQML"
        (row,) = opened.execute(f"{query} from layer_styles").fetchall()
        geometry = "select table_name, column_name from gpkg_geometry_columns"
        assert opened.execute(geometry).fetchall() == [row[:2]]
        fields = {name for _, name, *_ in opened.execute("pragma table_info(classes)")}
    assert row[2] == 1
    style = ElementTree.fromstring(row[3])
    drawn = next(style.iter("renderer-v2"))
    assert drawn.get("attr") in fields
    categories = list(style.iter("category"))
    assert [each.get("value") for each in categories] == [str(i) for i in range(8)]
    assert [each.get("label") for each in categories] == names
    symbols = {node.get("name"): node for node in style.iter("symbol")}
    for category, colour in zip(categories, colours, strict=True):
        symbol = symbols[category.get("symbol")]
        (fill,) = [
            each.get("value")
            for each in symbol.iter("Option")
            if each.get("name") == "color"
        ]
        assert fill is not None
        red, green, blue, opaque = map(int, fill.split(","))
        assert f"#{red:02x}{green:02x}{blue:02x}" == colour
        assert opaque == 255


@pytest.mark.parametrize(
    ("table", "tags", "black"),
    [
        ({0: (0, 0, 0, 255), 1: (9, 9, 9, 255)}, {}, [0]),
        ({0: (9, 9, 9, 255), 1: (0, 0, 0, 255)}, {"CLASS_1": "burnt"}, [1]),
        # Codes that the table does not state.
        ({0: (9, 9, 9, 255), 3: (8, 8, 8, 255)}, {}, []),
        ({0: (9, 9, 9, 255), 1: (8, 8, 8, 255)}, {}, []),
    ],
)
def test_black_stays_black(
    table: dict[int, tuple[int, ...]],
    tags: dict[str, str],
    black: list[int],
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "m.tif", constant([1], dtype="uint8"))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, table)
        dataset.update_tags(**tags)
    found = open_map(path)
    assert found is not None
    assert [code for code, c in found.colours.items() if c == "#000000"] == black
