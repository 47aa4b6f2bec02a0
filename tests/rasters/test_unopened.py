from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import RasterError
from spectralgpt.rasters.unopened import read_size
from tests.raster_files import write_tiff


@pytest.mark.parametrize(
    "options",
    [{}, {"bigtiff": "yes"}, {"endianness": "big"}, {"compress": "deflate"}],
    ids=str,
)
def test_first_bytes_tell_the_size(tmp_path: Path, options: dict[str, str]) -> None:
    pixels = np.ones((13, 31, 47), np.uint16)
    assert read_size(write_tiff(tmp_path / "a.tif", pixels, **options)) == (31, 47, 13)


def test_files_of_other_kinds_are_opened(tmp_path: Path) -> None:
    pixels = np.ones((3, 31, 47), np.uint16)
    path = write_tiff(tmp_path / "a.jp2", pixels, driver="JP2OpenJPEG")
    assert read_size(path) == (31, 47, 3)


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"text"])
def test_broken_files_are_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(RasterError):
        read_size(path)
