import json
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.rasters import (
    Bounds,
    RasterFile,
    Stated,
    Window,
    describe_raster,
    make_mosaic,
    open_scene,
    read_raster,
)
from tests.raster_files import LEFT, S2_L2A, TOP, write_tiff

UTM = "EPSG:32632"
BANDS = S2_L2A[1:4]


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    descriptions = BANDS[: len(pixels)]
    return write_tiff(path, pixels, descriptions=descriptions, **options)  # type: ignore[arg-type]


def describe(path: Path, offset: float = 0):
    return describe_raster(path, "sentinel-2-l2a", Stated(offset=offset))


def random(side: int = 40, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(1000, 6000, (3, side, side))
    return values.astype("uint16")


def test_an_area_of_one_scene_is_its_own_pixels(tmp_path: Path) -> None:
    pixels = random()
    item = describe(write(tmp_path / "a.tif", pixels))
    area = Bounds(LEFT + 52, TOP - 201, LEFT + 198, TOP - 99, UTM)
    with open_scene(item, area=area) as scene:
        # Every pixel that the area touches, rows 9 to 20, columns 5 to 19.
        assert scene.shape == (12, 15)
        assert (scene.transform.c, scene.transform.f) == (LEFT + 50, TOP - 90)
        found = scene.read()
    np.testing.assert_allclose(found.pixels, pixels[:, 9:21, 5:20] / 1e4, rtol=1e-6)


def test_two_tiles_join_where_they_meet_and_the_first_wins(tmp_path: Path) -> None:
    first, second = random(seed=1), random(seed=2)
    first[:, 5, 25] = 0
    first[1, 6, 26] = 0
    left = describe(write(tmp_path / "a.tif", first))
    right_corner = (LEFT + 200, TOP)
    right = describe(write(tmp_path / "b.tif", second, corner=right_corner), -500)
    mosaic = make_mosaic([left, right])
    raster = read_raster(mosaic)
    assert raster.pixels.shape == (3, 40, 60)
    wanted = np.zeros((3, 40, 60))
    wanted[:, :, 20:] = (second - 500.0) / 1e4
    wanted[:, :, :40] = first / 1e4
    # Where the first shows nothing, or not all bands, the second does, in all bands.
    wanted[:, 5, 25] = (second[:, 5, 5] - 500.0) / 1e4
    wanted[:, 6, 26] = (second[:, 6, 6] - 500.0) / 1e4
    np.testing.assert_allclose(raster.pixels, wanted, rtol=1e-5)
    assert raster.valid.all()
    part = read_raster(mosaic, window=Window(3, 15, 20, 30))
    np.testing.assert_array_equal(part.pixels, raster.pixels[:, 3:23, 15:45])


def test_a_neighbouring_zone_is_warped_onto_the_first(tmp_path: Path) -> None:
    from rasterio.warp import transform

    # A plane that rises to the east, in two zones over the same ground.
    (x,), (y,) = transform(UTM, "EPSG:32633", [LEFT + 300], [TOP - 300])
    plane = np.broadcast_to(2000 + np.arange(120.0) * 10, (3, 120, 120))
    corner = (round(x - 600, -1), round(y + 600, -1))
    other = write(
        tmp_path / "b.tif", plane.astype("uint16"), corner=corner, crs="EPSG:32633"
    )
    first = np.zeros((3, 60, 60), "uint16")
    first[:, :30] = 3000
    mosaic = make_mosaic(
        [describe(write(tmp_path / "a.tif", first)), describe(other)],
        Bounds(LEFT, TOP - 600, LEFT + 600, TOP, UTM),
    )
    whole = read_raster(mosaic)
    assert whole.valid.all()
    np.testing.assert_allclose(whole.pixels[:, :30], 0.3)
    row, column = 45, 30
    (there,), _ = transform(
        UTM, "EPSG:32633", [LEFT + 10 * column + 5], [TOP - 10 * row - 5]
    )
    wanted = (2000 + ((there - corner[0]) / 10 - 0.5) * 10) / 1e4
    assert whole.pixels[0, row, column] == pytest.approx(wanted, abs=2e-5)
    part = read_raster(mosaic, window=Window(35, 20, 15, 17))
    np.testing.assert_allclose(part.pixels, whole.pixels[:, 35:50, 20:37], atol=1e-5)


@pytest.mark.parametrize("res", [10.0, 13.0])
def test_a_warped_window_is_that_part_of_the_whole(tmp_path: Path, res: float) -> None:
    from rasterio.warp import transform

    # A plane that rises by 0.02 a pixel to the east.
    (x,), (y,) = transform(UTM, "EPSG:32633", [LEFT + 1000], [TOP - 1000])
    plane = np.broadcast_to(2000 + np.arange(120.0) * 200, (3, 120, 120))
    corner = (round(x - 600, -1), round(y + 600, -1))
    other = write(
        tmp_path / "b.tif", plane.astype("uint16"), corner=corner, crs="EPSG:32633"
    )
    first = write(tmp_path / "a.tif", np.zeros((3, 150, 150), "uint16"), res=res)
    mosaic = make_mosaic([describe(first), describe(other)])
    whole = read_raster(mosaic)
    for window in (
        Window(80, 80, 12, 17),
        Window(60, 70, 40, 5),
        Window(70, 60, 9, 30),
    ):
        part = read_raster(mosaic, window=window)
        at = np.s_[:, *window.slices]
        np.testing.assert_array_equal(part.valid, whole.valid[at])
        # To a thousandth of a pixel; the very same from rasterio 1.5 on.
        np.testing.assert_allclose(part.pixels, whole.pixels[at], atol=2e-5)


def test_a_mosaic_shrinks_and_a_gap_is_not_valid(tmp_path: Path) -> None:
    flat = np.full((3, 40, 40), 2000, "uint16")
    left = describe(write(tmp_path / "a.tif", flat))
    right = describe(write(tmp_path / "b.tif", flat, corner=(LEFT + 800, TOP)))
    raster = read_raster(make_mosaic([left, right]), out_size=(10, 30))
    assert raster.valid[:, :, :10].all()
    assert not raster.valid[:, :, 11:19].any()
    np.testing.assert_allclose(raster.pixels[raster.valid], 0.2, atol=1e-6)


def test_what_cannot_be_laid_over_an_area_is_one_line(tmp_path: Path) -> None:
    item = describe(write(tmp_path / "a.tif", random()))
    with pytest.raises(RasterError, match=r"none of the 1 products shows the area"):
        make_mosaic([item], Bounds(0, 0, 1, 1))
    with pytest.raises(ConfigError, match="minx,miny,maxx,maxy"):
        Bounds(2, 0, 1, 1)
    with pytest.raises(ConfigError, match="no reference system"):
        Bounds(0, 0, 1, 1, "EPSG:0")
    with pytest.raises(ConfigError, match="beyond a pole"):
        Bounds(0, 91, 1, 95)
    other = describe_raster(
        write(tmp_path / "b.tif", random()), "sentinel-2-l1c", Stated(offset=0)
    )
    with pytest.raises(ConfigError, match="is of one sensor"):
        make_mosaic([item, other])


def test_the_area_of_a_geojson_file_is_around_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    shape = {"type": "Polygon", "coordinates": [[[9, 45, 7], [10, 45], [9.5, 46]]]}
    rows = [{"type": "Feature", "properties": {}, "geometry": shape}]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    assert Bounds.of_file(path) == Bounds(9, 45, 10, 46)
    for text, message in [("{", "is not JSON"), ('{"features": []}', "no shape")]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            Bounds.of_file(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_areas_are_read_in_encodings_that_say_so(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.geojson"
    line = '{"type": "LineString", "coordinates": [[9, 45], [10, 46]]}'
    text = f'{{"type": "Feature", "geometry": {line}, "name": "Gr\u00fcn"}}'
    path.write_text(text, encoding=encoding)
    assert Bounds.of_file(path) == Bounds(9, 45, 10, 46)


@pytest.mark.parametrize(
    ("encoding", "message"), [("latin-1", "is not UTF-8"), ("utf-16-be", "byte of 0")]
)
def test_areas_in_other_encodings_are_one_line(
    tmp_path: Path, encoding: str, message: str
) -> None:
    path = tmp_path / "a.geojson"
    path.write_text('{"name": "Gr\u00fcn"}', encoding=encoding)
    with pytest.raises(ConfigError, match=message) as caught:
        Bounds.of_file(path)
    assert str(caught.value).count(path.name) == 1
    assert ".." not in str(caught.value)


def test_an_area_wider_than_the_scenes_is_cut_to_them(tmp_path: Path) -> None:
    item = describe(write(tmp_path / "a.tif", random()))
    right = describe(write(tmp_path / "b.tif", random(), corner=(LEFT + 400, TOP)))
    for area in (
        Bounds(-180, -90, 180, 90),
        Bounds(-180, -85, 179, 85),
        Bounds(LEFT - 1e6, TOP - 1e6, LEFT + 1e6, TOP + 1e6, UTM),
        Bounds(-2e7, -2e7, 2e7, 2e7, "EPSG:3857"),
    ):
        assert make_mosaic([item], area).grid() == item.grid()
        assert make_mosaic([item, right], area).shape() == (40, 80)
    half = Bounds(LEFT + 200, TOP - 1e5, LEFT + 1e5, TOP + 1e5, UTM)
    assert make_mosaic([item], half).shape() == (40, 20)


def across_180(tmp_path: Path) -> tuple[np.ndarray, RasterFile]:
    """Two kilometres on both sides of 180 degrees, 17 degrees south."""
    from rasterio.warp import transform

    (x,), (y,) = transform("EPSG:4326", "EPSG:32701", [180.0], [-17.0])
    pixels = random(side=100)
    place = {"crs": "EPSG:32701", "res": 20.0, "corner": (x - 1000, y + 1000)}
    return pixels, describe(write(tmp_path / "fiji.tif", pixels, **place))


@pytest.mark.parametrize(
    ("west", "east"), [(179.996, -179.996), (179.996, 180.004), (-180.004, -179.996)]
)
def test_an_area_across_180_degrees_is_read(
    tmp_path: Path, west: float, east: float
) -> None:
    pixels, item = across_180(tmp_path)
    area = Bounds(west, -17.002, east, -16.998)
    with open_scene(item, area=area) as scene:
        # 0.008 and 0.004 degrees are 852 and 443 m.
        assert scene.shape == pytest.approx((23, 43), abs=2)
        row, column = (
            round((item.grid().transform.f - scene.transform.f) / 20),
            round((scene.transform.c - item.grid().transform.c) / 20),
        )
        found = scene.read().pixels
    height, width = scene.shape
    wanted = pixels[:, row : row + height, column : column + width] / 1e4
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_shapes_across_180_degrees_are_an_area_there(tmp_path: Path) -> None:
    _, item = across_180(tmp_path)
    rings = [
        [[[179.99, -17.01], [180, -17.01], [180, -16.99], [179.99, -17.01]]],
        [[[-180, -17.01], [-179.99, -17.01], [-180, -16.99], [-180, -17.01]]],
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": rings}))
    area = Bounds.of_file(path)
    assert (area.left, area.right) == pytest.approx((179.99, 180.01))
    # The scene is 2 km wide and the shapes are 2.1 km.
    assert make_mosaic([item], area).grid() == item.grid()
    with pytest.raises(RasterError, match="none of the 1 products"):
        make_mosaic([item], Bounds(179.9, -17.01, 179.95, -16.99))
