"""Images whose sizes a layout states: listed unopened, checked when they are read."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.data.formats import ImageFormat, _tell_other_sensor
from spectralgpt.data.sources import Source, find_items, read_source
from spectralgpt.errors import BandError, ConfigError, DataError, RasterError
from spectralgpt.rasters import Assumed, read_raster
from spectralgpt.rasters.describe import _tell_taken_for
from spectralgpt.rasters.footprints import centre_lonlat
from spectralgpt.sensors import load_sensor
from tests.raster_files import write_tiff

SIZES = {10.0: 12, 20.0: 6, 60.0: 2}
BANDS = load_sensor("sentinel-2-l2a").bands
REAL = {
    "bigearthnet-v1": ("bigearthnet-v1", "bigearthnet_v1"),
    "bigearthnet-v2": ("bigearthnet-v2", "bigearthnet_v2"),
    "eurosat-ms": ("eurosat-ms", "eurosat_ms"),
    "ssl4eo-s12": ("ssl4eo-s12", "ssl4eo_s12_s2c"),
    "ssl4eo-s12-l2a": ("ssl4eo-s12", "ssl4eo_s12_s2a"),
    "major-tom": ("major-tom", "major_tom_*"),
    "hyspecnet-11k": ("hyspecnet-enmap", "hyspecnet_enmap"),
}


def write_patch(folder: Path, value: int = 500) -> Path:
    for number, band in enumerate(BANDS):
        side = SIZES[band.gsd_m]
        pixels = np.full((1, side, side), value + number, np.uint16)
        path = folder / f"{folder.name}_{band.name}.tif"
        write_tiff(path, pixels, res=band.gsd_m)
    return folder


def patches(**changes: object) -> Source:
    fields = {
        "name": "patches",
        "sensor": "sentinel-2-l2a",
        "items": "*",
        "offset": 0.0,
        "sizes": SIZES,
    }
    return Source(**fields | changes)


@pytest.mark.parametrize("name", REAL)
def test_stated_images_are_those_of_the_headers(shared: Path, name: str) -> None:
    folder, described = REAL[name]
    samples = Path(__file__).parents[2] / "examples" / "real_samples"
    eager = find_items(
        [read_source(path) for path in sorted(samples.glob(f"{described}.yaml"))],
        shared / "data",
    )
    lazy = find_items([read_source(f"archive:{name}")], shared / "data" / folder)
    assert len(lazy) == len(eager) > 0
    for one, other in zip(
        *(
            sorted(items, key=lambda item: item.name.split("/")[-1])
            for items in (lazy, eager)
        ),
        strict=True,
    ):
        assert one.bands == other.bands
        assert one.shape() == other.shape()
        assert one.grid() == other.grid()
        assert (one.offset, one.quantification) == (other.offset, other.quantification)
        few = one.bands[::40] if len(one.bands) > 40 else one.bands
        a, b = (read_raster(item, few, out_size=32) for item in (one, other))
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.valid, b.valid)
        assert a.transform == b.transform


def test_listing_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write_patch(tmp_path / f"patch_{number}", 500 + number)
    opened = []
    really_open = rasterio.open
    monkeypatch.setattr(
        rasterio, "open", lambda *a, **k: opened.append(a) or really_open(*a, **k)
    )
    items = find_items([patches()], tmp_path)
    assert [item.shape() for item in items] == [(12, 12)] * 5
    assert [len(item.bands) for item in items] == [12] * 5
    assert opened == []
    # The place takes one header, the pixels one each.
    assert centre_lonlat(items[0].grid()) is not None
    assert len(opened) == 1
    raster = read_raster(items[3], [load_sensor("sentinel-2-l2a").band("B11")])
    assert raster.pixels == pytest.approx(513 / 10_000)


def test_a_wrong_size_is_refused_when_pixels_are_read(tmp_path: Path) -> None:
    folder = write_patch(tmp_path / "patch")
    write_tiff(folder / "patch_B03.tif", np.ones((1, 9, 9), np.uint16))
    (item,) = find_items([patches()], tmp_path)
    with pytest.raises(RasterError, match="has 9 x 9 px where its archive has 12 x 12"):
        read_raster(item)


def test_missing_and_doubled_bands_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        write_patch(tmp_path / f"patch_{number}", 500 + number)
    (tmp_path / "patch_0" / "patch_0_B04.tif").unlink()
    (tmp_path / "patch_1" / "again_B04.tif").write_bytes(b"")
    wanted = tuple(band.name for band in BANDS)
    items = find_items([patches(bands=wanted)], tmp_path, max_bad_share=0.9)
    assert [item.name for item in items] == ["patches/patch_2"]
    assert "2 of 3 images are bad" in caplog.text
    # Without a list of bands, those that are there are taken.
    assert len(find_items([patches()], tmp_path, max_bad_share=0.9)) == 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({10.0: 12, 20.0: 6}, "sizes lack the side of bands of 60 m"),
        (0, "must be positive"),
    ],
)
def test_sizes_that_make_no_sense(tmp_path: Path, sizes: object, message: str) -> None:
    write_patch(tmp_path / "patch")
    with pytest.raises((ConfigError, DataError), match=message):
        find_items([patches(sizes=sizes)], tmp_path)
    with pytest.raises(ConfigError, match="sizes need the sensor"):
        patches(sensor=None)


def test_offset_in_doubt_is_taken_from_the_pixels(tmp_path: Path) -> None:
    write_patch(tmp_path / "patch", 120)
    (item,) = find_items([patches(offset="auto")], tmp_path)
    assert (item.offset, item.offset_source) == (
        0,
        "pixels darker than the offset allows",
    )


def test_a_file_with_too_few_layers_lacks_bands(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.ones((11, 8, 8), np.uint16))
    names = tuple(band.name for band in BANDS)
    with pytest.raises(DataError, match="has 11 layers, 12 bands were stated"):
        find_items([patches(items="*.tif", bands=names, sizes="file")], tmp_path)
    assert issubclass(BandError, ValueError)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (None, "do not say which sensor"),
        ("sentinel-2-l2a", None),
        ("sentinel-2-l1c", "the model was trained on"),
    ],
)
def test_images_of_a_sensor_in_doubt_or_another_than_the_model_s_are_named_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stated: str | None,
    message: str | None,
) -> None:
    _tell_taken_for.cache_clear()
    _tell_other_sensor.cache_clear()
    path = tmp_path / "scene.tif"
    write_tiff(path, np.full((4, 12, 12), 500, np.uint16), res=10.0)
    names = ("B02", "B03", "B04", "B08")
    known = Assumed(sensor="sentinel-2-l2a", model_bands=BANDS)
    images = ImageFormat(sensor=stated, bands=names, offset=0.0, assumed=known)
    for _ in range(2):
        assert images.describe(path).sensor.name == (stated or "sentinel-2-l2a")
    assert len(caplog.messages) == (message is not None)
    assert all(str(message) in said for said in caplog.messages)
