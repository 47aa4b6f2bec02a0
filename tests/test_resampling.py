import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import BandError, DataError, ShapeError
from spectralgpt.rasters import describe_raster, read_raster
from spectralgpt.resampling import (
    Imagery,
    Resampling,
    fit_resampling,
    load_library,
)
from spectralgpt.sensors import Band, load_sensor

TOOL = Path(__file__).resolve().parent.parent / "tools" / "resampling_accuracy.py"
# Share of linear interpolation's error that an estimate may have.
MOST_SHARE = {"B05": 0.4, "B06": 0.15, "B07": 0.15, "B08": 0.2}
MOST_SHARE_OF_UNSEEN_CLASS = 1.1
MOST_SUM_ERROR = 0.003
LANDSAT = load_sensor("landsat-8-9-l2")
SENTINEL = load_sensor("sentinel-2-l2a")
ENMAP = load_sensor("enmap-l2a")


@cache
def tool():
    spec = importlib.util.spec_from_file_location("resampling_accuracy", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def measure(found, wanted):
    folds = tool().split(load_library())
    return tool().measure(found.select(), found, wanted, folds)


def fit(found, wanted, names=None, **settings) -> Resampling:
    return fit_resampling(
        found.select(names),
        wanted.select(),
        sensor=found,
        wanted_sensor=wanted,
        **settings,
    )


def statuses(resampling: Resampling) -> dict[str, str]:
    return {source.band.name: source.status for source in resampling.sources}


def pixels_of(sensor, at) -> np.ndarray:
    """Spectra of the library as (C, 1, n) of a sensor."""
    seen = load_library().sense(sensor.select(), sensor)[at]
    return seen.T[:, None].astype(np.float32)


def test_library_is_the_samples_own(shared):
    folder = shared / "data" / "spectral_library"
    if not folder.is_dir():
        pytest.skip("the spectral library is not in ../shared")
    spectra = np.fromfile(folder / "spectra.sli", "<f4").reshape(7261, -1)
    library = load_library()
    np.testing.assert_allclose(library.spectra, spectra, atol=0.5e-4)
    assert (library.wavelengths_nm[0], library.wavelengths_nm[-1]) == (400, 2450)
    assert (np.diff(library.wavelengths_nm) > 0).all()
    assert (library.classes == "vegetation").sum() == 2000
    assert (library.kinds == "soil").sum() == 4185


def test_library_says_nothing_beyond_itself_and_in_its_gaps():
    outside = [Band("uv", 380, 20, 1), Band("cirrus", 1375, 30, 1)]
    inside = [Band("edge", 500, 1, 1), Band("red", 655, 30, 1)]
    seen = load_library().sense([*outside, *inside])
    assert np.isnan(seen).all(axis=0).tolist() == [True, True, False, False]
    at_500 = load_library().spectra[:, 10]
    np.testing.assert_allclose(seen[:, 2], at_500, atol=1e-3)


def test_sentinel_2_from_enmap_is_summed_within_a_third_of_a_percent():
    rows = tool().measure(ENMAP.select(), ENMAP, SENTINEL, tool().split(load_library()))
    assert [row.band for row in rows] == [b.name for b in SENTINEL.select()]
    assert {row.status for row in rows} == {"resampled"}
    assert max(row.error for row in rows) < MOST_SUM_ERROR
    assert all(0.85 <= row.covered <= 0.95 for row in rows)


def test_red_edge_from_landsat_is_estimated_far_better_than_interpolated():
    rows = measure(LANDSAT, SENTINEL)
    for row in rows:
        assert row.status == (
            "estimated" if row.band in {*MOST_SHARE, "B09"} else "measured"
        )
        assert row.share <= MOST_SHARE.get(row.band, np.inf), row
        assert 0.85 <= row.covered <= 0.95, row


@pytest.mark.parametrize("name", ["bare", "built", "burned", "npv", "vegetation"])
def test_a_class_that_the_fit_never_saw_gets_hardly_worse(name):
    is_out = load_library().classes == name
    rows = tool().measure(LANDSAT.select(), LANDSAT, SENTINEL, [is_out])
    for row in rows:
        if row.band in MOST_SHARE:
            assert row.share <= MOST_SHARE_OF_UNSEEN_CLASS, row


def test_stated_errors_are_those_of_spectra_left_out():
    rows = measure(LANDSAT, SENTINEL)
    for source, row in zip(fit(LANDSAT, SENTINEL).sources, rows, strict=True):
        assert source.error == pytest.approx(row.error, rel=0.3)


def imagery(seed: int, images: int = 30) -> Imagery:
    """Images of spectra of the library, each with some haze of its own in B8A."""
    rng = np.random.default_rng(seed)
    bands = SENTINEL.select()
    seen = load_library().sense(bands, SENTINEL)
    owner = rng.integers(images, size=3000)
    pixels = seen[rng.integers(len(seen), size=3000)]
    hazy = [band.name == "B8A" for band in bands]
    pixels[:, hazy] += rng.permutation(np.linspace(-0.05, 0.05, images))[owner, None]
    return Imagery(bands, pixels, owner.astype(str))


def misses_b8a(resampling: Resampling, truth: Imagery):
    """The error that is stated, errors made, and the widths stated, of B8A."""
    row = [band.name for band in truth.bands].index("B8A")
    pixels = truth.sense(resampling.found).T[:, None].astype(np.float32)
    made, _, wide, _ = resampling.estimate(pixels, np.ones(pixels.shape, bool))
    errors = made[row, 0] - truth.pixels[:, row]
    return resampling.sources[row].error, errors, wide[row, 0]


def test_errors_learned_from_imagery_hold_on_other_images():
    names, other = ("B02", "B03", "B04", "B08", "B11", "B12"), imagery(1, images=200)
    resampling = fit(SENTINEL, SENTINEL, names, like=imagery(0))
    stated, errors, wide = misses_b8a(resampling, other)
    assert stated == pytest.approx(np.sqrt((errors**2).mean()), rel=0.3)
    assert 0.8 <= (np.abs(errors) <= wide).mean() <= 0.97
    # The library knows nothing of the haze.
    stated, errors, _ = misses_b8a(fit(SENTINEL, SENTINEL, names), other)
    assert stated < 0.5 * np.sqrt((errors**2).mean())


def test_imagery_tells_of_bands_that_both_have():
    like = imagery(0)
    seen = like.sense([*LANDSAT.select(["B5"]), Band("pan", 590, 172, 15)])
    names = [band.name for band in like.bands]
    np.testing.assert_array_equal(seen[:, 0], like.pixels[:, names.index("B8A")])
    assert np.isnan(seen[:, 1]).all()
    few = like.classes == "0"
    for pixels, classes in (
        (like.pixels[:100], like.classes[:100]),
        (np.repeat(like.pixels[few], 10, axis=0), np.repeat(like.classes[few], 10)),
    ):
        with pytest.raises(DataError, match="too few to learn from"):
            Imagery(like.bands, pixels, classes)


def test_the_same_band_is_taken_as_it_is():
    resampling = fit(LANDSAT, SENTINEL)
    names = [band.name for band in SENTINEL.select()]
    pixels = pixels_of(LANDSAT, np.arange(50))
    made, valid = resampling.apply(pixels, np.ones(pixels.shape, bool))
    assert valid.all()
    for ours, theirs in {"B02": 1, "B04": 3, "B8A": 4, "B12": 6}.items():
        assert statuses(resampling)[ours] == "measured"
        np.testing.assert_array_equal(made[names.index(ours)], pixels[theirs])


def test_order_of_the_found_bands_does_not_matter():
    forward, backward = LANDSAT.select(), LANDSAT.select()[::-1]
    pixels = pixels_of(LANDSAT, np.arange(0, 7000, 100))
    valid = np.ones(pixels.shape, bool)
    wanted, settings = SENTINEL.select(), {"sensor": LANDSAT}
    made = [
        fit_resampling(bands, wanted, **settings).apply(values, valid)[0]
        for bands, values in ((forward, pixels), (backward, pixels[::-1]))
    ]
    np.testing.assert_allclose(*made, atol=1e-6)


def test_fits_are_deterministic_and_kept():
    once = fit(LANDSAT, SENTINEL)
    assert fit(LANDSAT, SENTINEL) is once
    again = fit(LANDSAT, SENTINEL, library=replace(load_library()))
    assert again is not once
    pixels = pixels_of(LANDSAT, np.arange(0, 7000, 500))
    valid = np.ones(pixels.shape, bool)
    np.testing.assert_array_equal(
        again.apply(pixels, valid)[0], once.apply(pixels, valid)[0]
    )


def test_a_pixel_is_valid_where_all_that_it_is_made_of_is():
    resampling = fit(LANDSAT, SENTINEL)
    names = [band.name for band in SENTINEL.select()]
    pixels = pixels_of(LANDSAT, np.arange(2))
    valid = np.ones(pixels.shape, bool)
    valid[3, 0, 1] = False
    pixels[3, 0, 1] = np.nan
    made, known = resampling.apply(pixels, valid)
    assert np.isfinite(made).all()
    assert known[:, 0, 0].all()
    lost = [
        n for n, is_known in zip(names, known[:, 0, 1], strict=True) if not is_known
    ]
    assert lost == ["B04", "B05", "B06", "B07", "B08", "B09"]
    assert np.isnan(resampling.interval(pixels, valid)[~known]).all()


def test_intervals_widen_and_estimates_fall_back_far_from_the_library():
    resampling = fit(LANDSAT, SENTINEL)
    at = [band.name for band in SENTINEL.select()].index("B06")
    near = pixels_of(LANDSAT, np.arange(1))
    far = np.array([0.1, 0.6, 0.02, 0.7, 0.1, 0.8, 0.05], np.float32).reshape(-1, 1, 1)
    valid = np.ones(near.shape, bool)
    wide = [float(resampling.interval(p, valid)[at, 0, 0]) for p in (near, far)]
    assert wide[1] > 10 * wide[0]
    centres = [band.wavelength_nm for band in LANDSAT.select()]
    wanted = np.interp(SENTINEL.band("B06").wavelength_nm, centres, far.ravel())
    made = resampling.apply(far, valid)[0][at, 0, 0]
    assert made == pytest.approx(wanted, abs=1e-6)


def test_what_would_be_a_guess_is_absent():
    resampling = fit(LANDSAT, SENTINEL, ["B2", "B3", "B4"])
    found = statuses(resampling)
    assert {found[name] for name in ("B02", "B03", "B04")} == {"measured"}
    assert found["B05"] == "estimated"
    assert {found[n] for n in ("B08", "B8A", "B11", "B12")} == {"absent"}
    shown = str(resampling.sources[-1])
    assert shown.startswith("B12 (2190 nm): absent, an estimate would be off by 0.1")
    assert "over 25% of its spread" in shown
    bold = fit(LANDSAT, SENTINEL, ["B2", "B3", "B4"], most_error_share=2)
    assert "absent" not in statuses(bold).values()


def test_absent_bands_are_invalid_everywhere():
    resampling = fit(LANDSAT, SENTINEL, ["B2", "B3", "B4"])
    pixels = np.full((3, 2, 2), 0.1, np.float32)
    made, known = resampling.apply(pixels, np.ones(pixels.shape, bool))
    absent = resampling.positions("absent")
    assert not known[absent].any()
    assert (made[absent] == 0).all()
    assert known[resampling.positions("measured")].all()


def test_panchromatic_alone_is_refused_with_what_is_needed():
    found = load_sensor("landsat-8-9-l1")
    wanted = SENTINEL.select(["B02", "B05"])
    with pytest.raises(BandError, match=r"can be had from B8: .* at least 2 bands"):
        fit_resampling(found.select(["B8"]), wanted, sensor=found)


def test_bands_beyond_the_library_are_absent_unless_measured():
    level_1c = load_sensor("sentinel-2-l1c")
    found = statuses(fit(LANDSAT, level_1c))
    assert found["B10"] == "absent"
    own = fit(load_sensor("landsat-8-9-l1"), level_1c)
    source = next(s for s in own.sources if s.band.name == "B10")
    assert source.status == "measured"
    assert "error unknown" in str(source)


def test_hyperspectral_bands_estimate_what_lies_beyond_them():
    desis = load_sensor("desis-l2a")
    found = fit(desis, SENTINEL, most_error_share=0.5)
    assert statuses(found)["B04"] == "resampled"
    assert statuses(found)["B11"] == "estimated"
    pixels = pixels_of(desis, np.arange(20))
    valid = np.isfinite(pixels)
    assert np.flatnonzero(~valid.all(axis=(1, 2))).tolist() == [0]
    made, known = found.apply(pixels, valid)
    assert known.all()
    wanted = load_library().sense(SENTINEL.select(), SENTINEL)[:20].T
    np.testing.assert_allclose(made[:-2, 0], wanted[:-2], atol=0.003)


def test_pixels_of_other_bands_are_refused():
    pixels = np.zeros((6, 1, 1), np.float32)
    with pytest.raises(ShapeError, match="of 7 bands"):
        fit(LANDSAT, SENTINEL).apply(pixels, pixels > 0)


def test_no_bands_at_all_are_refused():
    with pytest.raises(BandError, match="needs bands"):
        fit_resampling((), SENTINEL.select())


def test_on_imagery_of_a_town_estimates_beat_interpolation(shared):
    folder = shared / "data" / "enmap_potsdam" / "images"
    if not folder.is_dir():
        pytest.skip("EnMAP imagery of Potsdam is not in ../shared")
    rasters = [read_raster(describe_raster(f, ENMAP)) for f in folder.glob("*.tif")]
    pixels = np.concatenate([each.pixels for each in rasters], axis=2)
    valid = np.concatenate([each.valid for each in rasters], axis=2)
    seen, known = fit(ENMAP, LANDSAT).apply(pixels, valid)
    target = fit(ENMAP, SENTINEL).apply(pixels, valid)[0]
    assert known.all()
    made = fit(LANDSAT, SENTINEL).apply(seen, known)[0]
    centres = [band.wavelength_nm for band in LANDSAT.select()]
    for at, band in enumerate(SENTINEL.select()):
        if band.name in MOST_SHARE:
            nm = band.wavelength_nm
            after = int(np.searchsorted(centres, nm))
            low, high = centres[after - 1 : after + 1]
            share = (nm - low) / (high - low)
            plain = seen[after - 1] * (1 - share) + seen[after] * share
            errors = [
                np.sqrt(((x - target[at]) ** 2).mean()) for x in (made[at], plain)
            ]
            assert errors[0] < 0.8 * errors[1], (band.name, errors)


def test_a_last_group_of_fewer_bands_is_absent_too() -> None:
    """Seven bands make groups of three, three and one, and the one cannot be had."""
    made = fit(SENTINEL, LANDSAT, ["B02", "B03", "B04"], bands_per_token=3)
    assert made.sources[-1].status == "absent"
    assert made.absent_groups(3)[-1] == 2
