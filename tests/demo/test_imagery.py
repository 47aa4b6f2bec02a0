"""The demo's imagery is split as the report says, for the user's images too."""

from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.demo import run
from spectralgpt.demo.imagery import Imagery
from spectralgpt.errors import BandError, DatasetNotFoundError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import Raster, Stated, write_geotiff
from spectralgpt.sensors import load_sensor


def write_image(path: Path, sensor: str, names: list[str], side: int = 96) -> None:
    bands = load_sensor(sensor).select(names)
    pixels = np.random.default_rng(0).uniform(0.05, 0.4, (len(bands), side, side))
    raster = Raster(
        pixels.astype(np.float32), np.ones(pixels.shape, bool), bands, name="image"
    )
    write_geotiff(path, raster, sensor)


def test_training_never_draws_from_the_held_out_strip(tmp_path: Path) -> None:
    imagery = Imagery.shipped()
    config = run._demo_config(imagery, tmp_path, 0)
    contract = sensor_preprocessing(
        config.data.sensor, config.data.use_bands, image_size=config.data.image_size
    )
    names = {}
    for split in ("train", "val"):
        dataset = PretrainingDataset(imagery.items, contract, split, config.data.crops)
        names[split] = {dataset.item_of(i).name for i in range(len(dataset))}
    assert names["val"] == {"held-out/middle"}
    assert len(names["train"]) == 7
    assert not names["train"] & names["val"]


def test_demo_leaves_out_the_band_that_sees_no_ground(tmp_path: Path) -> None:
    config = run._demo_config(Imagery.shipped(), tmp_path, 0)
    assert config.data.use_bands is not None
    assert len(config.data.use_bands) == 12
    assert "B10" not in config.data.use_bands
    # These are the bands of the weights in the package.
    assert config.model.start_from == "spectralgpt-tiny-s2"
    assert config.data.statistics == "spectralgpt-tiny-s2"


def test_scene_is_read_from_north_to_south() -> None:
    imagery = Imagery.shipped()
    contract = sensor_preprocessing("sentinel-2-l1c", ["B02", "B08"])
    pixels = imagery.read_pixels(contract)
    assert pixels.shape == (2, 640, 640)
    assert np.isfinite(pixels).all()
    assert imagery.pixel_width_m == pytest.approx(10, rel=0.01)
    # Neighbouring rows are alike across strips: each joins the one that follows it.
    steps = np.abs(np.diff(pixels[1], axis=0)).mean(axis=1)
    assert max(steps[191], steps[383]) < 2 * np.median(steps)


def test_own_folder_is_described_and_its_largest_image_mapped(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    names = ["B2", "B3", "B4", "B5"]
    write_image(folder / "small.tif", "landsat-8-9-l2", names, 64)
    write_image(folder / "large.tif", "landsat-8-9-l2", names, 100)
    imagery = Imagery.of_folder(folder, Stated(sensor="landsat-8-9-l2"))
    [(item, window)] = imagery.strips
    assert "large" in item.name
    assert (window.height, window.width) == (96, 96)
    assert imagery.labels is None
    config = run._demo_config(imagery, tmp_path / "out", 3)
    assert config.data.sensor == "landsat-8-9-l2"
    assert config.data.use_bands == ("B2", "B3", "B4", "B5")
    assert (config.data.root, config.seed) == (folder, 3)
    assert config.model.start_from is None
    assert config.data.statistics is None


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="is no folder"):
        Imagery.of_folder(tmp_path / "nowhere", Stated())


def test_folder_of_two_sensors_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", "landsat-8-9-l2", ["B2", "B3"])
    write_image(tmp_path / "b.tif", "sentinel-2-l2a", ["B02", "B03"])
    with pytest.raises(BandError, match=r"landsat-8-9-l2, sentinel-2-l2a"):
        Imagery.of_folder(tmp_path, Stated())
