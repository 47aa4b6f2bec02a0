import concurrent.futures
import contextlib
import logging
import struct
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters import (
    Stated,
    Window,
    describe_raster,
    gdal,
    quiet_gdal,
    read_codes,
    read_numbers,
    read_raster,
)
from spectralgpt.rasters import files as files_module
from spectralgpt.rasters.files import read_header
from spectralgpt.rasters.read import OpenFiles
from tests.raster_files import LEFT, S2_L2A, TOP, constant, write_tiff

SAMPLES_PER_PIXEL, PHOTOMETRIC = 277, 262


def patch_tag(path, tag, value):
    """Change a SHORT tag in the first directory of a little-endian TIFF."""
    content = bytearray(path.read_bytes())
    at = struct.unpack_from("<I", content, 4)[0]
    for i in range(struct.unpack_from("<H", content, at)[0]):
        entry = at + 2 + 12 * i
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<H", content, entry + 8, value)
            path.write_bytes(content)
            return path
    raise AssertionError(tag)


def odd(path):
    """A file GDAL warns about, as about every barkbeetle file."""
    write_tiff(path, constant([900] * 12), photometric="minisblack")
    return patch_tag(path, PHOTOMETRIC, 2)


@pytest.mark.parametrize("length", [0, 3, 8, 60])
def test_truncated_file_is_one_line(tmp_path, length):
    path = write_tiff(tmp_path / "cut.tif", constant([900]))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        RasterError, match=r"cut\.tif cannot be read as a raster"
    ) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.99, 0.5, 0.1])
def test_truncated_jpeg_2000_is_no_noise(tmp_path, share):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1000, 3000, (1, 600, 600), dtype=np.uint16)
    source = write_tiff(tmp_path / "a.tif", pixels)
    path = tmp_path / "B04.jp2"
    options = {"QUALITY": 100, "REVERSIBLE": "YES", "BLOCKXSIZE": 256}
    rasterio.shutil.copy(source, path, driver="JP2OpenJPEG", BLOCKYSIZE=256, **options)
    item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
    np.testing.assert_allclose(read_raster(item).pixels, pixels / 1e4, rtol=1e-6)
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    # Decoded by several threads, GDAL's, it would be whatever lay in memory.
    with pytest.raises(RasterError, match=r"B04\.jp2 cannot be read .* fetch it again"):
        read_raster(describe_raster(path, "sentinel-2-l2a", Stated(offset=0)))


@pytest.mark.parametrize("interleave", ["BSQ", "BIP"])
def test_truncated_envi_is_refused(tmp_path, interleave):
    pixels = constant([0.1, 0.2, 0.3], dtype="float32")
    options = {"driver": "ENVI", "INTERLEAVE": interleave}
    path = write_tiff(tmp_path / "a.img", pixels, **options)
    assert read_header(path).count == 3
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RasterError, match="truncated: 3068 bytes of 3072"):
        read_header(path)


def test_what_is_said_of_arrays_and_virtual_rasters_is_said_once(tmp_path):
    broken = tmp_path / "a.npy"
    broken.write_bytes(b"\x93NUMPY\x01\x00\x10\x00no header at all")
    virtual = tmp_path / "a.vrt"
    virtual.write_text(
        '<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte">'
        "<SimpleSource><SourceFilename>b.tif</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    for path in (broken, virtual):
        with pytest.raises(RasterError) as caught:
            read_header(path)
        assert str(caught.value).count(path.name) == 1
        assert ".." not in str(caught.value)
        assert "cannot be read as a raster" not in str(caught.value)


def test_file_without_bands_is_refused(tmp_path):
    path = patch_tag(
        write_tiff(tmp_path / "zero.tif", constant([900])), SAMPLES_PER_PIXEL, 0
    )
    with pytest.raises(RasterError, match=r"zero\.tif (cannot be read|has no bands)"):
        read_header(path)


def test_file_of_another_kind_is_refused_whatever_its_name(tmp_path):
    path = tmp_path / "page.tif"
    path.write_text("<html>not found</html>")
    with pytest.raises(RasterError, match="not a GeoTIFF, JPEG 2000, VRT, ENVI, PNG"):
        read_header(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("chips.yaml", "describes imagery for"), ("embeddings.parquet", "is a table")],
)
def test_what_else_of_ours_is_given_for_an_image_is_named(tmp_path, name, said):
    path = tmp_path / name
    path.write_text("sensor: sentinel-2-l2a\n")
    with pytest.raises(RasterError, match=rf"{name} is no raster; it {said}"):
        read_header(path)


def test_virtual_raster_of_another_name_is_never_opened(tmp_path):
    path = tmp_path / "evil.tif"
    path.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" '
        'band="1"><SimpleSource><SourceFilename>/vsicurl/http://127.0.0.1:9/x.tif'
        "</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(RasterError, match="not a GeoTIFF"):
        read_header(path)


@pytest.mark.parametrize(
    "name", ["/vsicurl/http://127.0.0.1:9/x.tif", "http://x/y.tif"]
)
def test_addresses_are_no_files(name):
    with pytest.raises(RasterError, match="does not exist"):
        describe_raster(name, sensor="sentinel-2-l2a")


def test_complex_numbers_are_refused(tmp_path):
    path = write_tiff(tmp_path / "sar.tif", constant([1], dtype="complex64"))
    with pytest.raises(RasterError, match="complex numbers"):
        read_header(path)


def test_file_without_georeference_is_read_without_a_warning(tmp_path):
    path = write_tiff(tmp_path / "a.tif", constant([900]))
    plain = tmp_path / "B02.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            rasterio.open(path) as source,
            rasterio.open(
                plain, "w", driver="GTiff", height=16, width=16, count=1, dtype="uint16"
            ) as target,
        ):
            target.write(source.read())
    raster = read_raster(describe_raster(plain, "sentinel-2-l2a", Stated(offset=0)))
    assert raster.transform is None
    assert (raster.pixels == np.float32(0.09)).all()


def test_gdal_warnings_are_summarised_once_and_not_printed(tmp_path, caplog, capfd):
    paths = [odd(tmp_path / f"{i}.tif") for i in range(5)]
    options = {"sensor": "sentinel-2-l2a", "bands": S2_L2A, "offset": 0}
    with caplog.at_level(logging.WARNING):
        with quiet_gdal():
            for path in paths:
                describe_raster(path, stated=Stated(**options))
        for path in paths:
            read_raster(describe_raster(path, stated=Stated(**options)))
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.name for r in records] == ["spectralgpt.rasters.gdal"]
    assert "GDAL warned" in caplog.text
    captured = capfd.readouterr()
    assert "ExtraSamples" not in captured.out + captured.err


def test_summary_counts_over_threads(tmp_path, caplog):
    paths = [odd(tmp_path / f"{i}.tif") for i in range(8)]
    pool = concurrent.futures.ThreadPoolExecutor(4)
    with caplog.at_level(logging.WARNING), quiet_gdal(), pool:
        list(pool.map(read_header, paths))
    assert len(caplog.records) == 1
    assert "GDAL warned 8 time(s)" in caplog.text


def test_loggers_are_left_as_they_were(tmp_path):
    logger = logging.getLogger("rasterio._env")
    before = list(logger.filters)
    read_header(write_tiff(tmp_path / "a.tif", constant([900])))
    assert logger.filters == before


def test_small_files_kept_in_memory_read_as_from_disk(tmp_path: Path) -> None:
    numbers = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)
    path = write_tiff(tmp_path / "small.tif", numbers)
    window = Window(row=1, column=2, height=6, width=5)
    kept, none = OpenFiles(memory_mb=1), OpenFiles()
    with quiet_gdal():
        expected = none.read(path, [3, 1], window)
        assert np.array_equal(kept.read(path, [3, 1], window), expected)
        path.unlink()
        assert np.array_equal(kept.read(path, [3, 1], window), expected)
    assert np.array_equal(expected, numbers[[2, 0], 1:7, 2:7])


def test_files_beyond_the_memory_are_read_again(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "large.tif", np.ones((1, 256, 256)))
    files = OpenFiles(memory_mb=0.25)
    with quiet_gdal():
        files.read(path, [1], Window(0, 0, 4, 4))
    assert not files._whole
    files.close()


def rotated(points):
    """Control points on a grid that is turned, 10 m a pixel, at known places."""
    turned = Affine.translation(LEFT, TOP) @ Affine.rotation(30) @ Affine.scale(10, -10)
    return turned, [
        GroundControlPoint(row, column, *(turned @ (column, row)))
        for row, column in points
    ]


def write_points(path, points):
    """A raster that has control points and no transform."""
    write_plain(path)
    with unplaced(), rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points, "EPSG:32632")
    return path


def test_a_reference_system_without_a_transform_is_no_place(tmp_path, caplog):
    path = write_plain(tmp_path / "nowhere.tif", crs="EPSG:32632")
    header = read_header(path)
    assert header.grid.transform is None
    assert header.grid.crs is None
    assert "nowhere.tif names a reference system, but not where" in caplog.text


def write_plain(path, **profile):
    profile |= {"height": 16, "width": 16, "count": 1, "dtype": "uint16"}
    with unplaced(), rasterio.open(path, "w", driver="GTiff", **profile) as dataset:
        dataset.write(constant([900]))
        dataset.descriptions = ["B04"]
    return path


@contextlib.contextmanager
def unplaced():
    """Keep rasterio from warning of files without a place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@pytest.mark.parametrize(
    "transform",
    [Affine(0, 0, 5e5, 0, 0, 4e6), Affine(10, 0, np.inf, 0, -10, 4e6)],
    ids=["degenerate", "infinite"],
)
def test_a_transform_that_is_none_is_no_place(tmp_path, caplog, transform):
    path = write_tiff(tmp_path / "a.tif", constant([1500]))
    with rasterio.open(path, "r+") as dataset:
        dataset.transform = transform
    with caplog.at_level(logging.WARNING):
        grid = read_header(path).grid
    assert (grid.transform, grid.crs) == (None, None)
    assert "has a transform that gives its pixels no place" in caplog.text


def test_control_points_that_lie_on_the_pixels_are_a_place(tmp_path, caplog):
    turned, points = rotated([(0, 0), (0, 16), (16, 0), (16, 16), (5, 9)])
    header = read_header(write_points(tmp_path / "gcp.tif", points))
    assert header.grid.crs == "EPSG:32632"
    np.testing.assert_allclose(header.grid.numbers, tuple(turned)[:6], rtol=1e-9)
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["warped", "few", "in line"])
def test_control_points_that_are_no_place_are_said(tmp_path, caplog, kind):
    places = [(0, 0), (0, 16), (16, 0), (16, 16)]
    if kind == "in line":
        places = [(0, 0), (4, 4), (9, 9)]
    _, points = rotated(places[:2] if kind == "few" else places)
    if kind == "warped":
        points[3].x += 20
    header = read_header(write_points(tmp_path / "gcp.tif", points))
    assert header.grid.transform is None
    assert f"gcp.tif has {len(points)} ground control points" in caplog.text
    assert "read without a place" in caplog.text


def test_rational_polynomials_are_said(tmp_path, caplog):
    path = write_plain(tmp_path / "rpc.tif")
    with unplaced(), rasterio.open(path, "r+") as dataset:
        ones = [1.0] * 20
        line = (0.0, 1.0, ones, ones)
        dataset.rpcs = RPC(0.0, 1.0, 0.0, 1.0, ones, ones, 0.0, 1.0, *line, 0.0, 1.0)
    assert read_header(path).grid.transform is None
    assert "RPCs" in caplog.text


def write_claim(path, side=1_000_000):
    """A TIFF of a few hundred bytes that claims a million times a million pixels."""
    profile = {"height": side, "width": side, "count": 1, "dtype": "uint16"}
    options = {"tiled": True, "sparse_ok": True, "bigtiff": "YES", "blockxsize": 65536}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        crs="EPSG:32632",
        transform=Affine(10, 0, LEFT, 0, -10, TOP),
        blockysize=65536,
        **profile,
        **options,
    ) as dataset:
        dataset.descriptions = ["B04"]
    return path


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_raster(
            describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
        ),
        files_module.read_numbers,
        lambda path: read_codes(path, 1, np.arange(10**6), np.arange(10**6)),
    ],
)
def test_a_header_that_claims_more_than_the_memory_is_one_line(tmp_path, read):
    path = write_claim(tmp_path / "claim.tif")
    with pytest.raises(RasterError, match=r"takes [\d.e+]+ GB of memory") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("driver", ["GTiff", "ENVI"])
def test_descriptions_that_are_not_utf_8_are_one_line(tmp_path, driver, capfd):
    names = ["B02 moor", "B03"]
    pixels = constant([900, 901])
    path = write_tiff(tmp_path / "a.bin", pixels, driver=driver, descriptions=names)
    # Which has the descriptions, too.
    (tmp_path / "a.bin.aux.xml").unlink(missing_ok=True)
    holder = path if driver == "GTiff" else path.with_suffix(".hdr")
    whole = holder.read_bytes()
    assert b"B02 moor" in whole
    holder.write_bytes(whole.replace(b"B02 moor", b"B02 m\xf6\xf6r"))
    for read in (
        read_header,
        read_numbers,
        lambda path: describe_raster(path, sensor="sentinel-2-l2a"),
        lambda path: describe_raster(path, stated=Stated(bands=["B02", "B03"])),
    ):
        with pytest.raises(RasterError, match=r"a\.bin has band .* not UTF-8") as e:
            read(path)
        assert "\n" not in str(e.value)
    assert capfd.readouterr().err == ""


def test_tags_that_are_not_utf_8_are_left_out_or_one_line(tmp_path, capfd):
    tags = {"note": "the meadow", "other": "x"}
    path = write_tiff(tmp_path / "a.tif", constant([900]), tags=tags)
    path.write_bytes(path.read_bytes().replace(b"meadow", b"me\xe4dow"))
    # By the version of rasterio.
    with contextlib.suppress(RasterError):
        assert read_header(path).tags == {"other": "x", "AREA_OR_POINT": "Area"}
    assert "rasterio" not in capfd.readouterr().err


def test_messages_of_gdal_that_are_no_text_print_nothing(tmp_path, capfd):
    path = write_tiff(tmp_path / "a.bin", constant([900]), driver="ENVI")
    header = path.with_suffix(".hdr")
    text = header.read_bytes().replace(b"interleave = bsq", b"interleave = b\xf6q")
    header.write_bytes(text)
    with quiet_gdal(), contextlib.suppress(RasterError):
        read_header(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("where", ["file", "beside", "source"])
def test_overviews_that_lie_elsewhere_are_not_followed(tmp_path, where):
    path = write_tiff(tmp_path / "a.tif", constant([900], 400), descriptions=["B02"])
    # GDAL would open any address, with any driver.
    address = "/vsicurl/http://127.0.0.1:9/x.tif"
    if where == "beside":
        (tmp_path / "a.tif.aux.xml").write_text(
            '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
            f"{address}</MDI></Metadata></PAMDataset>"
        )
    else:
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=address)
    if where == "source":
        path = tmp_path / "scene.vrt"
        path.write_text(
            '<VRTDataset rasterXSize="400" rasterYSize="400"><VRTRasterBand band="1" '
            'dataType="UInt16"><SimpleSource><SourceFilename relativeToVRT="1">a.tif'
            "</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
        )
    with pytest.raises(RasterError, match=r"a\.tif says that its overviews are in"):
        read_header(path)


def test_long_descriptions_take_no_longer(tmp_path):
    names = ["9" * 60_000, "B03"]
    path = write_tiff(tmp_path / "a.tif", constant([900, 901]), descriptions=names)
    begun = time.monotonic()
    with pytest.raises(BandError, match="no known bands"):
        describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
    assert time.monotonic() - begun < 5


GIB = 2**30


def system(root: Path, groups: str, **files: str) -> Path:
    """Write what Linux says of memory; 8 GiB are available on the machine."""
    texts = {
        "proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {8 * 2**20} kB\nHugePages: 0\n",
        "proc/self/cgroup": groups,
        **files,
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_is_what_the_machine_and_containers_have_left(
    tmp_path: Path,
) -> None:
    assert gdal._free_memory(tmp_path) is None
    assert gdal._free_memory(system(tmp_path / "none", "0::/\n")) == 8 * GIB
    stat = f"anon {GIB}\ninactive_file {GIB // 4}\nactive_file {GIB // 4}\n"
    two = "sys/fs/cgroup/"
    new = {
        f"{two}pod/memory.max": f"{2 * GIB}\n",
        f"{two}pod/memory.current": f"{GIB}\n",
        f"{two}pod/memory.stat": stat,
        f"{two}pod/job/memory.max": "max\n",
        f"{two}pod/job/memory.current": f"{GIB}\n",
        f"{two}pod/job/memory.stat": stat,
    }
    assert (
        gdal._free_memory(system(tmp_path / "new", "0::/pod/job\n", **new)) == 1.5 * GIB
    )
    one = "sys/fs/cgroup/memory/"
    old = {
        f"{one}memory.limit_in_bytes": f"{3 * GIB}\n",
        f"{one}memory.usage_in_bytes": f"{4 * GIB}\n",
        f"{one}memory.stat": f"{stat}total_inactive_file {2 * GIB}\n"
        f"total_active_file 0\n",
    }
    lines = "4:cpu,memory:/docker/abc\n2:cpuacct:/\n0::/\n"
    assert gdal._free_memory(system(tmp_path / "old", lines, **old)) == GIB
    old[f"{one}memory.usage_in_bytes"] = f"{9 * GIB}\n"
    assert gdal._free_memory(system(tmp_path / "full", lines, **old)) == 0
    old[f"{one}memory.limit_in_bytes"] = f"{2**63 - 4096}\n"
    assert gdal._free_memory(system(tmp_path / "open", lines, **old)) == 8 * GIB
