import numpy as np
import pytest
import rasterio

from spectralgpt.errors import BandError, ConfigError, RasterError, UnitError
from spectralgpt.rasters import Stated, describe_raster, read_raster, write_geotiff
from spectralgpt.sensors import load_sensor
from tests.raster_files import S2_L2A, constant, numbered, write_band_folder, write_tiff

EUROSAT = [
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10"),
    *("B11", "B12", "B8A"),
]


def refuses(error, message, path, **options):
    with pytest.raises(error, match=message) as caught:
        describe_raster(path, stated=Stated(**options))
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def stack(path, values=(900, 1800), dtype="uint16", **options):
    names = S2_L2A[: len(values)]
    return write_tiff(
        path, constant(values, dtype=dtype), descriptions=names, **options
    )


def test_file_order_of_eurosat_drops_b10_and_keeps_b11(tmp_path):
    values = numbered(EUROSAT)
    path = write_tiff(tmp_path / "AnnualCrop_1.tif", constant(list(values.values())))
    item = describe_raster(path, "sentinel-2-l1c", Stated(bands=EUROSAT, offset=0))
    bands = item.sensor.select(exclude=["B10"])
    raster = read_raster(item, bands)
    found = dict(zip(raster.band_names, raster.pixels[:, 0, 0], strict=True))
    assert "B10" not in found
    assert found == pytest.approx({b: values[b] / 1e4 for b in EUROSAT if b != "B10"})


def test_band_descriptions_name_the_layers_in_any_order(tmp_path):
    names = ["B8A", "blue", "B4 (665 nm)", "1610 nm"]
    path = write_tiff(tmp_path / "a.tif", constant([1, 2, 3, 4]), descriptions=names)
    item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
    indices = {name: file.index for name, file in item.files.items()}
    assert indices == {"B8A": 1, "B02": 2, "B04": 3, "B11": 4}


def test_layers_of_unknown_names_are_named_and_refused(tmp_path):
    names = ["blue", "SCL", "B4", ""]
    path = write_tiff(tmp_path / "a.tif", constant([1, 2, 3, 4]), descriptions=names)
    message = r"layers 2 \(SCL\), 4 \(no name\) .* --bands B02,-,B04,- takes those"
    refuses(BandError, message, path, sensor="sentinel-2-l2a", offset=0)
    item = describe_raster(
        path, "sentinel-2-l2a", Stated(bands=["blue", "-", "B4", "-"], offset=0)
    )
    assert {n: f.index for n, f in item.files.items()} == {"B02": 1, "B04": 3}


@pytest.mark.parametrize(
    ("sensor", "names", "bands"),
    [
        (
            "landsat-8-9-l2",
            ["coastal", "blue", "green", "red", "nir", "swir1", "swir2"],
            ["B1", "B2", "B3", "B4", "B5", "B6", "B7"],
        ),
        ("landsat-8-9-l2", ["nir08", "swir16", "swir_22"], ["B5", "B6", "B7"]),
        ("sentinel-2-l2a", ["nir", "nir08", "SWIR 1"], ["B08", "B8A", "B11"]),
        (
            "sentinel-2-l2a",
            ["red", "Red Edge 1", "red_edge_2", "rededge078", "re1 again: B09"],
            None,
        ),
        ("sentinel-2-l2a", ["red", "red edge"], None),
        ("sentinel-2-l2a", ["nir", "narrow nir"], None),
        ("sentinel-2-l2a", ["nir 1", "nir 2"], None),
        ("landsat-8-9-l2", ["rededge", "infra red"], None),
    ],
)
def test_common_names_are_known_and_ambiguous_ones_refused(
    tmp_path, sensor, names, bands
):
    pixels = constant([9000 + i for i in range(len(names))])
    path = write_tiff(tmp_path / "a.tif", pixels, descriptions=names)
    if bands is None:
        with pytest.raises(BandError, match=r"are no known bands|does not say which"):
            describe_raster(path, sensor, Stated(offset=0))
        return
    item = describe_raster(path, sensor, Stated(offset=0))
    assert sorted(item.files, key=lambda name: item.files[name].index) == bands


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("tile_B1_1.tif", "B01"),
        ("scene_red_edge_1.tif", "B05"),
        ("scene_red.tif", "B04"),
        ("site_b_1.tif", None),
        ("scene_red_edge.tif", None),
    ],
)
def test_words_of_a_file_name_are_a_band_only_as_a_whole(tmp_path, name, band):
    path = write_tiff(tmp_path / name, constant([1000]))
    if band is None:
        refuses(BandError, "does not say", path, sensor="sentinel-2-l2a", offset=0)
        return
    item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
    assert list(item.files) == [band]


def test_wavelengths_in_descriptions_name_the_layers(tmp_path):
    texts = ["band 1 (2445.53 Nanometers)", "band 2 (423.874 Nanometers)", "0.665 um"]
    path = write_tiff(tmp_path / "e.tif", constant([7, 8, 9]), descriptions=texts)
    item = describe_raster(path, sensor="enmap-l2a")
    assert {n: f.index for n, f in item.files.items()} == {
        "B224": 1,
        "B002": 2,
        "B048": 3,
    }


def test_layers_are_never_guessed_by_position(tmp_path):
    path = write_tiff(tmp_path / "nameless.tif", constant(range(1, 13)))
    message = (
        "12 layers is which band of sentinel-2-l2a .* Set band descriptions or pass"
    )
    refuses(BandError, message, path, sensor="sentinel-2-l2a", offset=0)


def test_wrong_number_of_stated_bands_is_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", constant([1, 2, 3]))
    message = "has 3 layers, 2 bands were stated"
    refuses(BandError, message, path, sensor="sentinel-2-l2a", bands=["B02", "B03"])


def test_a_dash_skips_a_layer_that_is_no_band(tmp_path):
    path = write_tiff(tmp_path / "a.tif", constant([5, 6, 7]))
    item = describe_raster(
        path, "sentinel-2-l2a", Stated(bands=["B04", "-", "B03"], offset=0)
    )
    assert {n: f.index for n, f in item.files.items()} == {"B04": 1, "B03": 3}


def test_two_layers_of_one_band_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", constant([1, 2]), descriptions=["B2", "blue"])
    refuses(BandError, "two layers are called B02", path, sensor="sentinel-2-l2a")


@pytest.mark.parametrize(
    "name",
    [
        "{band}.tif",
        "T33UUP_20170613T101031_{band}_10m.tif",
        "S2A_MSIL2A_20170613T101031_87_48_{band}.TIF",
        "s2-{band}.tiff",
    ],
)
def test_bands_are_found_in_file_names(tmp_path, name):
    folder = write_band_folder(tmp_path / "x", numbered(S2_L2A), name)
    write_tiff(folder / "cloud_mask.tif", constant([1]))
    (folder / "thumbnail.png").write_bytes(b"no raster")
    item = describe_raster(folder, "sentinel-2-l2a", Stated(offset=0))
    raster = read_raster(item)
    expected = [v / 1e4 for v in numbered(S2_L2A).values()]
    np.testing.assert_allclose(raster.pixels[:, 0, 0], expected, atol=1e-6)


def test_safe_folder_takes_the_native_copy_and_no_masks(tmp_path):
    safe = (
        tmp_path / "S2A_MSIL2A_20230613T101031_N0509_R022_T33UUP_20230613T153419.SAFE"
    )
    images = safe / "GRANULE" / "L2A_T33UUP_A041" / "IMG_DATA"
    one = "T33UUP_20230613T101031_{}_{}.tif"
    write_tiff(images / "R10m" / one.format("B02", "10m"), constant([2500], 12))
    write_tiff(images / "R20m" / one.format("B02", "20m"), constant([9999], 6), res=20)
    write_tiff(images / "R20m" / one.format("B05", "20m"), constant([3500], 6), res=20)
    masks = images.parent / "QI_DATA"
    write_tiff(masks / "MSK_DETFOO_B02.tif", constant([1], 24), res=5)
    item = describe_raster(safe)
    assert item.sensor.name == "sentinel-2-l2a"
    assert item.offset == -1000
    raster = read_raster(item)
    assert raster.band_names == ("B02", "B05")
    np.testing.assert_allclose(raster.pixels[:, 5, 5], [0.15, 0.25], atol=1e-6)


def test_two_files_of_one_band_are_refused(tmp_path):
    folder = write_band_folder(tmp_path / "x", {"a_B02": 1, "b_B02": 2})
    refuses(BandError, "two files for band B02", folder, sensor="sentinel-2-l2a")


def test_folder_without_the_asked_band_names_what_is_there(tmp_path):
    folder = write_band_folder(tmp_path / "x", {"B02": 1, "B03": 2})
    message = r"no file named after band B11 of sentinel-2-l2a \(found: none\)"
    refuses(BandError, message, folder, sensor="sentinel-2-l2a", bands=["B11"])


def test_pattern_finds_bands_that_file_names_hide(tmp_path):
    folder = write_band_folder(tmp_path / "x", {"imgB2x": 8500, "imgB3x": 9500})
    options = {"sensor": "landsat-8-9-l1"}
    refuses(BandError, "no file named after band names", folder, **options)
    item = describe_raster(
        folder, stated=Stated(band_pattern=r"img(?P<band>B\d)x", **options)
    )
    assert read_raster(item).pixels[:, 0, 0] == pytest.approx([0.07, 0.09])


@pytest.mark.parametrize(
    ("name", "sensor"),
    [
        ("S2B_MSIL1C_20200223T032739_N0209_R018_T48QUE_20200223T070000", "l1c"),
        ("S2C_MSIL2A_20250223T032739_N0511_R018_T48QUE_20250223T070000", "l2a"),
    ],
)
def test_sensor_is_read_from_the_product_name(tmp_path, name, sensor):
    folder = write_band_folder(tmp_path / name, numbered(["B02", "B03"], 2000))
    assert describe_raster(folder).sensor.name == f"sentinel-2-{sensor}"


def test_sensor_in_doubt_is_asked_for(tmp_path):
    path = write_tiff(tmp_path / "a.tif", constant([1]))
    refuses(ConfigError, "does not say which sensor took it. State one of: desis", path)


def test_missing_file_is_named(tmp_path):
    refuses(RasterError, r"does not exist. Check the path", tmp_path / "gone.tif")


def test_no_fixed_scale_is_asked_for(tmp_path):
    path = stack(tmp_path / "B2.tif", [500])
    options = {"sensor": "gaofen-1-wfv", "bands": ["B2"]}
    refuses(UnitError, "has no fixed scale", path, **options)
    item = describe_raster(path, stated=Stated(**options, quantification=2000))
    assert read_raster(item).pixels.max() == pytest.approx(0.25)


def test_landsat_offset_needs_no_baseline(tmp_path):
    folder = write_band_folder(tmp_path / "x", {"l8_B5": 15000, "l8_B10": 23000})
    raster = read_raster(describe_raster(folder, sensor="landsat-8-9-l1"))
    assert raster.band_names == ("B5",)  # the thermal band is no reflectance
    np.testing.assert_allclose(raster.pixels, 0.2, atol=1e-6)


def test_own_files_are_never_scaled_again(tmp_path):
    numbers = describe_raster(
        stack(tmp_path / "a.tif", [1500, 2500]), "sentinel-2-l2a", Stated(offset=-1000)
    )
    path = write_geotiff(tmp_path / "b.tif", read_raster(numbers), "sentinel-2-l2a")
    item = describe_raster(path)
    assert (item.unit, item.offset, item.quantification) == ("reflectance", 0, 1)
    np.testing.assert_allclose(read_raster(item).pixels[:, 0, 0], [0.05, 0.15])
    for options in ({"offset": -1000}, {"quantification": 10000}):
        refuses(UnitError, "already holds reflectance.*twice-applied", path, **options)
    refuses(UnitError, "tagged as reflectance.*twice", path, unit="digital-numbers")


def test_small_floats_are_reflectance_and_take_no_offset(tmp_path):
    path = stack(tmp_path / "f.tif", [0.05, 0.3], "float32")
    assert describe_raster(path, sensor="sentinel-2-l2a").unit == "reflectance"
    message = "already holds reflectance.*twice-applied offset"
    refuses(UnitError, message, path, sensor="sentinel-2-l2a", offset=-1000)


def test_large_floats_are_digital_numbers(tmp_path):
    path = stack(tmp_path / "f.tif", [500.0, 3000.0], "float32")
    item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
    np.testing.assert_allclose(read_raster(item).pixels[:, 0, 0], [0.05, 0.3])


def test_floats_in_between_are_asked_about(tmp_path):
    path = stack(tmp_path / "f.tif", [5.0, 12.0], "float32")
    refuses(UnitError, "neither clearly reflectance nor", path, sensor="sentinel-2-l2a")


def test_a_stated_quantification_settles_floats_in_between(tmp_path):
    path = stack(tmp_path / "percent.tif", [5.0, 12.0], "float32")
    item = describe_raster(path, "landsat-8-9-l2", Stated(quantification=100, offset=0))
    np.testing.assert_allclose(read_raster(item).pixels[:, 0, 0], [0.05, 0.12])


def test_a_scale_that_changes_nothing_may_be_stated_of_reflectance(tmp_path):
    path = stack(tmp_path / "f.tif", [0.05, 0.3], "float32")
    item = describe_raster(path, "sentinel-2-l2a", Stated(quantification=1, offset=0))
    np.testing.assert_allclose(read_raster(item).pixels[:, 0, 0], [0.05, 0.3])


def test_unknown_unit_is_refused(tmp_path):
    path = stack(tmp_path / "f.tif")
    with pytest.raises(UnitError, match="unknown unit 'percent'"):
        describe_raster(path, "sentinel-2-l2a", Stated(unit="percent"))


def test_scale_of_the_file_itself_is_used_and_not_doubled(tmp_path):
    path = stack(tmp_path / "s.tif", [7500, 12500])
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (2e-5, 2e-5), (-0.1, -0.1)
    item = describe_raster(path, sensor="sentinel-2-l2a")
    np.testing.assert_allclose(read_raster(item).pixels[:, 0, 0], [0.05, 0.15])
    message = "states its own scale and offset.*twice-applied"
    refuses(UnitError, message, path, sensor="sentinel-2-l2a", offset=-1000)


def test_nodata_of_the_file_comes_before_that_of_the_sensor(tmp_path):
    path = stack(tmp_path / "a.tif", nodata=7)
    item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
    assert (item.nodata, item.other_invalid) == (7, (65535,))
    item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0, nodata=[1, 2]))
    assert (item.nodata, item.other_invalid) == (1, (2, 65535))


def test_description_of_one_band_file_uses_its_name(tmp_path):
    path = write_tiff(tmp_path / "T33UUP_B03.tif", constant([1500]))
    item = describe_raster(path, load_sensor("sentinel-2-l2a"), Stated(offset=0))
    assert list(item.files) == ["B03"]


def test_file_without_a_valid_pixel_is_said_to_have_none(tmp_path):
    path = stack(tmp_path / "a.tif", [0, 0], nodata=0)
    message = "no pixel that was looked at is valid.*Leave the file out"
    refuses(UnitError, message, path, sensor="sentinel-2-l2a")


@pytest.mark.parametrize("quantification", [0, -5.0])
def test_quantification_that_is_not_above_0_is_refused(quantification):
    with pytest.raises(UnitError, match=f"is {quantification} .* must be above 0"):
        Stated(quantification=quantification)
