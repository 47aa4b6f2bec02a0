"""Scenes that are done here, named after their files and listed in a table."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from spectralgpt.checkpoints import save_model
from spectralgpt.data.dense import (
    DenseDataConfig,
    DenseDataset,
    read_dense,
)
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import (
    ConfigError,
    DataError,
    RasterError,
)
from spectralgpt.jobs.kinds import EmbedJob, _ReadyMaps
from spectralgpt.jobs.listed import run_listed
from spectralgpt.rasters import NO_CLASS
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.grid import compose
from spectralgpt.scenes.inputs import Outcome, name_maps
from spectralgpt.scenes.maps import SceneMap
from tests.dense_files import BANDS, blobs, write_sensor
from tests.map_scenes import (
    NAMES,
    UTM,
    rule_contract,
    rule_mapper,
    write_scene,
)
from tests.tiny import tiny_contract, tiny_model
from tests.toy import chip_pixels, write_chip


def run(folder: Path, *inputs: Path | tuple[Path, ...], **options: object) -> Outcome:
    mapper = replace(
        rule_mapper(folder),
        probabilities=bool(options.pop("probabilities", False)),
        overwrite=bool(options.get("overwrite", False)),
        digest=str(options.pop("digest", "")),
    )
    stated = ImageFormat(sensor=write_sensor(folder), bands=BANDS)
    ready = _ReadyMaps(mapper, stated)
    scenes = [one if isinstance(one, tuple) else (one,) for one in inputs]
    return run_listed(ready, scenes, folder / "maps", **options)  # type: ignore[arg-type]


def rows_of(made: Outcome) -> list[dict[str, str]]:
    with made.path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (UTM, "EPSG:32632"),
        (Affine(0.0001, 0.0, 9.0, 0.0, -0.0001, 47.0), "EPSG:4326"),
        (compose(UTM, Affine.rotation(30)), "EPSG:32632"),
        (None, None),
    ],
)
def test_a_map_lies_on_the_pixels_of_its_image(
    transform: Affine | None, crs: str | None, tmp_path: Path
) -> None:
    classes = blobs(45, 70, seed=1, classes=3)
    scene = write_scene(tmp_path / "scene.tif", classes, crs, transform)
    run(tmp_path, scene, probabilities=True)
    with rasterio.open(scene) as image:
        wanted = (image.crs, image.shape, list(image.transform)[:6])
    for name in ("scene.tif", "scene_probabilities.tif"):
        with rasterio.open(tmp_path / "maps" / name) as made:
            assert (made.crs, made.shape) == wanted[:2]
            found = list(made.transform)[:6]
            np.testing.assert_allclose(found, wanted[2], rtol=1e-12, atol=1e-9)
    with rasterio.open(tmp_path / "maps/scene.tif") as made:
        np.testing.assert_array_equal(made.read(1), classes)


def test_names_colours_nodata_and_probabilities_are_kept(tmp_path: Path) -> None:
    classes = blobs(40, 50, seed=1, classes=3)
    hole = np.s_[:8, :8]
    scene = write_scene(tmp_path / "scene.tif", classes, hole=hole)
    made = run(tmp_path, scene, probabilities=True)
    with rasterio.open(tmp_path / "maps/scene.tif") as dataset:
        assert (dataset.read(1)[hole] == NO_CLASS).all()
        assert [dataset.tags()[f"CLASS_{i}"] for i in range(3)] == list(NAMES)
        assert dataset.colormap(1)[1][:3] == (0x1B, 0x78, 0x37)
    with rasterio.open(tmp_path / "maps/scene_probabilities.tif") as dataset:
        shares = dataset.read()
        assert dataset.descriptions == NAMES
    assert np.isnan(shares[:, :8, :8]).all()
    for index in range(3):
        known = np.isfinite(shares[0]) & (classes == index)
        np.testing.assert_allclose(shares[index][known], 0.9, atol=1e-6)
    for index, row in enumerate(rows_of(made)):
        pixels = int((classes == index).sum() - (classes[hole] == index).sum())
        assert row["class"] == NAMES[index]
        assert int(row["pixels"]) == pixels
        assert float(row["share"]) == pytest.approx(pixels / (40 * 50 - 64), abs=1e-6)


def test_a_map_can_be_read_as_a_mask_with_its_names(tmp_path: Path) -> None:
    classes = blobs(32, 32, seed=1, classes=3)
    scene = write_scene(tmp_path / "images/scene.tif", classes)
    run(tmp_path, scene)
    (tmp_path / "maps").rename(tmp_path / "masks")
    for other in ("maps.csv", "scene.png"):
        (tmp_path / "masks" / other).unlink()
    config = DenseDataConfig(str(tmp_path), sensor=write_sensor(tmp_path), bands=BANDS)
    dense = read_dense(config, divided=False)
    assert dense.class_names == NAMES
    dataset = DenseDataset(dense, rule_contract(tmp_path))
    np.testing.assert_array_equal(dataset[0]["target"], classes)


def test_two_dates_are_mapped_and_named_after_the_first(tmp_path: Path) -> None:
    before = write_scene(tmp_path / "b/scene.tif", blobs(40, 40, 0, 3))
    after = write_scene(tmp_path / "a/other.tif", blobs(40, 40, 1, 3))
    run(tmp_path, (before, after))
    with rasterio.open(tmp_path / "maps/scene.tif") as made:
        np.testing.assert_array_equal(made.read(1), blobs(40, 40, 1, 3))


def test_dates_that_lie_whole_pixels_apart_are_mapped_where_both_show_ground(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ground = blobs(60, 60, 1, 3)
    before = write_scene(tmp_path / "b/scene.tif", ground[:50, :50])
    moved = compose(UTM, Affine.translation(7, 4))
    after = write_scene(tmp_path / "a/scene.tif", ground[4:, 7:], transform=moved)
    run(tmp_path, (before, after))
    with rasterio.open(tmp_path / "maps/scene.tif") as made:
        np.testing.assert_array_equal(made.read(1), ground[4:50, 7:50])
        assert made.transform.almost_equals(moved)
    assert "show 46 x 43 px of the same ground" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"classes": blobs(40, 41, 0), "crs": "EPSG:32633"},
            "differ in size: 40 x 40 px against 40 x 41",
        ),
        ({"crs": "EPSG:32633"}, "reference system: EPSG:32632 against EPSG:32633"),
        ({"transform": compose(UTM, Affine.translation(3.4, 0))}, "3.4 px apart"),
    ],
)
def test_dates_that_do_not_lie_on_each_other_are_refused(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    before = write_scene(tmp_path / "b.tif", blobs(40, 40, 0))
    stated = {"classes": blobs(40, 40, 0)} | options
    after = write_scene(tmp_path / "a.tif", **stated)  # type: ignore[arg-type]
    with pytest.raises(RasterError, match=message) as caught:
        run(tmp_path, (before, after), strict=True)
    assert "b.tif and" in str(caught.value)
    assert "a.tif" in str(caught.value)
    assert list((tmp_path / "maps").glob("*")) == []


def test_a_bad_image_leaves_nothing_and_the_others_are_mapped(tmp_path: Path) -> None:
    good = write_scene(tmp_path / "good.tif", blobs(90, 90, 0))
    bad = write_scene(tmp_path / "bad.tif", blobs(90, 90, 1))
    bad.write_bytes(bad.read_bytes()[:90_000])
    empty = write_scene(tmp_path / "empty.tif", blobs(40, 40, 1), hole=np.s_[:, :])
    shares: list[float] = []
    made = run(tmp_path, bad, good, empty, progress=shares.append)
    assert sum(shares) == pytest.approx(3)
    assert made.rows == 1
    reasons = [reason for _, reason in made.failures]
    assert "bad.tif cannot be read" in reasons[0]
    assert "empty.tif has no valid pixel" in reasons[1]
    assert {row["map"] for row in rows_of(made)} == {"good.tif"}
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    made = [f"good{suffix}" for suffix in (".png", ".qml", ".tif", ".tif.aux.xml")]
    assert names == [*made, "maps.csv"]
    with pytest.raises(DataError, match=r"empty\.tif has no valid pixel"):
        run(tmp_path, empty, overwrite=True)


@pytest.mark.parametrize("suffix", [".qml", ".tif.aux.xml", ".png"])
def test_what_others_put_beside_a_map_is_kept(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = write_scene(tmp_path / "scene.tif", blobs(40, 40, 0))
    beside = tmp_path / "maps" / f"scene{suffix}"
    run(tmp_path, scene)
    made = beside.read_bytes()
    beside.write_bytes(made[:-1])  # As of another version of ours.
    run(tmp_path, scene, overwrite=True)
    assert beside.read_bytes() == made
    assert "is kept" not in caplog.text
    beside.write_text("<qgis>a style of one's own</qgis>")
    run(tmp_path, scene, overwrite=True)
    assert beside.read_text() == "<qgis>a style of one's own</qgis>"
    assert f"scene{suffix} is kept: spectralgpt did not make it" in caplog.text


def test_maps_and_images_are_not_replaced(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", blobs(40, 40, 0))
    run(tmp_path, scene)
    with pytest.raises(ConfigError, match=r"scene.tif is there already"):
        run(tmp_path, scene)
    run(tmp_path, scene, overwrite=True)
    image = write_scene(tmp_path / "maps/image.tif", blobs(40, 40, 0))
    with pytest.raises(ConfigError, match="holds the images themselves"):
        run(tmp_path, image, overwrite=True)


def test_a_run_that_was_stopped_does_no_image_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = [
        write_scene(tmp_path / f"{name}.tif", blobs(40, 40, seed, 3))
        for seed, name in enumerate("abc")
    ]
    stopped = tmp_path / "c.tif"

    def stop(made: SceneMap, *_: object) -> Path:
        if made.path.name == stopped.name:
            raise KeyboardInterrupt
        return made.path

    with monkeypatch.context() as patched:
        patched.setattr("spectralgpt.jobs.kinds.write_quick_look", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *scenes, digest="rule")
    assert not (tmp_path / "maps/maps.csv").exists()
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "maps").glob("*.tif")}
    made = run(tmp_path, *scenes, digest="rule")
    assert made.rows == 3
    assert {row["map"] for row in rows_of(made)} == {"a.tif", "b.tif", "c.tif"}
    for path in (tmp_path / "maps").glob("*.tif"):
        assert path.stat().st_mtime_ns == times[path.name]
    assert not [p for p in (tmp_path / "maps").iterdir() if p.name.startswith(".")]
    with pytest.raises(ConfigError, match="is there already"):
        run(tmp_path, *scenes, digest="rule")


def test_items_whose_ids_have_dots_have_maps_of_their_own(tmp_path: Path) -> None:
    items = [tmp_path / "items.json" / name for name in ("S2.A.1", "S2.A.2")]
    named = name_maps(items, tmp_path)
    assert [named[item].name for item in items] == ["S2.A.1.tif", "S2.A.2.tif"]


def test_embedding_that_was_stopped_does_no_scene_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    ready = EmbedJob(str(model), ImageFormat(offset=0.0), "cpu", batch_size=4).load()
    drawn = np.random.default_rng(0)
    scenes = [
        (write_chip(tmp_path / f"in/{name}.tif", chip_pixels("forest", 40, drawn)),)
        for name in "ab"
    ]
    output = tmp_path / "out"

    def stop(made: EmbeddingRaster, path: Path) -> Path:
        if made.path.stem == "b":
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patched:
        patched.setattr("spectralgpt.jobs.kinds.write_component_picture", stop)
        with pytest.raises(KeyboardInterrupt):
            run_listed(ready, scenes, output)
    times = {path: path.stat().st_mtime_ns for path in output.glob("*.tif")}
    made = run_listed(ready, scenes, output)
    assert made.rows == len(times) == 2
    assert [row["raster"] for row in rows_of(made)] == ["a.tif", "b.tif"]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert (output / "a.png").is_file()
    assert not (output / ".finished").exists()
    (output / "embeddings.csv").unlink()
    with pytest.raises(ConfigError, match=r"a\.tif is there already"):
        run_listed(ready, scenes, output)
