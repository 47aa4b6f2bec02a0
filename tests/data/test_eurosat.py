from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.data.datasets import LabelledDataset
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.samples import SampleSet
from spectralgpt.errors import DatasetNotFoundError
from spectralgpt.rasters import read_raster
from tests.tiny import tiny_contract
from tests.toy import write_chip

FILE_BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08"),
    *("B09", "B10", "B11", "B12", "B8A"),
)


def read_eurosat(root: Path) -> SampleSet:
    return read_labelled(LabelledDataConfig(str(root), layout="eurosat"), divided=False)


def fake_copy(root: Path) -> Path:
    """TorchGeo's layout, with a different constant in each band."""
    images = root / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    pixels = {
        band: np.full((16, 16), 100 + index, np.uint16)
        for index, band in enumerate(FILE_BANDS)
    }
    for split, number in (("train", 1), ("val", 2), ("test", 3)):
        names = []
        for kind in ("Forest", "River"):
            name = f"{kind}_{number}"
            write_chip(
                images / kind / f"{name}.tif", pixels, FILE_BANDS, describe=False
            )
            names.append(f"{name}.jpg")
        (root / f"eurosat-{split}.txt").write_text("\n".join(names))
    return root


def test_published_lists_give_the_splits(tmp_path: Path) -> None:
    labelled = read_eurosat(fake_copy(tmp_path))
    assert labelled.class_names == ("Forest", "River")
    assert [(Path(c.item.name).stem, c.split) for c in labelled.samples] == [
        ("Forest_1", "train"),
        ("River_1", "train"),
        ("Forest_2", "val"),
        ("River_2", "val"),
        ("Forest_3", "test"),
        ("River_3", "test"),
    ]


def test_each_band_is_read_under_its_own_name(tmp_path: Path) -> None:
    chip = read_eurosat(fake_copy(tmp_path)).samples[0]
    raster = read_raster(chip.item)
    found = dict(zip(raster.band_names, raster.pixels[:, 0, 0], strict=True))
    for index, band in enumerate(FILE_BANDS):
        assert found[band] == pytest.approx((100 + index) / 10_000)


def test_dropping_b10_keeps_b11_and_puts_b8a_in_its_place(shared: Path) -> None:
    labelled = read_eurosat(shared / "data" / "eurosat-ms")
    dataset = LabelledDataset(labelled, tiny_contract(64))
    for index, chip in enumerate(labelled.samples):
        with rasterio.open(chip.item.name) as file:
            layers = file.read()
        raster = dataset.raster(index)
        names = raster.band_names
        assert "B10" not in names
        # The archive's own order: B10 is layer 10, B11 layer 11, and B8A the last.
        for band, layer in (("B11", 10), ("B12", 11), ("B8A", 12), ("B09", 8)):
            np.testing.assert_allclose(
                raster.pixels[names.index(band)], layers[layer] / 10_000, atol=1e-6
            )
        assert names.index("B8A") == names.index("B08") + 1


def test_absent_archive_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"Set data.download true"):
        read_eurosat(tmp_path)
