from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine

from spectralgpt.errors import RasterError
from spectralgpt.rasters import Grid, Window, overlay, read_codes
from tests.raster_files import write_tiff


def grid(
    side: int, res: float, left: float = 0.0, top: float = 0.0, crs: str = "EPSG:32632"
) -> Grid:
    return Grid(side, side, Affine(res, 0, left, 0, -res, top), crs)


def look_up(path: Path, image: Grid, codes: Grid, window: Window) -> np.ndarray:
    found, known = read_codes(path, 1, *overlay(image, codes).pixels(window))
    return np.where(known, found, -1)


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Codes 10 * row + column on 8 x 8 px of 30 m."""
    codes = (10 * np.arange(8)[:, None] + np.arange(8)).astype(np.uint8)
    return write_tiff(tmp_path / "codes.tif", codes[None], res=30.0, corner=(0, 0))


def test_a_coarser_layer_is_repeated_without_blending(numbered: Path) -> None:
    found = look_up(numbered, grid(24, 10), grid(8, 30), Window(0, 0, 24, 24))
    expected = 10 * np.arange(8)[:, None] + np.arange(8)
    assert (found == np.kron(expected, np.ones((3, 3), int))).all()


def test_a_part_of_a_larger_layer_is_found_by_coordinates(numbered: Path) -> None:
    # The image lies two rows down and three columns to the right.
    image = grid(4, 30, left=90, top=-60)
    found = look_up(numbered, image, grid(8, 30), Window(1, 0, 3, 4))
    expected = 10 * np.arange(3, 6)[:, None] + np.arange(3, 7)
    assert (found == expected).all()


def test_a_window_equals_the_same_window_of_the_whole(numbered: Path) -> None:
    image = grid(20, 11, left=3, top=-4)
    whole = look_up(numbered, image, grid(8, 30), Window(0, 0, 20, 20))
    part = look_up(numbered, image, grid(8, 30), Window(5, 7, 6, 9))
    assert (part == whole[5:11, 7:16]).all()


def test_a_layer_from_south_to_north_is_turned(numbered: Path) -> None:
    upward = Grid(8, 8, Affine(30, 0, 0, 0, 30, -240), "EPSG:32632")
    found = look_up(numbered, grid(8, 30), upward, Window(0, 0, 8, 8))
    assert found[0].tolist() == [70 + column for column in range(8)]


def test_half_a_pixel_may_be_missing_and_has_no_code(numbered: Path) -> None:
    image = grid(25, 10, left=-10, top=0)
    found = look_up(numbered, image, grid(8, 30), Window(0, 0, 3, 3))
    assert found.tolist() == [[-1, 0, 0]] * 3


def test_layers_that_end_before_the_image_are_refused() -> None:
    with pytest.raises(RasterError, match=r"the mask ends 6.0 px \(columns\) before"):
        overlay(grid(24, 10, left=60), grid(8, 30))
    with pytest.raises(RasterError, match=r"the mask ends 1.0 px \(rows\) before"):
        overlay(grid(8, 30, top=30), grid(8, 30))
    overlay(grid(8, 30, top=14.9), grid(8, 30))


def test_other_reference_systems_are_refused_and_spellings_are_not() -> None:
    from rasterio.crs import CRS

    spelled = CRS.from_epsg(32632).to_wkt()
    overlay(grid(8, 30), grid(8, 30, crs=spelled))
    with pytest.raises(
        RasterError, match=r"image is in EPSG:32632, the mask in EPSG:4"
    ):
        overlay(grid(8, 30), grid(8, 30, crs="EPSG:4326"))


def test_without_georeference_shapes_must_agree() -> None:
    plain = Grid(8, 8)
    overlay(grid(8, 30), plain)
    overlay(plain, plain)
    with pytest.raises(RasterError, match=r"9 x 9 px, the mask 8 x 8, and not both"):
        overlay(grid(9, 30), plain)
    with pytest.raises(RasterError, match="the mask has no georeference"):
        overlay(grid(8, 30), plain, "georeference")


def test_align_shape_leaves_georeferences_out(numbered: Path) -> None:
    far = grid(8, 10, left=1e6)
    found, _ = read_codes(
        numbered, 1, *overlay(far, grid(8, 30), "shape").pixels(Window(2, 0, 1, 8))
    )
    assert found.tolist() == [[20 + column for column in range(8)]]
