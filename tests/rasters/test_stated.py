"""What is stated of files, what files state themselves, and what nobody declared."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.errors import UnitError
from spectralgpt.rasters import RasterFile, Stated, describe_raster, read_raster
from tests.raster_files import constant, write_band_folder, write_tiff

SENSOR = "sentinel-2-l2a"
BANDS = ["B02", "B03", "B04", "B08"]


def scene(fill: float, dtype: str = "int16", added: int = 1000) -> np.ndarray:
    """(4, 64, 64) digital numbers of land with an offset, fill in the left eighth."""
    rng = np.random.default_rng(0)
    levels = np.array([490, 600, 700, 2500])[:, None, None]
    pixels = added + levels * rng.uniform(0.8, 1.2, (4, 64, 64))
    pixels[:, :, :8] = fill
    return pixels.astype(dtype)


def describe(path: Path, **changes: object) -> RasterFile:
    return describe_raster(path, stated=Stated(**({"sensor": SENSOR} | changes)))  # type: ignore


@pytest.mark.parametrize("fill", [1, -9999])
def test_undeclared_fill_does_not_choose_the_offset(
    tmp_path: Path, fill: float
) -> None:
    path = write_tiff(tmp_path / "a.tif", scene(fill), descriptions=BANDS)
    with pytest.raises(UnitError, match=rf"in doubt.*\(but for {fill}, which"):
        describe(path)
    with pytest.raises(UnitError, match="in doubt"):
        describe(path, nodata=[fill])
    raster = read_raster(describe(path, nodata=[fill], offset=-1000))
    assert not raster.valid[:, :, :8].any()
    assert raster.valid[:, :, 8:].all()
    assert float(np.median(raster.pixels[0][raster.valid[0]])) == pytest.approx(
        0.049, abs=0.001
    )


def test_stated_nodata_reaches_the_unit_of_float_files(tmp_path: Path) -> None:
    pixels = scene(0, "float32") / np.float32(10_000)
    pixels[:, :, :8] = 9999
    path = write_tiff(tmp_path / "a.tif", pixels, descriptions=BANDS)
    assert describe(path, nodata=[9999]).unit == "reflectance"


@pytest.mark.parametrize("fill", [1, -9999, 20000])
def test_undeclared_fill_is_said_aloud(
    tmp_path: Path, fill: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tiff(tmp_path / "a.tif", scene(fill), descriptions=BANDS)
    with caplog.at_level(logging.WARNING):
        describe(path, offset=-1000, quantification=10_000)
    assert f"{path} holds {fill} at its edge" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        describe(path, offset=-1000, nodata=[fill])
    assert not caplog.records


@pytest.mark.parametrize("fill", [1, -9999])
def test_undeclared_fill_amid_a_scene_is_found(
    tmp_path: Path, fill: float, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = scene(1490, "int16")
    pixels[:, 20:40, 20:40] = fill
    path = write_tiff(tmp_path / "a.tif", pixels, descriptions=BANDS, nodata=0)
    with pytest.raises(UnitError, match=rf"in doubt.*\(but for {fill}, which"):
        describe(path)
    with caplog.at_level(logging.WARNING):
        describe(path, offset=-1000)
    assert f"state nodata (--nodata {fill}) if" in caplog.text


@pytest.mark.parametrize("fill", [2**31 - 1, -3.4028234663852886e38])
def test_undeclared_fill_is_named_with_all_its_digits(
    tmp_path: Path, fill: float, caplog: pytest.LogCaptureFixture
) -> None:
    dtype = "float32" if isinstance(fill, float) else "int32"
    path = write_tiff(tmp_path / "a.tif", scene(fill, dtype), descriptions=BANDS)
    with caplog.at_level(logging.WARNING):
        describe(path, offset=-1000, unit="digital-numbers")
    (stated,) = re.findall(r"--nodata (\S+)\)", caplog.text)
    item = describe(path, offset=-1000, unit="digital-numbers", nodata=[float(stated)])
    assert not read_raster(item).valid[:, :, :8].any()


def test_undeclared_fill_of_a_folder_of_band_files_is_said_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for band, layer in zip(BANDS, scene(1, added=0), strict=True):
        write_tiff(tmp_path / "x" / f"{band}.tif", layer[None])
    with caplog.at_level(logging.WARNING):
        describe(tmp_path / "x", offset=0)
    assert "holds 1 at its edge" in caplog.text


def test_dark_water_at_the_edge_is_no_fill(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = scene(0, "uint16", added=0)
    rng = np.random.default_rng(1)
    pixels[:, :, :16] = rng.integers(1, 90, (4, 64, 16))
    path = write_tiff(tmp_path / "a.tif", pixels, descriptions=BANDS)
    with caplog.at_level(logging.WARNING):
        assert describe(path).offset == 0
    assert not caplog.records


def test_each_band_has_its_own_nodata_in_virtual_rasters_and_folders(
    tmp_path: Path,
) -> None:
    own = {"B02": 0, "B03": 7, "B04": 9}
    for band, nodata in own.items():
        layer = np.full((1, 16, 16), 1500, "uint16")
        layer[0, 0, :3] = 0, 7, 9
        write_tiff(tmp_path / "x" / f"{band}.tif", layer, nodata=nodata)
    layers = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{at}"><Description>{band}'
        f"</Description><NoDataValue>{nodata}</NoDataValue><SimpleSource>"
        f'<SourceFilename relativeToVRT="1">x/{band}.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for at, (band, nodata) in enumerate(own.items(), start=1)
    )
    virtual = tmp_path / "x.vrt"
    virtual.write_text(
        f'<VRTDataset rasterXSize="16" rasterYSize="16">{layers}</VRTDataset>'
    )
    for path in (tmp_path / "x", virtual):
        raster = read_raster(describe(path, offset=0))
        assert raster.band_names == ("B02", "B03", "B04")
        expected = ~np.eye(3, dtype=bool)
        np.testing.assert_array_equal(raster.valid[:, 0, :3], expected)


@pytest.mark.parametrize(
    ("header", "found"),
    [("5000", 0.3), ("0", None), ("nan", None), ("-1", None), ("many", None)],
)
def test_reflectance_scale_factor_of_envi_is_used(
    tmp_path: Path, header: str, found: float | None
) -> None:
    path = tmp_path / "a.img"
    write_tiff(path, constant([1500, 1600, 1700, 1800]), driver="ENVI", crs=None)
    with path.with_suffix(".hdr").open("a") as file:
        file.write(f"reflectance scale factor = {header}\n")
    if found is None:
        with pytest.raises(UnitError, match="a scale must be above 0"):
            describe(path, bands=BANDS)
        return
    item = describe(path, bands=BANDS)
    assert item.offset_source == "the file's own scale"
    np.testing.assert_allclose(read_raster(item).pixels[0], found, rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "offset"), [(0, 0), (-1, 0), (np.nan, 0), (np.inf, 0), (1, np.inf)]
)
def test_scales_that_are_none_are_one_line(
    tmp_path: Path, scale: float, offset: float
) -> None:
    path = write_tiff(tmp_path / "a.tif", constant([1500] * 4), descriptions=BANDS)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (scale,) * 4
        dataset.offsets = (offset,) * 4
    with pytest.raises(UnitError, match=r"a\.tif states a scale of .* Correct its"):
        describe(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"quantification": 0},
        {"quantification": float("nan")},
        {"quantification": float("inf")},
        {"quantification": 1e-60},
        {"quantification": 1e60},
        {"offset": -1e60},
        {"offset": float("nan")},
        {"unit": "percent"},
        {"nodata": "none"},
        {"nodata": ["none"]},
        {"bands": "B02"},
        {"bands": [2, 3]},
        {"sensors": "x"},
    ],
)
def test_what_cannot_be_is_not_stated(facts: dict[str, object]) -> None:
    with pytest.raises(UnitError):
        Stated.of(facts)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.arange(4096).reshape(64, 64) % 256, id="8-bit"),
        pytest.param(np.linspace(2, 60, 4096).reshape(64, 64), id="percent"),
        pytest.param(np.linspace(2, 255, 4096).reshape(64, 64), id="float 8-bit"),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("offset", [0, -1000])
def test_percent_and_8_bit_are_not_divided_by_ten_thousand(
    tmp_path: Path, pixels: np.ndarray, dtype: str, offset: int
) -> None:
    stack = np.stack([pixels] * 4).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", stack, descriptions=BANDS)
    with pytest.raises(UnitError, match="look like 8-bit ones or percent"):
        describe(path, offset=offset)
    item = describe(path, offset=0, quantification=255)
    np.testing.assert_allclose(read_raster(item).pixels, stack / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "stated"),
    [
        pytest.param(scene(60, "uint16", 0) // 40, {"quantification": 10_000}, id="DN"),
        pytest.param(
            (scene(60, "uint16", 0) // 40).astype("uint8"),
            {"quantification": 10_000, "nodata": [0]},
            id="8-bit, all stated",
        ),
        pytest.param(constant([25, 26, 27, 60]), {}, id="few numbers"),
        pytest.param(scene(500, "float32", 0) / 1e8, {}, id="scaled twice"),
    ],
)
def test_a_scale_that_makes_images_far_too_dark_is_said_aloud(
    tmp_path: Path,
    pixels: np.ndarray,
    stated: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stack = pixels.astype("float32" if pixels.dtype == "float64" else pixels.dtype)
    files = [
        write_tiff(tmp_path / f"{at}.tif", stack, descriptions=BANDS) for at in range(2)
    ]
    facts = stated | ({} if stack.dtype == "float32" else {"offset": 0})
    with caplog.at_level(logging.WARNING):
        for path in files:
            describe(path, **facts)
    (record,) = [r for r in caplog.records if "would be below" in r.getMessage()]
    assert f"{files[0]}: reflectance would be below" in record.getMessage()


def test_what_is_assumed_counts_where_files_do_not_say(tmp_path: Path) -> None:
    assumed = Stated(
        sensor="landsat-8-9-l2",
        bands=("B2", "-", "B4"),
        offset=0.0,
        quantification=10_000.0,
        nodata=(1.0,),
    )
    path = write_tiff(tmp_path / "a.tif", constant([1500, 1, 1600]))
    item = describe_raster(path, assumed=assumed)
    assert item.sensor.name == "landsat-8-9-l2"
    assert {name: file.index for name, file in item.files.items()} == {"B2": 1, "B4": 3}
    assert (item.quantification, item.offset, item.nodata) == (10_000, 0, 1)
    stated = Stated(quantification=20_000.0, bands=("B1", "B2", "B3"))
    other = describe_raster(path, stated=stated, assumed=assumed)
    assert (other.quantification, set(other.files)) == (20_000, {"B1", "B2", "B3"})


def test_what_files_say_counts_before_what_is_assumed(tmp_path: Path) -> None:
    assumed = Stated(sensor=SENSOR, bands=("B02",), offset=-1000.0)
    folder = write_band_folder(
        tmp_path / "S2A_MSIL2A_20200706T085611_N0214_R007_T33NZA_20200706T153419",
        {"B03": 1500},
    )
    item = describe_raster(folder, assumed=assumed)
    assert (set(item.files), item.offset) == ({"B03"}, 0)
    tagged = write_tiff(tmp_path / "b.tif", constant([1500]), descriptions=["B03"])
    with rasterio.open(tagged, "r+") as dataset:
        dataset.scales, dataset.offsets = (2e-4,), (0.0,)
    item = describe_raster(tagged, assumed=assumed)
    assert (set(item.files), item.quantification, item.offset) == ({"B03"}, 5000, 0)
    # Another sensor's images are none of those.
    other = Stated(sensor="landsat-8-9-l2", quantification=10_000.0)
    landsat = write_tiff(tmp_path / "c.tif", constant([15000]), descriptions=["B3"])
    item = describe_raster(landsat, stated=other, assumed=assumed)
    assert item.offset < -1000


def test_other_files_of_a_folder_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_band_folder(
        tmp_path / "x", {"B02": 1500, "SCL": 4, "nir": 1600, "swir": 1}
    )
    with caplog.at_level(logging.WARNING):
        assert set(describe(folder, offset=0).files) == {"B02", "B08"}
        assert set(describe(folder, offset=0, bands=["B02"]).files) == {"B02"}
    (record,) = caplog.records
    assert "files swir are no known bands" in record.getMessage()


def test_a_scale_that_is_stated_as_the_file_states_it_is_no_contradiction(
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "a.tif", constant([1500]), descriptions=["B02"])
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (1e-4,), (-0.1,)
    item = describe(path, quantification=10_000, offset=-1000)
    np.testing.assert_allclose(read_raster(item).pixels, 0.05, rtol=1e-6)
    with pytest.raises(UnitError, match="twice-applied"):
        describe(path, quantification=20_000)
