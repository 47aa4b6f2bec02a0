"""A GeoPackage over the Major TOM scene, whose bands have three resolutions."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import shapes
from shapely.geometry import shape

from spectralgpt.data.dense import DenseDataset, read_dense, read_dense_config
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling import LabelSource, TileRules, make_labelled_set
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import Window, describe_raster, read_raster

TILE_PX = 128


@pytest.fixture(scope="module")
def scene(shared: Path) -> Path:
    (folder,) = shared.glob("data/major-tom/S2L2A/199U/199U_1099R/S2B*")
    return folder


def covers(scene: Path) -> tuple[np.ndarray, rasterio.Affine, str]:
    """Dry, wet and green 120 m squares: codes of each 10 m pixel."""
    numbers = {}
    for band in ("B03", "B04", "B08"):
        with rasterio.open(scene / f"{band}.tif") as file:
            numbers[band] = file.read(1).astype(float)[6::12, 6::12]
            transform, crs = file.transform, str(file.crs)
    green, red, near = (numbers[band] for band in ("B03", "B04", "B08"))
    codes = np.zeros(near.shape, np.uint8)
    codes[(near - red) / (near + red) > 0.5] = 2
    codes[(green - near) / (green + near) > 0] = 1
    return np.kron(codes, np.ones((12, 12), np.uint8)), transform, crs


def test_masks_of_a_real_scene_line_up_to_the_pixel(
    scene: Path, tmp_path: Path
) -> None:
    codes, transform, crs = covers(scene)
    names = ("dry", "water", "green")
    polygons = list(shapes(codes, transform=transform))
    frame = geopandas.GeoDataFrame(
        {"cover": [names[int(code)] for _, code in polygons]},
        geometry=[shape(polygon) for polygon, _ in polygons],
        crs=crs,
    )
    frame.to_file(tmp_path / "covers.gpkg", layer="covers")
    made = make_labelled_set(
        [scene],
        ImageFormat(),
        LabelSource(tmp_path / "covers.gpkg", "cover"),
        TileRules(gap_m=60.0),
        tmp_path / "town",
    )
    dense = read_dense(read_dense_config(made.folder / "labels.yaml"))
    order = np.array([names.index(name) for name in dense.class_names])
    assert len(dense.samples) == 8 * 8
    item = describe_raster(scene)
    for number, chip in enumerate(dense.samples):
        row, column = (int(part[1:]) for part in Path(chip.name).stem.split("_")[-2:])
        part = codes[row : row + TILE_PX, column : column + TILE_PX]
        with rasterio.open(chip.mask.path) as mask:
            assert np.array_equal(order[mask.read(1)], part)
            assert mask.transform == chip.item.grid().transform
        if number % 20 == 0:
            window = read_raster(item, window=Window(row, column, TILE_PX, TILE_PX))
            tile = read_raster(chip.item)
            assert np.array_equal(tile.pixels, window.pixels)
            assert tile.transform == window.transform
    model = sensor_preprocessing("sentinel-2-l2a", image_size=TILE_PX)
    sample = DenseDataset(dense.select("test"), model)[0]
    assert sample["image"].shape == (12, TILE_PX, TILE_PX)
