import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio import Affine
from torch import Tensor

from spectralgpt.data.dense import (
    DenseDataConfig,
    DenseDataset,
    read_all_dense,
    read_dense,
)
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    RasterError,
    ShapeError,
)
from spectralgpt.models.heads import SegmentationModel
from spectralgpt.rasters import NO_CLASS, Stated, describe_raster, read_raster
from spectralgpt.rasters.grid import compose
from spectralgpt.scenes.inputs import Outcome, name_maps
from spectralgpt.scenes.maps import MapOptions, Mapper, SceneMap, map_files, map_scene
from spectralgpt.tasks.dense import predict_map
from tests.dense_files import BANDS, blobs, write_sensor
from tests.dense_places import places_config, write_places
from tests.map_scenes import (
    NAMES,
    SIDE,
    UTM,
    describe,
    join,
    rule_contract,
    rule_mapper,
    write_scene,
)
from tests.tiny import tiny_contract, tiny_encoder
from tests.toy import SENSOR, chip_pixels, write_chip


def tiny_mapper(side: int = SIDE) -> tuple[Mapper, SegmentationModel]:
    """A seeded model with a head that is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SegmentationModel(tiny_encoder(side), len(NAMES), "linear").eval()
        for weight in model.head.parameters():
            torch.nn.init.normal_(weight)
        for weight in model.fusion.parameters():
            torch.nn.init.normal_(weight)

    def predict(images: Tensor) -> Tensor:
        return predict_map(model, False, images)

    return Mapper(predict, tiny_contract(side), NAMES, side), model


def chip(path: Path, height: int, width: int) -> Path:
    pixels = chip_pixels("forest", max(height, width), np.random.default_rng(1))
    return write_chip(path, {k: v[:height, :width] for k, v in pixels.items()})


@pytest.mark.parametrize("shape", [(75, 101), (32, 32), (9, 13), (40, 8)])
def test_a_rule_on_pixels_is_mapped_as_if_there_were_no_windows(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    classes = blobs(*shape, seed=0, classes=3)
    item = describe(write_scene(tmp_path / "scene.tif", classes))
    strips = list(map_scene(rule_mapper(tmp_path), [item], batch_size=3))
    np.testing.assert_array_equal(join(strips), classes)
    for strip in strips:
        np.testing.assert_allclose(strip.probabilities.sum(axis=0), 1, rtol=1e-5)


def test_a_constant_image_gives_a_constant_map(tmp_path: Path) -> None:
    mapper = rule_mapper(tmp_path)
    item = describe(write_scene(tmp_path / "a.tif", np.full((70, 50), 1, np.uint8)))
    strips = list(map_scene(mapper, [item]))
    assert (join(strips) == 1).all()
    shares = np.concatenate([strip.probabilities for strip in strips], axis=1)
    np.testing.assert_allclose(shares[1], 0.9, atol=1e-6)


def test_no_more_rows_than_a_window_has_are_held(tmp_path: Path) -> None:
    item = describe(write_scene(tmp_path / "a.tif", blobs(130, 40, 0, 3)))
    strips = list(map_scene(rule_mapper(tmp_path), [item]))
    assert max(len(strip.classes) for strip in strips) <= SIDE


def test_the_model_sees_windows_of_its_own_size_and_batches_as_asked(
    tmp_path: Path,
) -> None:
    seen = []

    def predict(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return torch.full((len(images), 3, *images.shape[-2:]), 1 / 3)

    item = describe(write_scene(tmp_path / "a.tif", blobs(20, 100, 0, 3)))
    list(map_scene(rule_mapper(tmp_path, predict), [item], batch_size=4))
    assert [shape[0] for shape in seen] == [4, 2]
    assert {shape[1:] for shape in seen} == {(7, SIDE, SIDE)}


def test_pixels_without_data_get_no_class_and_others_keep_theirs(
    tmp_path: Path,
) -> None:
    classes = blobs(70, 90, seed=2, classes=3)
    hole = np.s_[10:60, 20:80]
    path = write_scene(tmp_path / "a.tif", classes, hole=hole)
    found = join(list(map_scene(rule_mapper(tmp_path), [describe(path)])))
    wanted = classes.copy()
    wanted[hole] = NO_CLASS
    np.testing.assert_array_equal(found, wanted)


def test_of_two_dates_pixels_count_where_both_show_something(tmp_path: Path) -> None:
    first, second = (blobs(40, 50, seed=s, classes=3) for s in (0, 1))
    items = [
        describe(write_scene(tmp_path / "a.tif", first, hole=np.s_[:5, :])),
        describe(write_scene(tmp_path / "b.tif", second, hole=np.s_[:, 45:])),
    ]
    found = join(list(map_scene(rule_mapper(tmp_path), items)))
    wanted = second.copy()
    wanted[:5] = NO_CLASS
    wanted[:, 45:] = NO_CLASS
    np.testing.assert_array_equal(found, wanted)


def test_an_image_of_the_models_size_gets_what_the_model_predicts(
    tmp_path: Path,
) -> None:
    mapper, model = tiny_mapper()
    item = describe_raster(
        chip(tmp_path / "a.tif", SIDE, SIDE), SENSOR, Stated(offset=0)
    )
    (strip,) = map_scene(mapper, [item])
    bands = mapper.bands(item)
    image, _ = mapper.preprocessing.prepare(read_raster(item, bands))
    alone = model.predict(torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(strip.probabilities, alone, atol=1e-6)
    np.testing.assert_array_equal(strip.classes, alone.argmax(dim=0))


def test_windows_of_a_scene_moved_by_one_window_leave_its_inside_as_it_was(
    tmp_path: Path,
) -> None:
    mapper, _ = tiny_mapper()
    whole = chip_pixels("field", 4 * SIDE, np.random.default_rng(4))
    maps = []
    for name, left in (("a", 0), ("b", SIDE)):
        part = {band: values[:, left:] for band, values in whole.items()}
        path = write_chip(tmp_path / f"{name}.tif", part)
        item = describe_raster(path, SENSOR, Stated(offset=0))
        maps.append(join(list(map_scene(mapper, [item]))))
    assert len(np.unique(maps[0])) > 1
    inside = np.s_[:, SIDE // 2 :]
    np.testing.assert_array_equal(maps[0][:, SIDE:][inside], maps[1][inside])


def test_maps_of_chips_agree_with_what_is_scored(tmp_path: Path) -> None:
    mapper, model = tiny_mapper()
    config = places_config(write_places(tmp_path))
    dense = read_dense(config, None, Stated(sensor=SENSOR))
    dataset = DenseDataset(dense, mapper.preprocessing)
    assert len(dataset) == len(dense.chips)
    for number, chip_ in enumerate(dense.chips[:4]):
        scored = model.predict(dataset[number]["image"][None])[0].argmax(dim=0)
        mapped = join(list(map_scene(mapper, [chip_.item])))
        np.testing.assert_array_equal(mapped, scored)


def test_what_cannot_be_mapped_is_said(tmp_path: Path) -> None:
    mapper, _ = tiny_mapper()
    small = describe_raster(
        chip(tmp_path / "small.tif", 7, 40), SENSOR, Stated(offset=0)
    )
    with pytest.raises(ShapeError, match=r"small.tif is 7 x 40 px, smaller than"):
        list(map_scene(mapper, [small]))
    other = describe(write_scene(tmp_path / "other.tif", blobs(40, 40, 0)))
    with pytest.raises(BandError, match="missing band"):
        list(map_scene(mapper, [other]))

    def broken(images: Tensor) -> Tensor:
        return torch.full((len(images), 3, *images.shape[-2:]), float("nan"))

    with pytest.raises(DataError, match="no finite probabilities"):
        list(map_scene(rule_mapper(tmp_path, broken), [other]))


def test_at_borders_of_windows_shares_go_over_from_one_to_the_other(
    tmp_path: Path,
) -> None:
    """Two windows of 32 px at columns 0 and 16 of 48 say 0.2 and 0.8 of class 1."""

    def predict(images: Tensor) -> Tensor:
        shares = torch.tensor([0.2, 0.8]).reshape(2, 1, 1, 1)
        one = shares.expand(2, 1, SIDE, SIDE)
        return torch.cat([1 - one, one, torch.zeros_like(one)], dim=1)

    item = describe(write_scene(tmp_path / "a.tif", np.ones((20, 48), np.uint8)))
    (strip,) = map_scene(rule_mapper(tmp_path, predict), [item])
    share = strip.probabilities[1]
    assert share.shape == (20, 48)
    np.testing.assert_allclose(share[:, :16], 0.2, atol=1e-6)
    np.testing.assert_allclose(share[:, 32:], 0.8, atol=1e-6)
    # In column 16 the first window weighs 0.05 + 0.95 sin²(16.5 pi / 32) = 0.99771, the
    # second 0.05 + 0.95 sin²(0.5 pi / 32) = 0.05229; in column 31 it is the other way.
    first, second = 0.99771, 0.05229
    wanted = (0.2 * first + 0.8 * second) / (first + second)
    np.testing.assert_allclose(share[:, 16], wanted, atol=1e-4)
    np.testing.assert_allclose(share[:, 31], 1 - wanted, atol=1e-4)
    assert (np.diff(share[:, 15:33]) >= 0).all()
    assert (strip.classes[:, :24] == 0).all()
    assert (strip.classes[:, 24:] == 1).all()


def test_batches_of_any_size_give_the_same_map(tmp_path: Path) -> None:
    item = describe_raster(chip(tmp_path / "a.tif", 80, 90), SENSOR, Stated(offset=0))
    mapper, _ = tiny_mapper()
    one, many = (
        np.concatenate(
            [s.probabilities for s in map_scene(mapper, [item], batch_size=size)],
            axis=1,
        )
        for size in (1, 7)
    )
    np.testing.assert_allclose(one, many, atol=1e-5)


COLOURS = ("#0072b2", "#1b7837", "#e69f00")


def run(folder: Path, *inputs: Path | tuple[Path, ...], **options: object) -> Outcome:
    stated = ImageFormat(sensor=write_sensor(folder), bands=BANDS)
    return map_files(
        replace(rule_mapper(folder), digest=str(options.pop("digest", ""))),
        [one if isinstance(one, tuple) else (one,) for one in inputs],
        folder / "maps",
        MapOptions(
            COLOURS,
            probabilities=bool(options.pop("probabilities", False)),
            overwrite=bool(options.pop("overwrite", False)),
        ),
        image_format=stated,
        **options,  # type: ignore[arg-type]
    )


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
    (tmp_path / "masks/maps.csv").unlink()
    config = DenseDataConfig(str(tmp_path), sensor=write_sensor(tmp_path), bands=BANDS)
    dense = read_all_dense(config)
    assert dense.class_names == NAMES
    dataset = DenseDataset(dense, rule_contract(tmp_path))
    np.testing.assert_array_equal(dataset[0]["target"], classes)


def test_the_preview_is_the_map_thinned_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectralgpt.scenes.maps._PREVIEW_PX", 20)
    classes = blobs(70, 90, seed=1, classes=3)
    seen: list[SceneMap] = []
    run(tmp_path, write_scene(tmp_path / "a.tif", classes), then=seen.append)
    np.testing.assert_array_equal(seen[0].preview, classes[::5, ::5])


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
    made = run(tmp_path, bad, good, empty)
    assert made.rows == 1
    reasons = [failure.reason for failure in made.failures]
    assert "bad.tif cannot be read" in reasons[0]
    assert "empty.tif has no valid pixel" in reasons[1]
    assert {row["map"] for row in rows_of(made)} == {"good.tif"}
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["good.tif", "good.tif.aux.xml", "maps.csv"]
    with pytest.raises(DataError, match=r"empty\.tif has no valid pixel"):
        run(tmp_path, empty, overwrite=True)


def test_maps_and_images_are_not_replaced(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", blobs(40, 40, 0))
    run(tmp_path, scene)
    with pytest.raises(ConfigError, match=r"scene.tif is there already"):
        run(tmp_path, scene)
    run(tmp_path, scene, overwrite=True)
    image = write_scene(tmp_path / "maps/image.tif", blobs(40, 40, 0))
    with pytest.raises(ConfigError, match="holds the images themselves"):
        run(tmp_path, image, overwrite=True)


def test_maps_take_as_much_of_the_path_as_tells_them_apart(tmp_path: Path) -> None:
    paths = [Path("x/a/one.tif"), Path("x/b/one.tif"), Path("x/b/two.tif")]
    named = name_maps(paths, tmp_path)
    names = ["a_one.tif", "b_one.tif", "b_two.tif"]
    assert [named[path].name for path in paths] == names
    assert name_maps(paths[1:], tmp_path)[paths[1]] == tmp_path / "one.tif"
    with pytest.raises(ConfigError, match="mapped to the same file"):
        name_maps([Path("a.tif"), Path("a.jp2")], tmp_path)


def test_a_run_that_was_stopped_does_no_image_twice(tmp_path: Path) -> None:
    scenes = [
        write_scene(tmp_path / f"{name}.tif", blobs(40, 40, seed, 3))
        for seed, name in enumerate("abc")
    ]
    stopped = tmp_path / "c.tif"
    mapped: list[str] = []

    def stop(made: SceneMap) -> None:
        mapped.append(made.path.name)
        if made.path.name == stopped.name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *scenes, then=stop, digest="rule")
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
