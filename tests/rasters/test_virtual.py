from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import RasterError
from spectralgpt.rasters import (
    NO_BAND,
    Stated,
    Window,
    describe_raster,
    read_numbers,
    read_raster,
)
from tests.raster_files import constant, write_tiff

BANDS = ("B02", "B03", "B04")
_BAND = (
    '<VRTRasterBand dataType="UInt16" band="{band}"{kind}><Description>{name}'
    "</Description><SimpleSource>"
    '<SourceFilename relativeToVRT="{relative}">{file}</SourceFilename>'
    "<SourceBand>1</SourceBand></SimpleSource>{more}</VRTRasterBand>"
)


def write_vrt(path: Path, *files: str, kind: str = "", more: str = "") -> Path:
    bands = "".join(
        _BAND.format(
            band=i,
            kind=kind,
            name=f"B0{i + 1}",
            relative=0 if file.startswith("/") else 1,
            file=file,
            more=more,
        )
        for i, file in enumerate(files, start=1)
    )
    place = "<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>"
    path.write_text(
        f'<VRTDataset rasterXSize="16" rasterYSize="16"><SRS>EPSG:32632</SRS>{place}'
        f"{bands}</VRTDataset>"
    )
    return path


def test_a_virtual_raster_puts_files_together(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a" / "x.tif", constant([1500]))
    inside = write_tiff(tmp_path / "y.tif", constant([2500]))
    path = write_vrt(tmp_path / "scene.vrt", "a/x.tif", str(inside))
    item = describe_raster(path, "sentinel-2-l2a", Stated(offset=-1000))
    raster = read_raster(item)
    assert raster.band_names == ("B02", "B03")
    np.testing.assert_allclose(raster.pixels[:, 3, 3], [0.05, 0.15])


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("../secret.tif", {}, "not in its folder"),
        ("/etc/passwd", {}, "not in its folder"),
        ("/vsicurl/http://127.0.0.1/x.tif", {}, "not in its folder"),
        ("link.tif", {}, "not in its folder"),
        ("none.tif", {}, "does not exist"),
        ("other.vrt", {}, "no raster of its own"),
        ("x.tif", {"kind": ' subClass="VRTDerivedRasterBand"'}, "does more than put"),
        (
            "x.tif",
            {"more": "<PixelFunctionType>sum</PixelFunctionType>"},
            "does more than put",
        ),
    ],
)
def test_it_opens_nothing_else(
    tmp_path: Path, file: str, options: dict, message: str
) -> None:
    folder = tmp_path / "vrt"
    secret = write_tiff(tmp_path / "secret.tif", constant([1]))
    write_tiff(folder / "x.tif", constant([1]))
    write_vrt(folder / "other.vrt", "x.tif")
    (folder / "link.tif").symlink_to(secret)
    path = write_vrt(folder / "scene.vrt", file, **options)
    with pytest.raises(RasterError, match=message) as caught:
        describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "start",
    [
        b'<?xml version="1.0" encoding="UTF-8"?>\n',
        b"\xef\xbb\xbf",
        b"\n <!-- made by hand -->\n",
        b'<?xml version="1.0" encoding="ISO-8859-1"?>',
    ],
)
def test_what_xml_may_begin_with_is_no_hindrance(tmp_path: Path, start: bytes) -> None:
    name = "forêt.tif"
    write_tiff(tmp_path / name, constant([900], 4))
    text = (
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="UInt16" '
        f'band="1"><SimpleSource><SourceFilename relativeToVRT="1">{name}'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        "</VRTDataset>"
    )
    path = tmp_path / "a.vrt"
    encoding = "latin-1" if b"8859" in start else "utf-8"
    path.write_bytes(start + text.encode(encoding))
    assert (read_numbers(path) == 900).all()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "u1", "<u2", ">i2", "<i4"])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (2, 7, 5, 3)])
def test_layers_hold_the_numbers_of_the_array(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    path = tmp_path / "a & b <1>.npy"
    np.save(path, array)
    full = array.reshape((1, *shape)[-4:] if len(shape) > 2 else (1, *shape, 1))
    wanted = np.moveaxis(full, -1, 1).reshape(-1, 7, 5)
    found = read_numbers(path)
    assert found.dtype == wanted.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, wanted)


def test_one_date_of_an_array_is_read_in_a_window(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((2, 12, 10, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    second = (*[NO_BAND] * 3, *BANDS)
    item = describe_raster(tmp_path / "a.npy", "sentinel-2-l1c", Stated(bands=second))
    assert item.unit == "reflectance"
    raster = read_raster(item, window=Window(2, 3, 5, 4))
    wanted = array[1, 2:7, 3:7].transpose(2, 0, 1)
    np.testing.assert_array_equal(raster.pixels, wanted)
    assert raster.transform is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((1, 1, 4, 4, 2)), "2 to 4 axes"),
        (np.zeros((4, 4), "c8"), "type complex64"),
        (np.zeros((4, 4), "i8"), "type int64"),
        (np.asfortranarray(np.zeros((4, 5))), "columns first"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
    ],
)
def test_arrays_that_are_no_raster_are_refused(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(RasterError, match=message):
        read_numbers(tmp_path / "a.npy")


def test_pickled_arrays_are_refused_unread(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(RasterError, match="type object"):
        read_numbers(tmp_path / "a.npy")


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 4)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(RasterError, match="truncated: 248 bytes of 256"):
        read_numbers(path)
    path.write_bytes(whole[:40])
    with pytest.raises(RasterError, match="broken NumPy header"):
        read_numbers(path)


WHOLE = "'descr': '<u2', 'fortran_order': False, "


def write_header(path: Path, header: str, length: int | None = None) -> Path:
    """Write a header of version 1.0 and the numbers of 4 x 4 pixels."""
    content = header.encode("latin-1")
    stated = (len(content) if length is None else length).to_bytes(2, "little")
    path.write_bytes(b"\x93NUMPY\1\0" + stated + content + bytes(32))
    return path


def test_headers_of_other_writers_are_read(tmp_path: Path) -> None:
    for header in (
        "{" + WHOLE + "'shape': (4, 4), }   \n",
        "{'shape':(4L,4L),'descr':\"<u2\",'fortran_order':False}",
    ):
        path = write_header(tmp_path / "a.npy", header)
        assert read_numbers(path).shape == (1, 4, 4)


@pytest.mark.parametrize(
    "header",
    [
        "{" + WHOLE + "'shape': (4, 4), 'more': __import__('os')}",
        "{" + WHOLE + "'shape': tuple([4, 4])}",
        "{" + WHOLE + "'shape': (-4, 4)}",
        "{" + WHOLE + "'shape': (True, 4)}",
        "{" + WHOLE + "'shape': (4.0, 4)}",
        "{" + WHOLE + "'shape': (" + "9" * 5000 + ", 4)}",
        "{" + WHOLE + "'shape': (999999999999, 999999999999)}",
        "{" + WHOLE + "'shape': (4, 4)",
        "{" + WHOLE + "'shape': (4, 4)}\0",
        "{" + WHOLE + "}",
        "{" + WHOLE + "'shape': (4, 4), 'shape': (4, 4)}",
        "{'descr': '<u2:', 'fortran_order': False, 'shape': (4, 4)}",
        "{'descr': 'O', 'fortran_order': False, 'shape': (4, 4)}",
        "{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (4, 4)}",
        "{'descr': '', 'fortran_order': False, 'shape': (4, 4)}",
        "(" * 9000,
        "[" * 60_000,
        "9" * 60_000,
        "'" * 60_000,
        "\\d",
        "\0",
        "",
    ],
    ids=lambda header: header[-50:-20] or header,
)
def test_hostile_headers_are_one_line(tmp_path: Path, header: str) -> None:
    path = write_header(tmp_path / "a.npy", header)
    with pytest.raises(
        RasterError, match=r"a\.npy (has a broken|holds an|is trunc)"
    ) as e:
        read_numbers(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < len(str(path)) + 400


def test_headers_longer_than_their_file_are_one_line(tmp_path: Path) -> None:
    header = "{" + WHOLE + "'shape': (4, 4)}"
    path = write_header(tmp_path / "a.npy", header, 60_000)
    with pytest.raises(RasterError, match="60000 bytes are stated"):
        read_numbers(path)
    path.write_bytes(path.read_bytes().replace(b"NUMPY\1\0", b"NUMPY\7\0"))
    with pytest.raises(RasterError, match="broken NumPy header"):
        read_numbers(path)


def test_an_axis_out_of_its_place_is_refused_before_it_is_described(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 500_000), np.uint8))
    with pytest.raises(RasterError, match="500000 layers of 2 x 2 px"):
        read_numbers(tmp_path / "a.npy")
