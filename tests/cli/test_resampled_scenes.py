"""Scenes of another sensor than the model's, brought into its bands."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio import Affine

from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.cli.main import main
from spectralgpt.config import read_config
from spectralgpt.data.dense import DenseDataConfig
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.splits import Fractions
from spectralgpt.errors import BandError, ConfigError
from spectralgpt.files import read_json
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.preprocessing import BandStatistics
from spectralgpt.rasters import (
    Raster,
    RasterFile,
    Stated,
    Window,
    cut_to_common,
    describe_raster,
    gdal,
    read_raster,
    write_geotiff,
)
from spectralgpt.resampling import absent_groups, fit_resampling, load_library
from spectralgpt.scenes.inputs import describe_input
from spectralgpt.scenes.reconstruction import rebuild_window
from spectralgpt.sensors import load_sensor
from spectralgpt.training.finetuning import (
    FinetuneConfig,
    RegressionFinetuneConfig,
    finetune,
)
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from tests.tiny import tiny_contract, tiny_model

SIDE = 48
LANDSAT = load_sensor("landsat-8-9-l2")
SENTINEL = load_sensor("sentinel-2-l2a")
RESAMPLE = ImageFormat(bands="resample")
RGB = ("B2", "B3", "B4")
# Bands of Sentinel-2 that cannot be told from red, green and blue: two whole groups.
ABSENT = ("B8A", "B09", "B11", "B12")


def write_landsat(path: Path, names=None, seed: int = 0, shift_px: int = 0) -> Path:
    """A scene of spectra from the library; its first row holds no data."""
    bands = LANDSAT.select(names)
    rng = np.random.default_rng(seed)
    at = rng.integers(0, 7000, SIDE * SIDE)
    pixels = load_library().sense(bands, LANDSAT)[at].T.astype(np.float32)
    pixels = pixels.reshape(len(bands), SIDE, SIDE)
    valid = np.ones(pixels.shape, bool)
    valid[:, 0] = False
    place = Affine(30, 0, 500_000 + 30 * shift_px, 0, -30, 4_000_000)
    raster = Raster(pixels, valid, bands, "EPSG:32632", place, str(path))
    return write_geotiff(path, raster, LANDSAT.name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return save_model(folder, tiny_model(), tiny_contract())


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_landsat(tmp_path / "scene.tif")


def described(path: Path) -> RasterFile:
    return describe_input(path, RESAMPLE, tiny_contract())


def embed(model: Path, scene: Path, output: Path, *words: str) -> dict[str, np.ndarray]:
    command = ["embed", str(scene), "--model", str(model), "--output", str(output)]
    assert main([*command, "--format", "npz", "--device", "cpu", *words]) == 0
    with np.load(output / "embeddings.npz") as arrays:
        return dict(arrays)


def test_without_it_the_error_names_the_way_out(model, scene, tmp_path, capsys):
    command = ["embed", str(scene), "--model", str(model), "--output", str(tmp_path)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "missing band B05 (705 nm), B06" in said
    assert "--bands resample" in said


def test_a_resampled_scene_is_embedded_as_its_resampled_pixels_are(
    model, scene, tmp_path, caplog
):
    # Bands are resampled at the size that images are read at.
    windows = ("--fit", "windows")
    with caplog.at_level(logging.WARNING):
        words = ("--bands", "resample", *windows)
        found = embed(model, scene, tmp_path / "a", *words)
    contract = tiny_contract()
    said = found["resampling"][0]
    assert said.startswith("measured B01, B02, B03, B04, B8A, B11, B12; estimated B05")
    assert f"bands of landsat-8-9-l2 are resampled: {said}." in caplog.text
    item = described(scene)
    copy = tmp_path / "copy.tif"
    write_geotiff(copy, read_raster(item), contract.sensor)
    wanted = embed(model, copy, tmp_path / "b", *windows)
    assert "resampling" not in wanted
    np.testing.assert_array_equal(found["embedding"], wanted["embedding"])


def test_names_of_layers_may_come_before_the_word(model, scene, tmp_path):
    found = embed(model, scene, tmp_path / "a", "--bands", "resample")
    with rasterio.open(scene, "r+") as dataset:
        dataset.descriptions = [""] * dataset.count
    names = ",".join(band.name for band in LANDSAT.select())
    again = embed(model, scene, tmp_path / "b", "--bands", f"{names},resample")
    np.testing.assert_array_equal(found["embedding"], again["embedding"])


def test_windows_are_those_parts_of_the_whole(scene):
    item = described(scene)
    whole, part = read_raster(item), read_raster(item, window=Window(8, 16, 24, 32))
    at = np.s_[:, 8:32, 16:48]
    np.testing.assert_allclose(part.pixels, whole.pixels[at], atol=1e-6)
    np.testing.assert_array_equal(part.valid, whole.valid[at])
    assert not whole.valid[:, 0].any()
    assert whole.valid[:, 1:].all()
    assert whole.band_names == tiny_contract().band_names
    only = read_raster(item, tiny_contract().bands[4:6])
    np.testing.assert_array_equal(only.pixels, whole.pixels[4:6])


def test_bands_that_are_no_aim_are_refused(scene):
    with pytest.raises(BandError, match=r"not resampled to B5"):
        read_raster(described(scene), [LANDSAT.band("B5")])


def test_groups_without_a_band_are_not_shown_to_the_encoder(model, tmp_path, caplog):
    scene = write_landsat(tmp_path / "rgb.tif", RGB)
    with caplog.at_level(logging.WARNING):
        found = embed(model, scene, tmp_path / "a", "--bands", "resample")
    assert f"absent {', '.join(('B07', 'B08', *ABSENT))}" in caplog.text
    assert "B06 +-0.0548 (poor)" in caplog.text
    assert absent_groups([described(scene)]) == (2, 3)
    loaded = load_model(model)
    encoder = loaded.encoder
    encoder.absent_groups = (2, 3)
    images = tiny_contract().prepare(read_raster(described(scene), out_size=32))[0]
    with torch.inference_mode():
        wanted = encoder.pooled(torch.from_numpy(images)[None])
    np.testing.assert_allclose(found["embedding"], wanted.numpy(), atol=1e-5)


def test_scenes_that_have_all_bands_are_shown_whole_again(model, scene, tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    write_landsat(folder / "a.tif", RGB)
    write_landsat(folder / "b.tif")
    alone = embed(model, folder / "b.tif", tmp_path / "a", "--bands", "resample")
    both = embed(model, folder, tmp_path / "b", "--bands", "resample")
    np.testing.assert_array_equal(both["embedding"][1], alone["embedding"][0])


def test_layers_of_mean_reflectance_leave_absent_bands_out(model, tmp_path):
    scene = write_landsat(tmp_path / "rgb.tif", RGB)
    output = tmp_path / "out"
    command = ["embed", str(scene), "--model", str(model), "--output", str(output)]
    assert main([*command, "--format", "geotiff", "--bands", "resample"]) == 0
    with rasterio.open(output / "rgb.tif") as dataset:
        names = ("B01", "B02", "B03", "B04", "B05", "B06")
        deviations = tuple(f"{name}_deviation" for name in names)
        assert dataset.descriptions[48:] == (*names, *deviations)
        assert "absent B07" in dataset.tags()["SPECTRALGPT_EMBEDDING"]
        cells = dataset.read(list(range(49, 55)))
    known = read_raster(described(scene))
    wanted = known.pixels[:6, 8:16, :8].mean(axis=(1, 2))
    np.testing.assert_allclose(cells[:, 1, 0], wanted, rtol=2e-3)


def test_two_dates_of_a_resampled_place_are_cut_to_their_common_ground(tmp_path):
    items = [
        described(write_landsat(tmp_path / f"{n}.tif", seed=n, shift_px=8 * n))
        for n in (0, 1)
    ]
    cut = cut_to_common(*items)
    assert [part.bands for part in cut] == [tiny_contract().bands] * 2
    first, second = (read_raster(part) for part in cut)
    assert first.pixels.shape == second.pixels.shape == (12, SIDE, SIDE - 8)
    whole = read_raster(items[0])
    np.testing.assert_allclose(first.pixels, whole.pixels[:, :, 8:], atol=1e-6)


@pytest.mark.parametrize("scaling", ["fixed-range", "image-minmax"])
def test_rebuilding_hides_groups_that_are_lacking_and_rebuilds_them(
    tmp_path, scaling, monkeypatch
):
    contract = tiny_contract()
    if scaling == "fixed-range":
        low, high = (dict.fromkeys(contract.band_names, v) for v in (0.0, 0.5))
        statistics = BandStatistics(high, high, low, high)
        contract = replace(contract, scaling=scaling, statistics=statistics)
    model = save_model(tmp_path / "model", tiny_model(), contract)
    scene, out = write_landsat(tmp_path / "rgb.tif", RGB), tmp_path / "out"
    seen = []
    encode = SpectralEncoder.encode_visible

    def watched(self, tokens, visible, *args):
        seen.append(visible)
        return encode(self, tokens, visible, *args)

    monkeypatch.setattr(SpectralEncoder, "encode_visible", watched)
    command = ["reconstruct", str(scene), "--model", str(model), "--bands", "resample"]
    assert main([*command, "--output", str(out), "--map"]) == 0
    # Two of four groups of 4 x 4 tokens are lacking.
    assert all(int(visible.max()) < 32 for visible in seen)
    said = (out / "report.html").read_text()
    assert "The input holds nothing in B07, B08, B8A, B09, B11, B12." in said
    assert ("with nothing to hold it against" in said) == (scaling == "fixed-range")
    assert "measured B02, B03, B04; estimated B01" in said
    scores = json.loads((out / "scores.json").read_text())
    assert scores["resampling"].startswith("measured B02")
    hidden = {band["band"]: band["hidden_pixels"] for band in scores["bands"]}
    assert hidden["B02"] > 0
    assert hidden["B12"] == 0
    item = describe_input(scene, RESAMPLE, contract)
    found = rebuild_window(tiny_model(), contract, item, Window(8, 8, 32, 32))
    assert np.isfinite(found.rebuilt[6:]).all() == (scaling == "fixed-range")
    assert found.shown[6:].all() == (scaling == "fixed-range")
    assert found.shown[:6].all()
    with rasterio.open(out / "reconstruction_error.tif") as dataset:
        assert 0 < np.nanmean(dataset.read(1)) < 1


def test_reading_without_a_model_refuses_it(scene, tmp_path, capsys):
    assert main(["info", str(scene), "--bands", "resample"]) == 1
    assert "none takes the images here" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="of a model"):
        RESAMPLE.describe(scene)


def test_archives_that_state_their_bands_refuse_it(tmp_path):
    config = LabelledDataConfig(
        root=str(tmp_path), layout="eurosat", bands=("resample",)
    )
    with pytest.raises(ConfigError, match="states its own bands"):
        read_labelled(config, assumed=tiny_contract().assumed)


def test_a_word_in_a_file_states_it(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("root: images\nbands: resample\n")
    assert read_config(path, LabelledDataConfig).resamples
    stated = Stated(bands=("B2", "B3", "resample"))
    assert stated.layers == ("B2", "B3")
    assert stated.resamples
    assert not Stated(bands=("B2",)).resamples


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes in folders, dark and bright, of red, green and blue."""
    root = tmp_path_factory.mktemp("classes")
    for number in range(12):
        name = ("dark", "bright")[number % 2]
        (root / name).mkdir(exist_ok=True)
        write_landsat(root / name / f"{number}.tif", RGB, seed=number)
    return root


def test_fine_tuning_and_scoring_take_resampled_images(
    model, classes, tmp_path, capsys
):
    data = LabelledDataConfig(
        root=str(classes), bands="resample", fractions=Fractions(0.5, 0.25, 0.25)
    )
    config = FinetuneConfig(
        model=str(model),
        data=data,
        optimizer=OptimizerConfig(base_lr=0.05, warmup_epochs=0.5, beta2=0.999),
        trainer=TrainerConfig(epochs=1, batch_size=3, accelerator="cpu", workers=0),
    )
    seen = []
    encode = SpectralEncoder.encode

    def watched(self, *args, **kwargs):
        seen.append(self.absent_groups)
        return encode(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpectralEncoder, "encode", watched)
        run = finetune(config, tmp_path / "run")
        assert set(seen) == {(2, 3)}
        command = ["evaluate", "--model", str(run), "--data.root", str(classes)]
        command += ["--output", str(tmp_path / "scores"), "--data.bands"]
        seen.clear()
        assert main([*command, "resample", "--split", "test"]) == 0
        assert set(seen) == {(2, 3)}
    loaded = load_model(run)
    assert loaded.preprocessing.stated.bands == ("resample",)
    assert loaded.preprocessing.bands == tiny_contract().bands
    # Nobody said it of these images, though the model learned from such.
    scaled = replace(config, scaling="z-score", statistics="training")
    with pytest.raises(ConfigError, match=r"lack B07.*cannot be measured"):
        finetune(scaled, tmp_path / "scaled")
    plain = replace(data, bands=None)
    with pytest.raises(BandError, match="--bands resample"):
        finetune(replace(config, data=plain), tmp_path / "other")


def test_maps_are_learned_from_resampled_images(model, scene, tmp_path, caplog):
    for number in range(6):
        image = write_landsat(tmp_path / f"images/{number}.tif", RGB, seed=number)
        raster = read_raster(describe_raster(image))
        path = tmp_path / f"masks/{number}.tif"
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(image) as file:
            place = {name: file.profile[name] for name in ("crs", "transform")}
        shape = {"count": 1, "height": SIDE, "width": SIDE, "dtype": "float32"}
        with rasterio.open(path, "w", driver="GTiff", **place, **shape) as file:
            file.write(raster.pixels[:1] * 100)
    data = DenseDataConfig(
        root=str(tmp_path),
        task="regression",
        bands="resample",
        target={"name": "blue", "unit": "percent"},
        fractions=Fractions(0.5, 0.25, 0.25),
    )
    config = RegressionFinetuneConfig(
        model=str(model),
        data=data,
        optimizer=OptimizerConfig(base_lr=0.05, warmup_epochs=0.5, beta2=0.999),
        trainer=TrainerConfig(epochs=1, batch_size=3, accelerator="cpu", workers=0),
    )
    run = finetune(config, tmp_path / "run")
    floors = read_json(run / "metrics.json")["floors"]
    # The forest sees the bands that are there, and blue is one of them.
    assert floors["random forest on pixels"]["scores"]["r2"] > 0.9
    caplog.clear()
    assert map_of(run, tmp_path / "images/0.tif", tmp_path / "a") == 0
    assert "lacked" not in caplog.text
    assert map_of(run, scene, tmp_path / "b") == 0
    assert "has B07, B08, B8A, B09, B11, B12, which the images" in caplog.text
    plain = ["predict", str(scene), "--model", str(run), "--output", str(tmp_path)]
    assert main([*plain, "--overwrite"]) == 1


def map_of(run: Path, scene: Path, output: Path) -> int:
    command = ["predict", str(scene), "--model", str(run), "--output", str(output)]
    return main([*command, "--bands", "resample"])


def test_another_satellite_with_all_bands_is_measured_throughout(tmp_path):
    item = describe_raster(write_landsat(tmp_path / "a.tif"))
    own = fit_resampling(item.bands, item.bands, sensor=LANDSAT, wanted_sensor=LANDSAT)
    assert {source.status for source in own.sources} == {"measured"}
    assert max(source.error for source in own.sources) == 0


def resample(scene: Path, to: str, output: Path, *words: str) -> int:
    return main(["resample", str(scene), "--to", to, "--output", str(output), *words])


def test_resampled_files_are_read_back_without_being_told_anything(
    scene, tmp_path, capsys
):
    output = tmp_path / "s2.tif"
    assert resample(scene, "sentinel-2-l2a", output) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[0] == "B01 (443 nm): measured from B1, +-0.0003"
    assert lines[5].startswith("B06 (740 nm): estimated from 7 bands, B1, B2, B3 ...,")
    assert lines[-1] == str(output)
    item = describe_raster(output)
    assert item.sensor.name == "sentinel-2-l2a"
    assert [band.name for band in item.bands] == list(tiny_contract().band_names)
    written, wanted = read_raster(item), read_raster(described(scene))
    np.testing.assert_array_equal(written.valid, wanted.valid)
    np.testing.assert_allclose(written.pixels, wanted.pixels, atol=1e-6)
    assert written.transform == wanted.transform
    with rasterio.open(output) as dataset:
        tags = dataset.tags(6)
        assert (tags["STATUS"], tags["wavelength"]) == ("estimated", "740")
        assert 0.005 < float(tags["EXPECTED_ERROR"]) < 0.02
        assert dataset.tags()["RESAMPLING"].startswith("measured B01")


def test_what_was_resampled_before_is_said_by_all_that_is_made_of_it(
    model, scene, tmp_path, caplog, monkeypatch
):
    # Other tests in this process may have met such a file.
    monkeypatch.setattr(gdal._Quiet, "reported", set())
    made, again = tmp_path / "s2.tif", tmp_path / "landsat.tif"
    assert resample(scene, "sentinel-2-l2a", made) == 0
    caplog.clear()
    assert resample(made, "landsat-8-9-l2", again) == 0
    assert "s2.tif was made of another sensor's bands" in caplog.text
    assert "estimated B05" in caplog.text
    with rasterio.open(again) as dataset:
        said = dataset.tags()["RESAMPLING"]
    assert said.startswith("measured B01, B02, B03")
    assert "estimated B05" in said
    assert "and of these measured B1, B2" in said
    found = embed(model, made, tmp_path / "out")
    assert "estimated B05" in found["resampling"][0]


def test_absent_bands_are_not_written(tmp_path, capsys):
    scene = write_landsat(tmp_path / "rgb.tif", RGB)
    output = tmp_path / "s2.tif"
    assert resample(scene, "sentinel-2-l2a", output) == 0
    said = capsys.readouterr().out
    assert "B12 (2190 nm): absent, an estimate would be off by" in said
    found = [band.name for band in describe_raster(output).bands]
    assert found == ["B01", "B02", "B03", "B04", "B05"]


def test_estimates_are_learned_from_images_that_are_named(scene, tmp_path, capsys):
    bands = SENTINEL.select()
    like = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        at = rng.integers(0, 7000, SIDE * SIDE)
        pixels = load_library().sense(bands, SENTINEL)[at].T.astype(np.float32)
        pixels = pixels.reshape(len(bands), SIDE, SIDE)
        # Where the infrared is brighter than in any spectrum of the library.
        pixels[bands.index(SENTINEL.band("B06"))] += 0.2
        place = Affine(20, 0, 500_000, 0, -20, 4_000_000)
        valid = np.ones(pixels.shape, bool)
        raster = Raster(pixels, valid, bands, "EPSG:32632", place, "like")
        like.append(write_geotiff(tmp_path / f"{seed}.tif", raster, SENTINEL.name))
    made = {}
    for name, words in ("library", ()), ("imagery", ("--like", *map(str, like))):
        output = tmp_path / f"{name}.tif"
        assert resample(scene, SENTINEL.name, output, *words) == 0
        made[name] = read_raster(describe_raster(output), [SENTINEL.band("B06")])
    assert "B06 (740 nm): estimated from 7 bands" in capsys.readouterr().out
    valid = made["imagery"].valid
    lift = (made["imagery"].pixels - made["library"].pixels)[valid]
    assert np.median(lift) == pytest.approx(0.2, abs=0.03)
    words = ("--like", str(scene), "--overwrite")
    assert resample(scene, SENTINEL.name, output, *words) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "scene.tif cannot be learned from: missing band" in said


def test_a_model_names_the_bands_too(model, scene, tmp_path):
    output = tmp_path / "s2.tif"
    assert resample(scene, str(model), output) == 0
    assert describe_raster(output).sensor.name == "sentinel-2-l1c"
    found = embed(model, output, tmp_path / "out")
    assert len(found["embedding"]) == 1


def test_strips_do_not_show(scene, tmp_path, monkeypatch):
    whole, strips = tmp_path / "a.tif", tmp_path / "b.tif"
    assert resample(scene, "sentinel-2-l2a", whole) == 0
    monkeypatch.setattr("spectralgpt.resampling._MOST_VALUES", 19 * SIDE * 5)
    assert resample(scene, "sentinel-2-l2a", strips) == 0
    one, other = (read_raster(describe_raster(path)) for path in (whole, strips))
    np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-6)


def test_info_says_band_by_band_how_a_model_would_have_them(model, scene, capsys):
    assert main(["info", str(scene), "--for", str(model)]) == 0
    said = capsys.readouterr().out
    assert "B05 (705 nm): estimated from 7 bands" in said
    assert main(["info", "sentinel-2-l2a", "--for", str(model)]) == 1
    assert "--for is of images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "output", "message"),
    [
        ("sentinel-3", "a.tif", "sentinel-3"),
        ("nothing.yaml", "a.tif", "nothing.yaml"),
        ("sentinel-2-l2a", "a.png", "must be a GeoTIFF"),
        ("sentinel-2-l2a", "scene.tif", "is there already"),
    ],
)
def test_wrong_names_and_files_are_one_line(scene, capsys, to, output, message):
    assert resample(scene, to, scene.parent / output) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_missing_scene_is_one_line(tmp_path, capsys):
    assert resample(tmp_path / "no.tif", "sentinel-2-l2a", tmp_path / "a.tif") == 1
    assert "no.tif" in capsys.readouterr().err


def test_panchromatic_alone_says_what_is_needed(tmp_path, capsys):
    bands = load_sensor("landsat-8-9-l1").select(["B8"])
    pixels = np.full((1, SIDE, SIDE), 0.2, np.float32)
    place = Affine(15, 0, 500_000, 0, -15, 4_000_000)
    valid = np.ones(pixels.shape, bool)
    raster = Raster(pixels, valid, bands, "EPSG:32632", place, "pan")
    scene = write_geotiff(tmp_path / "pan.tif", raster, "landsat-8-9-l1")
    assert resample(scene, "sentinel-2-l2a", tmp_path / "a.tif") == 1
    said = capsys.readouterr().err
    assert "can be had from B8: estimating it needs at least 2 bands" in said
    assert not (tmp_path / "a.tif").exists()
