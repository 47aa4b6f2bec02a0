"""Names of layers are held against the wavelengths that a file says itself."""

import numpy as np
import pytest
import rasterio

from spectralgpt.errors import BandError
from spectralgpt.rasters import Stated, describe_raster
from tests.raster_files import constant, write_tiff

SENSOR = "sentinel-2-l2a"
NM = {"B02": 492.4, "B03": 559.8, "B04": 664.6}


def write(path, units="Nanometers", factor=1.0, descriptions=None):
    write_tiff(path, constant([500, 900, 1400]), descriptions=descriptions)
    with rasterio.open(path, "r+") as dataset:
        for layer, nm in enumerate(NM.values(), start=1):
            tags = {"wavelength": f"{nm * factor:g}", "wavelength_units": units}
            dataset.update_tags(layer, **tags)
    return path


@pytest.mark.parametrize(
    ("units", "factor"), [("Nanometers", 1), ("Micrometers", 0.001)]
)
def test_stated_names_in_another_order_are_refused(tmp_path, units, factor):
    path = write(tmp_path / "a.tif", units, factor)
    right = describe_raster(path, SENSOR, Stated(bands=tuple(NM), offset=0.0))
    assert [band.name for band in right.bands] == list(NM)
    with pytest.raises(
        BandError, match=r"layer 1 is named B04.*665 nm.*says 492.4 nm\."
    ):
        describe_raster(path, SENSOR, Stated(bands=tuple(NM)[::-1], offset=0.0))


def test_descriptions_in_another_order_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", descriptions=tuple(NM)[::-1])
    with pytest.raises(BandError, match="layer 1 is named B04"):
        describe_raster(path, SENSOR, Stated(offset=0.0))


def test_wavelengths_of_an_unknown_unit_say_nothing(tmp_path):
    path = write(tmp_path / "a.tif", units="Unknown")
    found = describe_raster(path, SENSOR, Stated(bands=tuple(NM)[::-1], offset=0.0))
    assert np.array_equal([b.name for b in found.bands], list(NM))
