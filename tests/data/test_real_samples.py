"""Real archives, described by the YAML files in `examples/real_samples`."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.sources import find_items, read_source
from spectralgpt.errors import BandError
from spectralgpt.rasters import describe_raster, gdal, read_raster

SAMPLES = Path(__file__).parents[2] / "examples" / "real_samples"

# name: images, offsets, median reflectance of B02, B04, B08 and B11 over the images
EXPECTED = {
    "barkbeetle_s2": (320, {0}, (0.025, 0.026, 0.180, 0.105)),
    "bigearthnet_v1": (5, {0}, (0.032, 0.044, 0.363, 0.201)),
    "bigearthnet_v2": (1, {0}, (0.044, 0.062, 0.366, 0.221)),
    "eurosat_ms": (3, {0}, (0.082, 0.040, 0.171, 0.185)),
    "hydro_s2": (5, {0, -1000}, (0.032, 0.005, 0.002, 0.002)),
    "major_tom_0u": (1, {-1000}, (0.191, 0.161, 0.262, 0.184)),
    "major_tom_199u": (1, {0}, (0.048, 0.071, 0.254, 0.268)),
    "ssl4eo_s12_s2a": (2, {0}, (0.087, 0.105, 0.290, 0.217)),
    "ssl4eo_s12_s2c": (2, {0}, (0.141, 0.121, 0.292, 0.203)),
    "terramesh_l1c": (5, {0, -1000}, (0.116, 0.072, 0.215, 0.160)),
    "terramesh_l2a": (5, {0, -1000}, (0.046, 0.056, 0.236, 0.174)),
    "virginia_s2_l1c": (1, {0}, (0.122, 0.072, 0.047, 0.026)),
}


def items_of(shared, name):
    return find_items([read_source(SAMPLES / f"{name}.yaml")], shared / "data")


def medians(items, names, **options):
    rasters = [
        read_raster(item, [item.sensor.band(n) for n in names], **options)
        for item in items
    ]
    return np.array(
        [
            [np.median(p[v]) for p, v in zip(r.pixels, r.valid, strict=True)]
            for r in rasters
        ]
    )


def test_every_description_is_read():
    paths = sorted(SAMPLES.glob("*.yaml"))
    assert {*EXPECTED} < {path.stem for path in paths}
    for path in paths:
        assert not Path(read_source(path).root).is_absolute()


@pytest.mark.parametrize("name", EXPECTED)
def test_offsets_and_reflectance_are_plausible(shared, name):
    count, offsets, expected = EXPECTED[name]
    items = items_of(shared, name)
    assert len(items) == count
    assert {item.offset for item in items} == offsets
    found = np.median(
        medians(items[:: 1 + len(items) // 80], ["B02", "B04", "B08", "B11"]), axis=0
    )
    tolerance = 0.02 if name == "barkbeetle_s2" else 0.002  # every fifth image is read
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_offset_of_major_tom_0u_is_taken_from_the_name(shared):
    (item,) = items_of(shared, "major_tom_0u")
    assert item.offset == -1000
    assert item.offset_source.startswith("baseline 0400 in the name 'S2A_MSIL2A_2022")


def test_terramesh_levels_agree_in_the_infrared_only_with_their_offsets(shared):
    l1c, l2a = (items_of(shared, f"terramesh_{level}") for level in ("l1c", "l2a"))
    one, two = medians(l1c, ["B8A", "B11"]), medians(l2a, ["B8A", "B11"])
    # The air hardly matters there; a wrong offset is a difference of 0.1.
    assert np.abs(one - two)[:, 1].max() < 0.04
    assert np.abs(one - two)[:, 0].max() < 0.07


def test_cirrus_band_of_terramesh_is_dark_after_the_offset(shared):
    found = medians(items_of(shared, "terramesh_l1c"), ["B10"])
    assert (found > 0).all()
    assert (found < 0.01).all()


def test_clear_water_of_hydro_is_dark_after_the_offset(shared):
    items = items_of(shared, "hydro_s2")
    swir = medians(items, ["B12"])[:, 0]
    by_name = dict(zip((item.name for item in items), swir, strict=True))
    assert by_name["hydro_s2/patch_10.tif"] == pytest.approx(0.0017, abs=1e-3)
    assert by_name["hydro_s2/patch_100.tif"] == pytest.approx(0.0006, abs=1e-3)


def test_eurosat_order_keeps_b11_and_drops_the_empty_cirrus_band(shared):
    for item in items_of(shared, "eurosat_ms"):
        bands = item.sensor.select(exclude=["B10"])
        raster = read_raster(item, bands)
        assert len(raster.bands) == 12
        assert raster.pixels.mean(axis=(1, 2)).min() > 0.002  # B10 is 0.001
        b10 = read_raster(item, [item.sensor.band("B10")])
        assert b10.pixels.mean() < 0.0015
        b8, b8a = raster.band_names.index("B08"), raster.band_names.index("B8A")
        ratio = np.median(raster.pixels[b8a] / raster.pixels[b8])
        assert 0.9 < ratio < 1.25  # neighbours in wavelength look alike


def test_test_places_of_barkbeetle_stay_out(shared):
    root = shared / "data" / "barkbeetle_s2"
    held_out = {p.stem.removeprefix("mask_") for p in root.glob("masks/test/*.tif")}
    places = {
        item.place.rpartition("/")[2] for item in items_of(shared, "barkbeetle_s2")
    }
    assert len(places) == 160
    assert not places & held_out


def test_barkbeetle_warnings_are_summarised_once(shared, caplog, capfd, monkeypatch):
    monkeypatch.setattr(gdal._Quiet, "reported", set())
    with caplog.at_level(logging.WARNING):
        items = items_of(shared, "barkbeetle_s2")
        for item in items[:20]:
            read_raster(item)
    assert len(caplog.records) == 1
    assert re.search(r"GDAL warned \d+ time\(s\)", caplog.text)
    captured = capfd.readouterr()
    assert "TIFFReadDirectory" not in captured.out + captured.err


def test_virginia_bands_of_three_resolutions_are_aligned(shared):
    """A shift of one 60 m pixel would break the likeness of neighbours at the shore."""
    (item,) = items_of(shared, "virginia_s2_l1c")
    names = ["B02", "B01", "B8A", "B09", "B08"]
    raster = read_raster(item, [item.sensor.band(name) for name in names], out_size=324)
    blue, coastal, nir20, vapour, nir10 = raster.pixels

    def best_shift(fixed, moved):
        shifts = [(r, c) for r in range(-2, 3) for c in range(-2, 3)]
        inner = fixed[5:-5, 5:-5].ravel()
        likeness = [
            np.corrcoef(inner, np.roll(moved, s, (0, 1))[5:-5, 5:-5].ravel())[0, 1]
            for s in shifts
        ]
        return shifts[int(np.argmax(likeness))]

    assert best_shift(blue, coastal) == (0, 0)
    assert best_shift(nir10, nir20) == (0, 0)
    assert best_shift(nir10, vapour) == (0, 0)


def test_enmap_and_landsat_descriptions_give_reflectance(shared):
    tiles = items_of(shared, "enmap_potsdam")
    assert len(tiles) == 18
    red, nir = medians(tiles[:3], ["B048", "B080"]).mean(axis=0)
    assert 0.01 < red < 0.2 < nir < 0.6
    (patch,) = items_of(shared, "hyspecnet_enmap")
    assert len(patch.files) == 224
    assert read_raster(patch).valid.mean() == pytest.approx(0.902, abs=0.01)
    (scene,) = items_of(shared, "landsat8_scene")
    red, nir = medians([scene], ["B4", "B5"], out_size=100)[0]
    assert (red, nir) == pytest.approx((0.057, 0.2), abs=0.01)


def test_file_of_another_archive_is_refused_without_its_bands(shared):
    path = shared / "data" / "hydro-s2" / "patch_0.tif"
    with pytest.raises(BandError, match="does not say which of its 12 layers"):
        describe_raster(path, sensor="sentinel-2-l2a")
