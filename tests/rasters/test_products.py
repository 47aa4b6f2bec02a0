import datetime
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import (
    BandError,
    ConfigError,
    RasterError,
    SpectralGPTError,
    UnitError,
)
from spectralgpt.rasters import (
    Stated,
    Window,
    describe_raster,
    gdal,
    is_product,
    open_scene,
    read_raster,
)
from spectralgpt.rasters.files import open_raster
from spectralgpt.rasters.gdal import quiet_gdal
from tests.product_files import (
    SAFE,
    mtl,
    write_item,
    write_landsat,
    write_safe,
    zip_folder,
)
from tests.raster_files import constant, write_tiff

DAY = datetime.date(2024, 2, 23)


def numbers(side: int = 24, first: int = 2000) -> dict[str, np.ndarray]:
    """Bands of 10, 20 and 60 m that cover the same ground."""
    random = np.random.default_rng(0)
    sides = {"B02": side, "B04": side, "B05": side // 2, "B09": side // 6}
    return {
        band: random.integers(first, first + 3000, (size, size))
        for band, size in sides.items()
    }


def refuses(error: type[SpectralGPTError], message: str, path: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        read_raster(describe_raster(path))
    assert "\n" not in str(caught.value)


def test_a_safe_folder_is_one_grid_of_10_m_with_its_own_offset(tmp_path: Path) -> None:
    bands = numbers()
    product = write_safe(tmp_path, bands, offset=-900)
    with open_scene(product) as scene:
        assert scene.sensor.name == "sentinel-2-l2a"
        assert scene.date == DAY
        assert scene.shape == (24, 24)
        assert "MTD_MSIL2A.xml, baseline 05.11" in scene.item.offset_source
        raster = scene.read()
    assert raster.band_names == ("B02", "B04", "B05", "B09")
    # The metadata's own offset counts, not what the baseline in the name would say.
    wanted = (bands["B04"] - 900) / 1e4
    np.testing.assert_allclose(raster.pixels[1], wanted, atol=1e-6)


@pytest.mark.parametrize(("baseline", "offset"), [("02.14", 0), ("04.00", -1000)])
def test_the_baseline_tells_the_offset_where_none_is_listed(
    tmp_path: Path, baseline: str, offset: float
) -> None:
    name = SAFE.replace("N0511", "N9999")
    product = write_safe(tmp_path, numbers(), name=name, baseline=baseline, offset=None)
    assert describe_raster(product).offset == offset


def test_a_zip_reads_like_its_folder(tmp_path: Path) -> None:
    product = write_safe(tmp_path, numbers())
    archive = zip_folder(product, tmp_path / "renamed, with blanks.zip")
    window = Window(3, 5, 16, 12)
    with open_scene(product) as folder, open_scene(archive) as zipped:
        assert (zipped.date, zipped.sensor) == (folder.date, folder.sensor)
        found, wanted = zipped.read(window), folder.read(window)
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    assert sorted(p.name for p in tmp_path.iterdir()) == [product.name, archive.name]


@pytest.mark.parametrize("name", ["../../evil.jp2", "/etc/x.jp2", "a\\..\\..\\b.jp2"])
def test_a_zip_whose_names_lead_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    archive = zip_folder(write_safe(tmp_path, numbers()), tmp_path / "p.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, b"x")
    refuses(RasterError, "leads out of the archive", archive)


def test_bad_products_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"PK\3\4 broken")
    refuses(RasterError, "cannot be read as a zip archive", tmp_path / "no.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refuses(RasterError, "holds no product that is known", tmp_path / "other.zip")
    product = write_safe(tmp_path, numbers())
    image = next(product.rglob("*B04_10m.jp2"))
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    refuses(RasterError, "truncated", product)
    image.unlink()
    with pytest.raises(BandError, match="no band 'B04'"):
        open_scene(product, bands=("B02", "B04"))
    (product / "MTD_MSIL2A.xml").write_text("<a>")
    refuses(RasterError, "no valid XML", product)
    (product / "MTD_MSIL2A.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a/>')
    refuses(RasterError, "declares entities", product)


def test_bands_of_different_projections_are_refused(tmp_path: Path) -> None:
    bands = numbers()
    product = write_safe(tmp_path, bands)
    write_safe(tmp_path, {"B04": bands["B04"]}, crs="EPSG:32633")
    write_safe(tmp_path, {})
    refuses(RasterError, "differ in reference system", product)


def test_a_scene_without_a_measurement_is_refused(tmp_path: Path) -> None:
    empty = {band: layer * 0 for band, layer in numbers().items()}
    refuses(RasterError, "holds no valid pixel", write_safe(tmp_path, empty))


@pytest.mark.parametrize("is_json", [True, False])
def test_landsat_takes_scale_and_files_from_mtl(tmp_path: Path, is_json: bool) -> None:
    folder = write_landsat(tmp_path, mtl(gain=3e-05, added=-0.1), is_json=is_json)
    item = describe_raster(folder)
    raster = read_raster(item)
    assert item.sensor.name == "landsat-8-9-l2"
    assert item.date == datetime.date(2020, 7, 14)
    assert raster.band_names == ("B1", "B2", "B3", "B4", "B5", "B6", "B7")
    assert raster.pixels[2, 0, 0] == pytest.approx(10_300 * 3e-05 - 0.1, abs=1e-6)


def test_level_1_is_brought_to_the_suns_elevation(tmp_path: Path) -> None:
    item = describe_raster(write_landsat(tmp_path, mtl("L1TP")))
    assert "sun elevation 30 degrees" in item.offset_source
    found = read_raster(item).pixels[0, 0, 0]
    # sin(30 degrees) is one half.
    assert found == pytest.approx((10_100 * 2e-05 - 0.1) * 2, abs=1e-6)


@pytest.mark.parametrize(
    ("spacecraft", "sensor"),
    [("LANDSAT_5", "landsat-4-5-tm-l2"), ("LANDSAT_7", "landsat-7-etm-l2")],
)
def test_older_landsats_are_read_but_for_the_thermal_band(
    tmp_path: Path, spacecraft: str, sensor: str
) -> None:
    groups = mtl()
    groups["IMAGE_ATTRIBUTES"]["SPACECRAFT_ID"] = spacecraft
    item = describe_raster(write_landsat(tmp_path, groups))
    assert item.sensor.name == sensor
    assert [band.name for band in item.bands] == ["B1", "B2", "B3", "B4", "B5", "B7"]
    assert item.quantification == pytest.approx(1 / 2.75e-5)
    groups["IMAGE_ATTRIBUTES"]["SENSOR_ID"] = "MSS"
    with pytest.raises(ConfigError, match="not in the registry"):
        describe_raster(write_landsat(tmp_path / "mss", groups))


def test_bad_landsat_metadata_are_one_line(tmp_path: Path) -> None:
    groups = mtl()
    groups["LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"]["REFLECTANCE_MULT_BAND_4"] = "1"
    folder = write_landsat(tmp_path / "a", groups)
    refuses(UnitError, "other scales for some of its bands", folder)
    groups = mtl()
    groups["PRODUCT_CONTENTS"]["FILE_NAME_BAND_2"] = "../../B2.TIF"
    folder = write_landsat(tmp_path / "b" / "c", mtl())
    write_landsat(tmp_path / "d" / "e", groups)
    names = describe_raster(next((tmp_path / "d").rglob("LC08*T1"))).files
    assert "B2" not in names


def test_gaofen_has_no_scale_of_its_own(tmp_path: Path) -> None:
    stem = "GF1_PMS1_E116.5_N39.4_20160501_L1A0001557543"
    folder = tmp_path / stem
    write_tiff(folder / f"{stem}-MSS1.tiff", constant([100, 200, 300, 400]))
    write_tiff(folder / f"{stem}-PAN1.tiff", constant([500]))
    assert is_product(folder)
    with pytest.raises(UnitError, match="State the quantification"):
        describe_raster(folder)
    item = describe_raster(folder, stated=Stated(quantification=1000))
    assert item.sensor.name == "gaofen-1-pms"
    assert item.date == datetime.date(2016, 5, 1)
    found = read_raster(item).pixels[:, 0, 0]
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4], atol=1e-6)


def test_enmap_takes_wavelengths_and_gains_from_its_metadata(tmp_path: Path) -> None:
    stem = "ENMAP01-____L2A-DT0000004950_20221103T162438Z_001_V010110"
    rows = [(1, 418.3), (2, 423.9), (130, 902.2)]
    text = "".join(
        f'<bandID number="{n}"><wavelengthCenterOfBand>{nm}</wavelengthCenterOfBand>'
        "<GainOfBand>0.0001</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>"
        for n, nm in rows
    )
    start = "<temporalCoverage><startTime>2022-11-03T16:24:38Z</startTime>"
    xml = f"<level_X>{start}</temporalCoverage>{text}</level_X>"
    (tmp_path / stem).mkdir()
    (tmp_path / stem / f"{stem}-METADATA.XML").write_text(xml)
    image = tmp_path / stem / f"{stem}-SPECTRAL_IMAGE.TIF"
    write_tiff(image, constant([100, 200, 300], dtype="int16"))
    write_tiff(tmp_path / stem / f"{stem}-QL_PIXELMASK.TIF", constant([1]))
    for path in (image, tmp_path / stem):
        item = describe_raster(path)
        assert item.date == datetime.date(2022, 11, 3)
        assert item.quantification == pytest.approx(10_000)
        assert {n: f.index for n, f in item.files.items()}["B002"] == 2
    assert read_raster(item).pixels[0, 0, 0] == pytest.approx(0.01)


def cogs(folder: Path) -> dict[str, Path]:
    return {
        name: write_tiff(folder / f"{name}.tif", constant([value]))
        for name, value in {"B02": 1500, "B04": 2500}.items()
    }


def test_a_stac_item_names_its_local_files(tmp_path: Path) -> None:
    cogs(tmp_path / "assets")
    row = {"scale": 0.0001, "offset": -0.1, "nodata": 0}
    assets = {
        "blue": {"href": "./assets/B02.tif", "raster:bands": [row]},
        "red": {"href": "assets/B04.tif", "raster:bands": [row]},
        "red-jp2": {"href": "assets/B04.jp2", "eo:bands": [{"name": "red"}]},
        "visual": {"href": "assets/TCI.tif", "roles": ["visual"]},
    }
    path = write_item(tmp_path / "item.json", assets)
    with open_scene(path) as scene:
        assert scene.sensor.name == "sentinel-2-l2a"
        assert scene.date == DAY
        np.testing.assert_allclose(scene.read().pixels[:, 0, 0], [0.05, 0.15])
    # Of images that the offset is no longer in, raster:bands still states it.
    path = write_item(path, assets, **{"earthsearch:boa_offset_applied": True})
    assert describe_raster(path).offset == 0


@pytest.mark.parametrize(
    ("href", "message"),
    [
        ("../B02.tif", "leads out of the item's folder"),
        ("/etc/B02.tif", "leads out of the item's folder"),
        ("file:///etc/B02.tif", "leads out of the item's folder"),
        ("%2e%2e/B02.tif", "leads out of the item's folder"),
        ("s3://bucket/B02.tif", "addresses of 's3' are not read"),
        ("/vsicurl/http://a/B02.tif", "leads out of the item's folder"),
        ("B02.tif", "does not exist"),
    ],
)
def test_a_stac_item_leads_nowhere_else(
    tmp_path: Path, href: str, message: str
) -> None:
    write_tiff(tmp_path / "B02.tif", constant([1500]))
    (tmp_path / "item").mkdir()
    path = write_item(tmp_path / "item" / "item.json", {"B02": {"href": href}})
    refuses(RasterError, message, path)


def test_an_item_may_name_what_its_owner_linked(tmp_path: Path) -> None:
    cogs(tmp_path / "elsewhere")
    (tmp_path / "item").mkdir()
    (tmp_path / "item" / "assets").symlink_to(tmp_path / "elsewhere")
    row = {"scale": 0.0001, "offset": -0.1, "nodata": 0}
    assets = {"blue": {"href": "assets/B02.tif", "raster:bands": [row]}}
    path = write_item(tmp_path / "item" / "item.json", assets)
    with open_scene(path) as scene:
        np.testing.assert_allclose(scene.read().pixels[:, 0, 0], [0.05])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve the folder from another process: GDAL holds ours while it opens files."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        found = re.search(r"port (\d+)", server.stdout.readline())
        assert found is not None
        yield f"http://127.0.0.1:{found.group(1)}"
        server.terminate()


def test_assets_are_read_over_http(tmp_path: Path, address: str) -> None:
    cogs(tmp_path)
    assets = {"B02": {"href": f"{address}/B02.tif"}}
    properties = {"s2:processing_baseline": "05.11"}
    path = write_item(tmp_path / "item.json", assets, **properties)
    assert read_raster(describe_raster(path)).pixels[0, 0, 0] == pytest.approx(0.05)
    # Addresses of catalogues are signed: what signs them stays out of messages.
    missing = {"B02": {"href": f"{address}/B03.tif?token=secret"}}
    path = write_item(tmp_path / "item.json", missing, **properties)
    with pytest.raises(RasterError, match="cannot be read") as caught:
        describe_raster(path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdal, "NO_ANSWER_S", 1)
    # The system takes calls that nobody answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assets = {"B02": {"href": f"{server}/B02.tif?token=secret"}}
        path = write_item(tmp_path / "item.json", assets)
        start = time.monotonic()
        with pytest.raises(RasterError) as caught:
            describe_raster(path)
    assert time.monotonic() - start < 10
    assert str(caught.value) == (
        f"{server}/B02.tif cannot be read: the server at {server} did not answer "
        "within 1 s. Try again later, or fetch the files to this machine."
    )


def test_what_is_no_item_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "item.json"
    path.write_text("[1, 2]")
    refuses(RasterError, "is no STAC item", path)
    path.write_text("{")
    refuses(RasterError, "cannot be read as JSON", path)
    write_item(path, {"B02": {"href": "B02.tif"}}, platform="none")
    with pytest.raises(SpectralGPTError, match="does not say which sensor"):
        describe_raster(path)


@pytest.mark.parametrize(
    ("assets", "message"),
    [
        (["B02.tif"], "is no STAC item"),
        ("B02.tif", "is no STAC item"),
        ({"B02": "B02.tif"}, "asset 'B02' is not an object"),
        ({"B02": None}, "asset 'B02' is not an object"),
        ({"B02": {"href": ["B02.tif"]}}, "whose href is a text"),
        (
            {"B02": {"href": "B02.tif", "roles": True}},
            "whose roles, if any, are a list",
        ),
        ({"B02": {"href": "http://[B02.tif"}}, "is no address"),
        ({"B02": {"href": "x" * 5000 + ".tif"}}, "leads out of the item's folder"),
        ({"B02": {"href": "B02.tif", "raster:bands": [{"scale": "1"}]}}, "a number is"),
        ({"B02": {"href": "B02.tif", "raster:bands": [{"nodata": True}]}}, "a number"),
    ],
)
def test_assets_of_another_type_are_one_line(
    assets: object, message: str, tmp_path: Path
) -> None:
    cogs(tmp_path)
    refuses(RasterError, message, write_item(tmp_path / "item.json", assets))


def test_a_folder_of_several_images_is_no_product(tmp_path: Path) -> None:
    stem = "GF1_PMS1_E116.5_N39.4_20160501_L1A0001557543"
    write_tiff(tmp_path / f"{stem}-MSS1.tiff", constant([1, 2, 3, 4]))
    write_tiff(tmp_path / f"{stem}-PAN1.tiff", constant([5]))
    assert is_product(tmp_path)
    write_tiff(tmp_path / "other.tif", constant([1]))
    assert not is_product(tmp_path)


def test_enmap_without_metadata_is_in_the_products_order(tmp_path: Path) -> None:
    stem = "ENMAP01-____L2A-DT0000004950_20221103T162438Z_001"
    image = tmp_path / f"{stem}-SPECTRAL_IMAGE.TIF"
    write_tiff(image, constant(range(1, 225), side=4, dtype="int16"))
    assert is_product(tmp_path)
    item = describe_raster(tmp_path)
    assert (item.files["B001"].index, item.files["B224"].index) == (1, 224)
    # A part of the layers may be any.
    write_tiff(image, constant(range(1, 220), side=4, dtype="int16"))
    with pytest.raises(BandError, match="does not say which of its 219 layers"):
        describe_raster(image)


def test_a_safe_folder_without_metadata_is_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "S2A_MSIL2A.SAFE"
    path.mkdir()
    with pytest.raises(SpectralGPTError, match="incomplete product"):
        describe_raster(path)


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_band_that_is_there_in_a_coarser_copy_only_is_said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    is_zip: bool,
) -> None:
    bands = numbers()
    product = write_safe(tmp_path, bands)
    copy = next(product.rglob("*B04_10m.jp2"))
    copy.rename(next(product.rglob("R20m")) / copy.name.replace("_10m", "_20m"))
    path = zip_folder(product, tmp_path / "a.zip") if is_zip else product
    item = describe_raster(path)
    assert "B04" in item.files
    assert "B04 is there at 20 m only" in caplog.text
    caplog.clear()
    describe_raster(path)
    assert caplog.text == ""  # said once


def test_what_lies_beside_a_raster_in_a_zip_is_not_opened(tmp_path: Path) -> None:
    product = write_landsat(tmp_path, mtl())
    band = next(product.glob("*_SR_B2.TIF"))
    (band.parent / f"{band.name}.ovr").write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="UInt16" '
        'band="1"><SimpleSource><SourceFilename>/vsicurl/http://127.0.0.1:9/x.tif'
        "</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    item = describe_raster(zip_folder(product, tmp_path / "a.zip"))
    with quiet_gdal(), open_raster(item.files["B2"].path) as dataset:
        assert dataset.overviews(1) == []
    (band.parent / f"{band.name}.msk").write_bytes(band.read_bytes())
    path = zip_folder(product, tmp_path / "masked.zip")
    refuses(RasterError, r"masked\.zip holds a mask, .*\.msk, which is not read", path)


def test_damaged_members_of_a_zip_are_one_line(tmp_path: Path) -> None:
    path = zip_folder(write_safe(tmp_path, numbers()), tmp_path / "a.zip")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        member = next(i for i in archive.infolist() if i.filename.endswith(".xml"))
    at = member.header_offset + 30 + len(member.filename)
    for name, damage in (("bits", b"\xff" * 8), ("zeros", bytes(member.compress_size))):
        broken = tmp_path / f"{name}.zip"
        broken.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        refuses(RasterError, r"MTD_MSIL2A\.xml cannot be read", broken)


def test_a_zip_may_hold_litter_and_folders_around_the_product(tmp_path: Path) -> None:
    product = write_safe(tmp_path / "in", numbers())
    plain = read_raster(describe_raster(product)).pixels
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(".DS_Store", b"x")
        archive.writestr("__MACOSX/._x.SAFE", b"x")
        archive.writestr("folder/.DS_Store", b"x")
        for file in sorted(product.rglob("*")):
            name = file.relative_to(product.parent).as_posix()
            archive.write(file, f"folder/{name}")
    np.testing.assert_array_equal(read_raster(describe_raster(path)).pixels, plain)


def test_a_zip_of_two_products_is_one_line(tmp_path: Path) -> None:
    names = (SAFE, SAFE.replace("20240223T032739", "20240304T032739"))
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            product = write_safe(tmp_path / "in", numbers(), name=name)
            for file in sorted(product.rglob("*")):
                archive.write(file, file.relative_to(product.parent).as_posix())
    refuses(RasterError, f"two.zip holds 2 products, {names[0]} and", path)


@pytest.mark.parametrize("change", [str.lower, lambda n: n.replace(".TIF", ".tiff")])
def test_renamed_landsat_files_are_found(tmp_path: Path, change) -> None:
    product = write_landsat(tmp_path, mtl())
    plain = read_raster(describe_raster(product))
    for file in list(product.glob("*.TIF")):
        file.rename(file.with_name(change(file.name)))
    raster = read_raster(describe_raster(product))
    assert raster.band_names == plain.band_names
    np.testing.assert_array_equal(raster.pixels, plain.pixels)
