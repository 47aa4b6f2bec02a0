import logging

import numpy as np
import pytest

from spectralgpt.data.sources import Source, find_items, read_source
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.rasters import read_raster
from tests.raster_files import (
    S2_L2A,
    constant,
    numbered,
    write_band_folder,
    write_tiff,
)


def stacks(root, count, values=range(2000, 3200, 100)):
    for i in range(count):
        write_tiff(root / f"chip_{i:02}.tif", constant(values))


def source(**changes):
    fields = {
        "name": "chips",
        "sensor": "sentinel-2-l2a",
        "items": "*.tif",
        "bands": S2_L2A,
        "offset": 0.0,
    }
    return Source(**fields | changes)


def read_text(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return read_source(path)


def test_description_says_everything_without_code(tmp_path):
    stacks(tmp_path / "data" / "sub", 2)
    described = read_text(
        tmp_path,
        """
        root: sub
        sensor: sentinel-2-l2a
        items: "*.tif"
        bands: [B12, B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11]
        offset: {chip_00.tif: 0, "*": -1000}
        quantification: 20000
        nodata: [2100]
        place: chip_(?P<place>\\d+)
        holdout: place
        weight: 2
        """,
    )
    one, two = find_items([described], tmp_path / "data")
    assert (one.name, one.place) == ("mine/chip_00.tif", "mine/00")
    assert (one.offset, two.offset, two.quantification) == (0, -1000, 20000)
    assert (one.weight, one.holdout) == (2, "place")
    raster = read_raster(two)
    swir = raster.band_names.index("B12")
    np.testing.assert_allclose(raster.pixels[swir], 0.05, atol=1e-6)
    assert not raster.valid[raster.band_names.index("B01")].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ofset: 0", r"mine\.yaml: unknown key 'ofset'; did you mean 'offset'"),
        ("offset: yes", r"mine\.yaml: 'offset' must be a number or auto, found True"),
        ("weight: 0", "weight is 0; it must be above 0"),
        ("holdout: random", "holdout must be one of auto, place, block, never"),
        ("place: '('", "'place' is no regular expression"),
        ("pattern: B02", r"needs a group \(\?P<band>"),
        ("bands: {a: 1}", "'bands' must be a list of texts"),
        ("nodata: 0", "'nodata' must be a list of numbers or auto"),
        ("keep: {item: '(?P<id>.)'}", "give either 'files' or 'list'"),
        ("index: {colum: x}", "unknown key 'colum'; did you mean 'column'"),
    ],
)
def test_wrong_description_names_file_and_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_text(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_unknown_sensor_is_named(tmp_path):
    stacks(tmp_path, 1)
    with pytest.raises(ConfigError, match="unknown sensor 'sentinel-3'; did you mean"):
        find_items([source(sensor="sentinel-3")], tmp_path)


def test_own_sensor_lies_beside_the_description(tmp_path):
    (tmp_path / "cam.yaml").write_text(
        "{title: t, quantification: 100, offset: 0, nodata: null, saturated: null, "
        "source: s, bands: [{name: X, wavelength_nm: 500, width_nm: 9, gsd_m: 1}]}"
    )
    write_tiff(tmp_path / "a.tif", constant([30]))
    described = read_text(tmp_path, "{sensor: cam.yaml, items: '*.tif', bands: [X]}")
    (item,) = find_items([described], tmp_path)
    np.testing.assert_allclose(read_raster(item).pixels, 0.3, atol=1e-6)


def test_one_bad_file_is_left_out_counted_and_reported_once(tmp_path, caplog):
    stacks(tmp_path, 12)
    (tmp_path / "chip_03.tif").write_bytes(b"II*\0 truncated")
    with caplog.at_level(logging.WARNING):
        items = find_items([source()], tmp_path)
    assert len(items) == 11
    reports = [r for r in caplog.records if r.name == "spectralgpt.data.sources"]
    assert len(reports) == 1
    assert "chips: 1 of 12 images are bad and left out" in reports[0].getMessage()
    assert "chip_03.tif" in reports[0].getMessage()


def test_too_many_bad_files_are_fatal(tmp_path):
    stacks(tmp_path, 12)
    for i in range(2):
        (tmp_path / f"chip_{i:02}.tif").write_bytes(b"")
    message = r"2 of 12 images are bad.*chip_00\.tif.*More than the share of 0\.1"
    with pytest.raises(DataError, match=message) as caught:
        find_items([source()], tmp_path)
    assert "\n" not in str(caught.value)
    assert len(find_items([source()], tmp_path, max_bad_share=0.2)) == 10


def test_missing_root_and_empty_glob_are_named(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"chips: .*nowhere does not exist"):
        find_items([source(root="nowhere")], tmp_path)
    with pytest.raises(DataError, match=r"no image under .* fits '\*\.tif'"):
        find_items([source()], tmp_path)


def test_offset_pattern_that_fits_nothing_is_an_error(tmp_path):
    stacks(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"no offset pattern fits 'chip_00\.tif'"):
        find_items([source(offsets=(("other*", 0.0),))], tmp_path)


def test_automatic_layout_finds_stacks_and_band_folders(tmp_path):
    write_band_folder(tmp_path / "a" / "scene", numbered(S2_L2A), "x_{band}.tif")
    write_tiff(tmp_path / "b" / "stack.tif", constant([900] * 12), descriptions=S2_L2A)
    items = find_items([source(items="auto", bands=None)], tmp_path)
    assert [item.name for item in items] == ["chips/a/scene", "chips/b/stack.tif"]
    assert all(len(item.files) == 12 for item in items)


def test_an_index_may_be_named_by_its_file_alone(tmp_path):
    stacks(tmp_path / "data", 3)
    (tmp_path / "data" / "list.csv").write_text("path\nchip_02.tif\n")
    described = read_text(
        tmp_path,
        f"sensor: sentinel-2-l2a\nindex: list.csv\noffset: 0\n"
        f"bands: [{', '.join(S2_L2A)}]\n",
    )
    (item,) = find_items([described], tmp_path / "data")
    assert item.name == "mine/chip_02.tif"
