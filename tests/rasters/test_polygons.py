from pathlib import Path

import geopandas
import numpy as np
import pytest
from rasterio import Affine
from rasterio.features import rasterize

from spectralgpt.errors import RasterError
from spectralgpt.rasters import NO_CLASS, Grid, Layers, write_polygons, writing_map
from spectralgpt.rasters.grid import compose

NAMES = ("open water", "trees")
COLOURS = ("#0072b2", "#1b7837")
UTM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
TURNED = compose(UTM, Affine.rotation(30))


def write(
    folder: Path, classes: np.ndarray, transform: Affine | None = UTM
) -> tuple[Path, geopandas.GeoDataFrame]:
    source = folder / "map.tif"
    crs = None if transform is None else "EPSG:32632"
    grid = Grid(*classes.shape, transform, crs)
    with writing_map(source, grid, Layers.of_classes(NAMES, COLOURS)) as rows:
        rows(0, classes[None])
    path = write_polygons(source, folder / "map.gpkg", NAMES, COLOURS)
    return path, geopandas.read_file(path, layer="classes")


@pytest.mark.parametrize("transform", [UTM, TURNED])
@pytest.mark.parametrize("tile_px", [8, 2048])
def test_polygons_painted_back_are_the_map(
    tile_px: int,
    transform: Affine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spectralgpt.rasters.maps._TILE_PX", tile_px)
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 1, NO_CLASS], (20, 27), p=[0.5, 0.4, 0.1]).astype(np.uint8)
    _, found = write(tmp_path, classes, transform)
    assert found.crs.to_epsg() == 32632
    assert set(zip(found["class"], found["name"], strict=True)) == set(enumerate(NAMES))
    painted = rasterize(
        zip(found.geometry, found["class"], strict=True),
        classes.shape,
        fill=NO_CLASS,
        transform=transform,
        dtype="uint8",
    )
    np.testing.assert_array_equal(painted, classes)


def test_tiles_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.zeros((20, 27), np.uint8)
    classes[3:17, 5:22] = 1
    classes[9:11, 9:11] = 0
    _, whole = write(tmp_path / "a", classes)
    monkeypatch.setattr("spectralgpt.rasters.maps._TILE_PX", 8)
    _, tiled = write(tmp_path / "b", classes)
    first, second = (
        sorted(frame.geometry, key=lambda shape: shape.area) for frame in (whole, tiled)
    )
    assert len(first) == len(second) == 3
    assert all(a.equals(b) for a, b in zip(first, second, strict=True))
    corners = [len(shape.exterior.coords) for shape in second]
    assert corners == [5, 5, 5]


def test_equal_maps_give_equal_bytes_and_empty_ones_an_empty_layer(
    tmp_path: Path,
) -> None:
    classes = np.random.default_rng(0).integers(0, 2, (20, 27)).astype(np.uint8)
    first, _ = write(tmp_path / "a", classes)
    second, _ = write(tmp_path / "b", classes)
    assert first.read_bytes() == second.read_bytes()
    _, none = write(tmp_path / "c", np.full((4, 4), NO_CLASS, np.uint8))
    assert len(none) == 0


def test_a_map_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="no reference system, so no polygons"):
        write(tmp_path, np.zeros((4, 4), np.uint8), None)
