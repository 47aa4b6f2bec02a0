import errno
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio._err import CPLE_AppDefinedError

from spectralgpt.errors import OutputError, RasterError
from spectralgpt.rasters import Grid, mosaics
from spectralgpt.rasters.footprints import (
    centre_lonlat,
    footprint_lonlat,
    move_points,
    pixel_size_m,
)
from spectralgpt.rasters.gdal import reading, writing
from spectralgpt.rasters.lookup import find_codes, lay_under, reaches, read_codes_at
from tests.raster_files import write_tiff

UTM = Affine(10, 0, 5e5, 0, -10, 4e6)
SITE = 'LOCAL_CS["building site",UNIT["metre",1]]'
ENGINEERING = (
    'ENGCRS["plant",EDATUM["hall"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    'LENGTHUNIT["metre",1]]'
)
MOON = (
    'GEOGCS["Moon",DATUM["D_Moon",SPHEROID["Moon",1737400,0]],PRIMEM["G",0],'
    'UNIT["degree",0.0174532925199433]]'
)
NOWHERE = [SITE, ENGINEERING, MOON]


@pytest.mark.parametrize("crs", NOWHERE)
def test_local_systems_lie_nowhere_and_say_so(
    crs: str, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = Grid(8, 8, UTM, crs)
    assert footprint_lonlat(grid) is None
    assert centre_lonlat(grid) is None
    assert pixel_size_m(grid) is None
    other = Grid(8, 8, UTM, "EPSG:32632")
    with pytest.raises(RasterError, match="there is no way from the reference system"):
        move_points(crs, "EPSG:4326", [0], [0])
    with pytest.raises(RasterError, match=r"gdal_edit\.py -a_srs"):
        lay_under(other, grid)
    with pytest.raises(RasterError, match=r"WGS 84 / UTM zone 32N|EPSG:32632"):
        mosaics._warp(other, grid, 1, lambda window, size: pytest.fail("read"))
    # GDAL itself would write its reasons to the terminal.
    assert capfd.readouterr().err == ""


def test_points_without_a_place_are_infinite_and_the_others_are_moved() -> None:
    xs = [5e5, 1e20, np.inf, 6e5, 1e20]
    ys = [4e6, 1e20, 0.0, 4.1e6, 4e6]
    found = np.array(move_points("EPSG:32632", "EPSG:4326", xs, ys))
    assert list(np.isfinite(found).all(axis=0)) == [True, False, False, True, False]
    for index in (0, 3):
        alone = move_points("EPSG:32632", "EPSG:4326", [xs[index]], [ys[index]])
        np.testing.assert_array_equal(found[:, index : index + 1], alone)


def test_places_far_apart_show_nothing_of_each_other(tmp_path: Path) -> None:
    here = Grid(8, 8, UTM, "EPSG:32632")
    # Its centres have no place on the globe at all.
    far = Grid(8, 8, Affine(1e15, 0, 1e20, 0, -1e15, 1e20), "EPSG:32660")
    for first, second in ((here, far), (far, here)):
        assert not reaches(first, lay_under(first, second))
        _, valid = mosaics._warp(
            first, second, 1, lambda window, size: pytest.fail("read")
        )
        assert not valid.any()
    codes = write_tiff(tmp_path / "codes.tif", np.ones((1, 8, 8), np.uint8))
    known = read_codes_at(codes, 1, far)
    assert not np.asarray(known[1]).any()
    assert find_codes(codes, 1, far) == {}
    assert footprint_lonlat(far) is None


def test_labels_of_a_local_system_are_named(tmp_path: Path) -> None:
    codes = write_tiff(tmp_path / "codes.tif", np.ones((1, 8, 8), np.uint8), crs=SITE)
    with pytest.raises(RasterError, match=r"codes\.tif cannot be laid on a scene"):
        read_codes_at(codes, 1, Grid(8, 8, UTM, "EPSG:32632"))


def test_both_kinds_of_errors_and_the_systems_own_become_ours(tmp_path: Path) -> None:
    kinds: list[Exception] = [
        CPLE_AppDefinedError(1, 1, "Point outside of projection domain\nand more"),
        rasterio.errors.RasterioIOError("Read failed"),
        rasterio.errors.CRSError("unknown"),
        SystemError("Unknown GDAL Error"),
        OSError(errno.EIO, "Input/output error"),
    ]
    for kind in kinds:
        with pytest.raises(RasterError, match=r"^a\.tif cannot be read .*\.$"):
            raise_inside(reading(Path("a.tif")), kind)
        with pytest.raises(OutputError, match=r"^a\.tif cannot be written: .* Make"):
            raise_inside(writing(Path("a.tif")), kind)
    refused = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(OutputError, match=r"Permission denied\. Allow writing there"):
        raise_inside(writing(Path("a.tif")), refused)
    with pytest.raises(RasterError, match=r"^as it was$"):
        raise_inside(reading(Path("a.tif")), RasterError("as it was"))


def raise_inside(context: object, error: Exception) -> None:
    with context:  # type: ignore[attr-defined]
        raise error
