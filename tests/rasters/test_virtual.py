from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import RasterError
from spectralgpt.rasters import Stated, describe_raster, read_numbers, read_raster
from tests.raster_files import constant, write_tiff

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
