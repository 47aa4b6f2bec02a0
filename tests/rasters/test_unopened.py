from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters import FILE_SIZES, RasterFile, Stated, describe_raster
from tests.raster_files import write_tiff

BANDS = ("B02", "B03", "B04")


def describe(path: Path, *bands: str) -> RasterFile:
    stated = Stated(bands=bands or ("sensor-order",), offset=0)
    return describe_raster(path, "sentinel-2-l1c", stated, sizes=FILE_SIZES)


@pytest.mark.parametrize(
    "options",
    [{}, {"bigtiff": "yes"}, {"endianness": "big"}, {"compress": "deflate"}],
    ids=str,
)
def test_first_bytes_tell_the_size(tmp_path: Path, options: dict[str, str]) -> None:
    pixels = np.ones((13, 31, 47), np.uint16)
    item = describe(write_tiff(tmp_path / "a.tif", pixels, **options))
    assert (*item.shape(), len(item.files)) == (31, 47, 13)


def test_files_of_other_kinds_are_opened(tmp_path: Path) -> None:
    pixels = np.ones((3, 31, 47), np.uint16)
    path = write_tiff(tmp_path / "a.jp2", pixels, driver="JP2OpenJPEG")
    assert describe(path, *BANDS).shape() == (31, 47)
    with pytest.raises(BandError, match="has 3 layers, 2 bands were stated"):
        describe(path, *BANDS[:2])


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"text"])
def test_broken_files_are_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(RasterError):
        describe(path, *BANDS)
