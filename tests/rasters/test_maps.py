from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rio_cogeo import cog_validate

from spectralgpt.errors import ConfigError, OutputError, RasterError
from spectralgpt.rasters import NO_CLASS, Grid, Layers, read_codes, writing_map
from spectralgpt.rasters.grid import compose

NAMES = ("open water", "trees & shrubs")
COLOURS = ("#0072b2", "#1b7837")
UTM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
GEOGRAPHIC = Affine(0.001, 0.0, 9.0, 0.0, -0.001, 47.0)
TURNED = compose(UTM, Affine.rotation(30))


def grid(transform: Affine | None = UTM, crs: str | None = "EPSG:32632") -> Grid:
    return Grid(5, 7, transform, crs)


def write(path: Path, on: Grid | None = None) -> np.ndarray:
    classes = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(np.uint8)
    classes[0, 0] = NO_CLASS
    with writing_map(path, on or grid(), Layers.of_classes(NAMES, COLOURS)) as rows:
        rows(0, classes[None, :2])
        rows(2, classes[None, 2:])
    return classes


@pytest.mark.parametrize(
    ("transform", "crs"),
    [(UTM, "EPSG:32632"), (GEOGRAPHIC, "EPSG:4326"), (TURNED, "EPSG:32632")],
)
def test_rows_lie_where_the_grid_says(
    transform: Affine, crs: str, tmp_path: Path
) -> None:
    path = tmp_path / "map.tif"
    classes = write(path, grid(transform, crs))
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), classes)
        assert dataset.crs.to_string() == crs
        assert dataset.transform.almost_equals(transform)


def test_names_and_colours_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    write(path)
    with rasterio.open(path) as dataset:
        assert dataset.dtypes == ("uint8",)
        assert dataset.nodata == NO_CLASS
        assert dataset.colormap(1)[0] == (0x00, 0x72, 0xB2, 255)
        assert dataset.colormap(1)[1] == (0x1B, 0x78, 0x37, 255)
        tags = dataset.tags()
    assert [tags[f"CLASS_{i}"] for i in range(2)] == list(NAMES)
    legend = ElementTree.parse(f"{path}.aux.xml")
    assert [node.text for node in legend.iter("Category")] == list(NAMES)


def large(seed: int = 0) -> np.ndarray:
    """A map of two classes in blocks, of several tiles."""
    blocks = np.random.default_rng(seed).integers(0, 2, (70, 80)).astype(np.uint8)
    classes = blocks.repeat(16, axis=0).repeat(16, axis=1)
    classes[:40, :40] = NO_CLASS
    return classes


def test_large_maps_are_cloud_optimized_and_thinned_out_without_mixing(
    tmp_path: Path,
) -> None:
    classes = large()
    path, shares = tmp_path / "map.tif", tmp_path / "shares.tif"
    place = Grid(*classes.shape, UTM, "EPSG:32632")
    with writing_map(path, place, Layers.of_classes(NAMES, COLOURS)) as rows:
        for row in range(0, len(classes), 100):
            rows(row, classes[None, row : row + 100])
    numbers = np.where(classes == NO_CLASS, np.nan, classes).astype(np.float32)
    with writing_map(shares, place, Layers.of_measures(NAMES)) as rows:
        rows(0, np.stack([1 - numbers, numbers]))
    for made in (path, shares):
        is_valid, errors, warnings = cog_validate(made)
        assert (is_valid, errors, warnings) == (True, [], [])
    with rasterio.open(path, overview_level=0) as dataset:
        thin = dataset.read(1)
        np.testing.assert_array_equal(thin, classes[::2, ::2])
    with rasterio.open(shares, overview_level=1) as dataset:
        mean = dataset.read(2)
    assert np.isnan(mean[:10, :10]).all()
    wanted = numbers[64:128, 64:128].reshape(16, 4, 16, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(mean[16:32, 16:32], wanted, atol=1e-6)


def test_equal_maps_are_equal_bytes_whatever_the_order_of_rows(tmp_path: Path) -> None:
    classes = large()
    place = Grid(*classes.shape, UTM, "EPSG:32632")
    made = []
    for name, starts in (("a", (0, 500)), ("b", (500, 0))):
        path = tmp_path / f"{name}/map.tif"
        with writing_map(path, place, Layers.of_classes(NAMES, COLOURS)) as rows:
            for row in starts:
                rows(row, classes[None, row : row + (500 if row == 0 else 5000)])
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_maps_say_what_made_them(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    write(path)
    with rasterio.open(path) as dataset:
        assert dataset.tags()["TIFFTAG_SOFTWARE"].startswith("spectralgpt ")
        assert dataset.descriptions == ("class",)


def test_probabilities_are_described_by_their_classes(tmp_path: Path) -> None:
    path = tmp_path / "shares.tif"
    shares = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    shares[:, 1, 1] = np.nan
    with writing_map(path, grid(), Layers.of_measures(NAMES)) as rows:
        rows(0, shares)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(), shares)
        assert dataset.descriptions == NAMES
        assert np.isnan(dataset.nodata)


def test_a_map_without_georeference_stays_without(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    classes = write(path, grid(None, None))
    found, _ = read_codes(path, 1, np.arange(5), np.arange(7))
    np.testing.assert_array_equal(found, classes)


def test_what_is_interrupted_leaves_the_old_map_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "map.tif"
    write(path)
    before = path.read_bytes()

    def interrupted() -> None:
        with writing_map(path, grid(), Layers.of_classes(NAMES, COLOURS)) as rows:
            rows(0, np.zeros((1, 2, 7), np.uint8))
            raise RasterError("scene is truncated")

    with pytest.raises(RasterError, match=r"^scene is truncated$"):
        interrupted()
    assert path.read_bytes() == before
    made = ["map.qml", "map.tif", "map.tif.aux.xml"]
    assert sorted(p.name for p in tmp_path.iterdir()) == made


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    many = [f"class {number}" for number in range(256)]
    with pytest.raises(ConfigError, match="256 classes do not fit"):
        Layers.of_classes(many, ["#000000"] * 256)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match=r"map\.tif cannot be written"):
        write(blocked / "map.tif")
