from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
from affine import Affine

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.cli.main import main
from spectralgpt.errors import BandError, CheckpointError, DataError
from spectralgpt.rasters import (
    Raster,
    RasterFile,
    Stated,
    describe_raster,
    read_raster,
    write_geotiff,
)
from spectralgpt.resampling import load_library
from spectralgpt.scenes import synthesis as synthesis_module
from spectralgpt.scenes.synthesis import (
    Synthesis,
    find_wanted,
    looks_measured,
    plan_synthesis,
    write_synthesis,
)
from spectralgpt.sensors import load_sensor
from tests.tiny import tiny_contract, tiny_model

SENSOR = load_sensor("sentinel-2-l2a")
PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)
BANDS = SENSOR.select(exclude=("B01", "B09"))


def ground(side: int = 96, seed: int = 0) -> np.ndarray:
    """Mixtures of spectra of the library, seen by ten bands, (10, side, side)."""
    rng = np.random.default_rng(seed)
    seen = load_library().sense(BANDS, SENSOR)
    chosen = seen[rng.choice(len(seen), (side * side, 2))]
    share = rng.uniform(size=(side * side, 1, 1))
    mixed = chosen[:, :1] * share + chosen[:, 1:] * (1 - share)
    return mixed[:, 0].T.reshape(-1, side, side).astype(np.float32)


def scene(path: Path, pixels: np.ndarray, left_out: str = "") -> RasterFile:
    kept = [at for at, band in enumerate(BANDS) if band.name != left_out]
    valid = np.ones((len(kept), *pixels.shape[1:]), np.bool_)
    bands = tuple(BANDS[at] for at in kept)
    raster = Raster(pixels[kept], valid, bands, "EPSG:32633", PLACE, path.name)
    write_geotiff(path, raster, SENSOR.name)
    return describe_raster(path, stated=Stated())


@pytest.fixture(scope="module")
def like(tmp_path_factory: pytest.TempPathFactory) -> list[RasterFile]:
    folder = tmp_path_factory.mktemp("like")
    return [scene(folder / f"{n}.tif", ground(seed=n)) for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> RasterFile:
    path = tmp_path_factory.mktemp("lacking") / "lacking.tif"
    return scene(path, ground(seed=9), "B8A")


@pytest.fixture(scope="module")
def planned(like: list[RasterFile], lacking: RasterFile) -> Synthesis:
    with few_pixels():
        return plan_synthesis(lacking, find_wanted(["B8A"], lacking), like)


def few_pixels() -> AbstractContextManager[object]:
    """Learn from few pixels, which is quick."""
    return mock.patch.multiple(synthesis_module, _WINDOWS=3, _PIXELS=150)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with few_pixels():
        yield


def test_bands_are_named_or_given_by_wavelength(lacking: RasterFile) -> None:
    found = find_wanted(["b8a", "1240nm", "1000nm:30"], lacking)
    assert [(b.name, b.wavelength_nm, b.width_nm) for b in found[1:]] == [
        ("1240nm", 1240, 10),
        ("1000nm", 1000, 30),
    ]
    assert found[0] == SENSOR.band("B8A")
    with pytest.raises(BandError, match="has no band 'B8B'"):
        find_wanted(["B8B"], lacking)
    with pytest.raises(BandError, match="name each band once"):
        find_wanted(["1240nm", "1240.0nm"], lacking)


def test_library_alone_makes_a_band_with_its_error(
    tmp_path: Path, lacking: RasterFile
) -> None:
    wanted = find_wanted(["B8A"], lacking)
    synthesis = plan_synthesis(lacking, wanted)
    assert synthesis.ways == ("library",)
    assert "not tried on imagery" in synthesis.lines[0]
    path, beside = write_synthesis(synthesis, lacking, tmp_path / "made.tif")
    item = describe_raster(path)
    made = read_raster(item)
    assert made.bands == wanted
    truth = ground(seed=9)[BANDS.index(wanted[0])]
    assert np.sqrt(((made.pixels[0] - truth) ** 2)[made.valid[0]].mean()) < 0.01
    with rasterio.open(beside) as file:
        error, left_out = file.read()
        assert file.descriptions[0] == "B8A error"
    inside = np.abs(made.pixels[0] - truth) <= error
    assert inside[made.valid[0]].mean() > 0.8
    assert set(np.unique(left_out)) <= {0, 1}
    assert (left_out == 1).sum() == (~made.valid[0]).sum()


def test_bands_by_wavelength_say_where_they_lie(
    tmp_path: Path, lacking: RasterFile
) -> None:
    synthesis = plan_synthesis(lacking, find_wanted(["B8A", "1240nm:30"], lacking))
    path, _ = write_synthesis(synthesis, lacking, tmp_path / "made.tif")
    with rasterio.open(path) as file:
        assert file.descriptions == ("B8A", "1240nm")
        assert file.tags(2)["wavelength"] == "1240"
        assert file.tags(2)["fwhm"] == "30"
        assert "SPECTRALGPT_SENSOR" not in file.tags()


def test_imagery_beats_rules_of_thumb_where_ground_is_no_line(
    planned: Synthesis,
) -> None:
    (errors,), (way,) = planned.errors, planned.ways
    assert errors[way] == min(errors.values())
    assert errors[way] < errors["interpolation"]
    assert errors[way] < errors["linear regression"]


def test_same_seed_gives_the_same(like: list[RasterFile], lacking: RasterFile) -> None:
    wanted = find_wanted(["B05"], lacking)
    one, two = (plan_synthesis(lacking, wanted, like[:1]) for _ in range(2))
    assert one.errors == two.errors
    # A band that the image has is not made of itself.
    assert wanted[0] not in one.found


@pytest.mark.parametrize("planet", ["constant", "checkerboard", "saturated snow"])
def test_nothing_is_written_of_another_planet(
    tmp_path: Path, planned: Synthesis, planet: str
) -> None:
    rng = np.random.default_rng(0)
    shape = (len(BANDS), 64, 64)
    pixels = np.full(shape, 0.3, np.float32)
    if planet == "checkerboard":
        pixels[:, (np.indices(shape[1:]).sum(axis=0) % 2).astype(bool)] = 0.9
    if planet == "saturated snow":
        snow = 1.1 + 0.3 * rng.uniform(size=shape)
        pixels = np.minimum(snow, 1.2).astype(np.float32)
    item = scene(tmp_path / "planet.tif", pixels, "B8A")
    by_library = plan_synthesis(item, planned.wanted)
    for synthesis in (by_library, planned):
        raster = read_raster(item, synthesis.found)
        assert not synthesis.make(raster)[2].any()


def test_what_a_sensor_measures_is_told_from_numbers_repeated() -> None:
    def raster(pixels: np.ndarray) -> Raster:
        return Raster(pixels, np.ones(pixels.shape, np.bool_), BANDS)

    assert looks_measured(raster(ground(40))).all()
    half = ground(64)
    half[:, :, 32:] = 0.2
    found = looks_measured(raster(half))
    assert found[:, :32].all()
    assert not found[:, 32:].any()


def test_autoencoder_is_tried_where_imagery_tells(
    tmp_path: Path, like: list[RasterFile], lacking: RasterFile
) -> None:
    contract = replace(tiny_contract(), sensor="sentinel-2-l2a")
    loaded = LoadedModel(tiny_model(), contract)
    wanted = find_wanted(["B8A"], lacking)
    with pytest.raises(DataError, match="name some by --like"):
        plan_synthesis(lacking, wanted, loaded=loaded)
    synthesis = plan_synthesis(lacking, wanted, like, loaded)
    # Of random weights.
    assert synthesis.errors[0]["encoder-decoder"] > synthesis.errors[0]["imagery"]
    forced = replace(synthesis, ways=("encoder-decoder",))
    path, _ = write_synthesis(forced, lacking, tmp_path / "rebuilt.tif")
    with rasterio.open(path) as file:
        assert np.isfinite(file.read(1)).mean() > 0.5


def test_model_that_cannot_rebuild_is_refused(
    like: list[RasterFile], lacking: RasterFile
) -> None:
    loaded = LoadedModel(tiny_model().encoder, tiny_contract())
    with pytest.raises(CheckpointError, match="name a pretraining run"):
        plan_synthesis(lacking, find_wanted(["B8A"], lacking), like, loaded)


def test_imagery_without_the_band_is_refused(lacking: RasterFile) -> None:
    wanted = find_wanted(["B8A"], lacking)
    with pytest.raises(BandError, match=r"lacking\.tif cannot be learned from.*B8A"):
        plan_synthesis(lacking, wanted, [lacking])


def test_band_beyond_the_library_needs_imagery(lacking: RasterFile) -> None:
    wanted = find_wanted(["300nm"], lacking)
    with pytest.raises(BandError, match="300nm"):
        plan_synthesis(lacking, wanted)


def test_command_tells_how_and_refuses_slips(
    tmp_path: Path, lacking: RasterFile, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["synthesize", lacking.name, "--bands", "B8A"]
    output = ["--output", str(tmp_path / "out.tif")]
    assert main([*base, *output]) == 0
    assert "B8A (865 nm, 20 wide): by library; +-" in capsys.readouterr().out
    stated = ["--input_bands", ",".join(b.name for b in lacking.bands)]
    assert main([*base, *output, *stated, "--overwrite"]) == 0
    assert main([*base, *output]) != 0
    assert "pass --overwrite" in capsys.readouterr().err
    (tmp_path / "out.tif").unlink()
    assert main([*base, *output]) != 0
    assert "out_error.tif is there already" in capsys.readouterr().err
    assert main([*base, "--output", str(tmp_path / "out.png")]) != 0
    assert "ending in .tif" in capsys.readouterr().err
    assert main([*base, *output, "--overwrite", "--like", "gone.tif"]) != 0
    assert "gone.tif" in capsys.readouterr().err
    assert len(capsys.readouterr().err.splitlines()) <= 1
