import json

import numpy as np
import pytest

from spectralgpt.errors import UnitError
from spectralgpt.rasters import Stated, describe_raster
from spectralgpt.rasters.products import offset_from_texts
from spectralgpt.sensors import load_sensor
from tests.raster_files import constant, numbered, write_band_folder, write_tiff

RULE = load_sensor("sentinel-2-l2a").baseline
PRODUCT = "S2A_MSIL2A_20220706T085611_N{}_R007_T33NZA_20220706T153419"
BRIGHT = numbered(["B02", "B03", "B04", "B08"], 1500)

XML = """<?xml version="1.0"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/">
  <n1:General_Info><PROCESSING_BASELINE>04.00</PROCESSING_BASELINE>{}</n1:General_Info>
</n1:Level-2A_User_Product>"""


def describe(path):
    return describe_raster(path, sensor="sentinel-2-l2a")


@pytest.mark.parametrize(
    ("baseline", "offset"), [("0214", 0), ("0301", 0), ("0400", -1000), ("0511", -1000)]
)
def test_baseline_in_the_folder_name_counts(tmp_path, baseline, offset):
    folder = write_band_folder(tmp_path / PRODUCT.format(baseline), BRIGHT)
    item = describe(folder)
    assert item.offset == offset
    assert f"baseline {baseline} in the name" in item.offset_source


def test_nearest_name_counts_and_look_alikes_do_not(tmp_path):
    path = tmp_path / PRODUCT.format("0214") / (PRODUCT.format("0400") + ".tif")
    assert offset_from_texts(path, path, RULE)[0] == -1000
    for other in (
        tmp_path / "place_N0400_x" / "a.tif",
        tmp_path / PRODUCT.format(9999),
    ):
        assert offset_from_texts(other, other, RULE) is None


@pytest.mark.parametrize(
    "content",
    [
        {"PROCESSING_BASELINE": "05.09"},
        {"properties": {"s2:processing_baseline": "04.00"}},
    ],
)
def test_baseline_in_metadata_json_counts(tmp_path, content):
    folder = write_band_folder(tmp_path / "20230101T054639_T43RCP", BRIGHT)
    (folder / "metadata.json").write_text(json.dumps(content))
    item = describe(folder)
    assert (item.offset, item.offset_source) == (-1000, "metadata in metadata.json")


@pytest.mark.parametrize(
    ("inside", "offset"),
    [
        ("", -1000),
        ("<BOA_ADD_OFFSET band_id='0'>-1000</BOA_ADD_OFFSET>", -1000),
        ("<RADIO_ADD_OFFSET band_id='0'>-500</RADIO_ADD_OFFSET>", -500),
    ],
)
def test_offset_in_product_metadata_counts(tmp_path, inside, offset):
    folder = write_band_folder(tmp_path / "x", BRIGHT)
    (folder / "MTD_MSIL2A.xml").write_text(XML.format(inside))
    assert describe(folder).offset == offset


def test_metadata_with_entities_is_not_read(tmp_path):
    folder = write_band_folder(tmp_path / "x", BRIGHT)
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'
    (folder / "MTD_MSIL2A.xml").write_text(bomb)
    with pytest.raises(UnitError, match="declares entities and is not read"):
        describe(folder)


def test_an_offset_that_is_no_number_is_one_line(tmp_path):
    folder = write_band_folder(tmp_path / "x", BRIGHT)
    text = XML.format("<BOA_ADD_OFFSET>minus 1000</BOA_ADD_OFFSET>")
    (folder / "MTD_MSIL2A.xml").write_text(text)
    with pytest.raises(UnitError, match=r"MTD_MSIL2A\.xml is broken: .*minus 1000"):
        describe(folder)


def test_offsets_that_differ_by_band_are_refused(tmp_path):
    folder = write_band_folder(tmp_path / "x", BRIGHT)
    both = "<BOA_ADD_OFFSET>-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET>0</BOA_ADD_OFFSET>"
    (folder / "MTD_MSIL2A.xml").write_text(XML.format(both))
    with pytest.raises(UnitError, match="different offsets a band"):
        describe(folder)


def test_metadata_of_a_neighbour_does_not_count(tmp_path):
    folder = write_band_folder(tmp_path / "archive" / "x", BRIGHT)
    (tmp_path / "archive" / "metadata.json").write_text('{"PROCESSING_BASELINE": "4"}')
    (tmp_path / "archive" / "MTD_MSIL2A.xml").write_text(XML.format(""))
    with pytest.raises(UnitError, match="offset is in doubt"):
        describe(folder)


def test_dark_pixels_of_a_reprocessed_product_show_that_nothing_was_added(tmp_path):
    folder = write_band_folder(tmp_path / PRODUCT.format("9999"), BRIGHT | {"B12": 90})
    item = describe(folder)
    assert item.offset == 0
    assert item.offset_source == "pixels darker than the offset allows"


def test_bright_pixels_of_a_reprocessed_product_leave_it_in_doubt(tmp_path):
    folder = write_band_folder(tmp_path / PRODUCT.format("9999"), BRIGHT)
    with pytest.raises(UnitError, match=r"offset is in doubt.*State the offset: -1000"):
        describe(folder)
    item = describe_raster(folder, "sentinel-2-l2a", Stated(offset=-1000))
    assert (item.offset, item.offset_source) == (-1000, "stated")


def test_nodata_is_no_dark_pixel(tmp_path):
    path = write_tiff(
        tmp_path / "a.tif", constant([0, 1500]), descriptions=["B02", "B03"]
    )
    with pytest.raises(UnitError, match="offset is in doubt"):
        describe(path)


def test_one_odd_pixel_in_a_thousand_proves_nothing(tmp_path):
    values = np.full((1, 25, 40), 1500, np.uint16)
    values[0, 12, 20] = 3
    with pytest.raises(UnitError, match="offset is in doubt"):
        describe(write_tiff(tmp_path / "a.tif", values, descriptions=["B02"]))
    values[0, 12, 5:16] = np.arange(3, 14)
    item = describe(write_tiff(tmp_path / "b.tif", values, descriptions=["B02"]))
    assert item.offset == 0
    assert item.offset_source == "pixels darker than the offset allows"
