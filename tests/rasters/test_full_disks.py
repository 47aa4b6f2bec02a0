"""A disk that is full gives an error in one line, and no raster that is not whole."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from spectralgpt.errors import OutputError
from spectralgpt.rasters import (
    Grid,
    Layers,
    Raster,
    read_numbers,
    write_geotiff,
    writing_map,
)
from spectralgpt.rasters import write as write_module
from spectralgpt.rasters.embeddings import EmbeddingSource, writing_embeddings
from spectralgpt.rasters.write import write_numbers, write_strips
from spectralgpt.sensors import load_sensor
from tests.small_disks import small_disk

SIDE = 700
GRID = Grid(SIDE, SIDE, Affine(10, 0, 5e5, 0, -10, 4e6), "EPSG:32632")
BANDS = load_sensor("sentinel-2-l2a").bands[:3]
Writer = Callable[[Path], None]


def noise(layers: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).random((layers, side, side), np.float32)


def classes() -> np.ndarray:
    return (noise(1) * 250).astype(np.uint8)


def write_class_map(path: Path) -> None:
    names = [f"class {i}" for i in range(250)]
    with writing_map(path, GRID, Layers.of_classes(names, ["#102030"] * 250)) as write:
        for row in range(0, SIDE, 100):
            write(row, classes()[:, row : row + 100])


def write_probability_map(path: Path) -> None:
    with writing_map(path, GRID, Layers.of_measures(["a", "b"])) as write:
        write(0, noise(2))


def write_halves(path: Path) -> None:
    write_embedding(path, "float16")


def write_bytes(path: Path) -> None:
    write_embedding(path, "int8")


def write_embedding(path: Path, number_type: str) -> None:
    grid = Grid(150, 150, GRID.transform, GRID.crs)
    source = EmbeddingSource("one", "scene", 32, 8, 8, (), "0")
    with writing_embeddings(path, grid, source, number_type) as write:  # type: ignore[arg-type]
        for row in range(0, 150, 8):
            write(row, noise(32, 150)[:, row : row + 8])


def write_reflectance(path: Path) -> None:
    pixels = noise(3)
    valid = np.ones(pixels.shape, bool)
    write_geotiff(path, Raster(pixels, valid, BANDS, GRID.crs, GRID.transform))


def write_integers(path: Path) -> None:
    numbers = (noise(3) * 60_000).astype(np.uint16)
    write_numbers(path, numbers, GRID, ["a", "b", "c"], nodata=0)


def write_mask(path: Path) -> None:
    write_strips(path, GRID, [classes()[0, :300], classes()[0, 300:]])


WRITERS: list[Writer] = [
    write_class_map,
    write_probability_map,
    write_halves,
    write_bytes,
    write_reflectance,
    write_integers,
    write_mask,
]


@pytest.mark.parametrize("write", WRITERS)
def test_on_a_full_disk_a_raster_is_whole_or_not_there(
    tmp_path: Path, write: Writer
) -> None:
    write(tmp_path / "whole" / "a.tif")
    wanted = read_numbers(tmp_path / "whole" / "a.tif")
    size_kib = (tmp_path / "whole" / "a.tif").stat().st_size // 1024
    failures = 0
    # From a disk that does not hold the first rows to one that holds all but a bit.
    for share in np.linspace(0.05, 6.0, 10):
        with small_disk(tmp_path / "disk", int(size_kib * share) + 64) as disk:
            path = disk / "a.tif"
            message = failure(write, path)
            if message is None:
                np.testing.assert_array_equal(read_numbers(path), wanted)
                continue
            failures += 1
            assert "\n" not in message
            assert str(disk / "a.tif") in message
            assert ".making" not in message
            assert "Make room (the disk has" in message
            assert list(disk.iterdir()) == []
    assert failures


def failure(write: Writer, path: Path) -> str | None:
    try:
        write(path)
    except OutputError as error:
        return str(error)
    return None


def test_the_old_raster_stays_when_there_is_no_room_for_a_new_one(
    tmp_path: Path,
) -> None:
    write_mask(tmp_path / "a.tif")
    size_kib = (tmp_path / "a.tif").stat().st_size // 1024
    with small_disk(tmp_path / "disk", int(size_kib * 1.5)) as disk:
        shutil.copy(tmp_path / "a.tif", disk / "a.tif")
        for write in (write_probability_map, write_halves, write_integers):
            with pytest.raises(OutputError, match="Make room"):
                write(disk / "a.tif")
            assert (disk / "a.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
            assert [path.name for path in disk.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_is_a_file_is_named(tmp_path: Path, write: Writer) -> None:
    (tmp_path / "out").write_text("no folder")
    with pytest.raises(OutputError, match=r"out/a\.tif cannot be written: .*--output"):
        write(tmp_path / "out" / "a.tif")


def test_rasters_that_lack_a_block_or_bytes_are_found_out(tmp_path: Path) -> None:
    write_class_map(tmp_path / "a.tif")
    write_module._check_whole(tmp_path / "a.tif")
    whole = (tmp_path / "a.tif").read_bytes()
    for lost in (len(whole) // 2, 1000, 10):
        # Of the hole before it GDAL reads what happens to come of it.
        held = whole[:-lost]
        for there in (held, held + bytes(lost)):
            (tmp_path / "b.tif").write_bytes(there)
            with pytest.raises(OSError, match=r"block \d, \d of layer 1 is lost"):
                write_module._check_whole(tmp_path / "b.tif")
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "sparse_ok": True}
    profile |= {"height": 64, "width": 64, "blockysize": 8, "compress": "deflate"}
    profile |= {"transform": GRID.transform, "crs": GRID.crs}
    with rasterio.open(tmp_path / "c.tif", "w", **profile) as dataset:
        dataset.write(
            np.ones((8, 64), np.uint8), 1, window=rasterio.windows.Window(0, 0, 64, 8)
        )
    with pytest.raises(OSError, match="block 1, 0 of layer 1 is lost"):
        write_module._check_whole(tmp_path / "c.tif")


def test_a_raster_without_any_valid_pixel_is_whole(tmp_path: Path) -> None:
    with writing_map(tmp_path / "a.tif", GRID, Layers.of_measures(["a"])) as write:
        write(0, np.full((1, SIDE, SIDE), np.nan, np.float32))
    assert np.isnan(read_numbers(tmp_path / "a.tif")).all()
