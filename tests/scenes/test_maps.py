from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spectralgpt.data.dense import (
    DenseDataset,
    read_dense,
)
from spectralgpt.errors import (
    BandError,
    DataError,
    ShapeError,
)
from spectralgpt.models.heads import SegmentationModel
from spectralgpt.rasters import NO_CLASS, Stated, describe_raster, read_raster
from spectralgpt.scenes.maps import Mapper, _map_strips, map_image
from spectralgpt.tasks.dense import predict_map
from tests.dense_files import blobs
from tests.dense_places import places_config, write_places
from tests.map_scenes import (
    COLOURS,
    NAMES,
    SIDE,
    describe,
    join,
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

    return Mapper(predict, tiny_contract(side), NAMES, COLOURS, side), model


def chip(path: Path, height: int, width: int) -> Path:
    pixels = chip_pixels("forest", max(height, width), np.random.default_rng(1))
    return write_chip(path, {k: v[:height, :width] for k, v in pixels.items()})


@pytest.mark.parametrize("shape", [(75, 101), (32, 32), (9, 13), (40, 8)])
def test_a_rule_on_pixels_is_mapped_as_if_there_were_no_windows(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    classes = blobs(*shape, seed=0, classes=3)
    item = describe(write_scene(tmp_path / "scene.tif", classes))
    mapper = replace(rule_mapper(tmp_path), batch_size=3)
    strips = list(_map_strips(mapper, [item]))
    np.testing.assert_array_equal(join(strips), classes)
    for _, probabilities in strips:
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)


def test_a_constant_image_gives_a_constant_map(tmp_path: Path) -> None:
    mapper = rule_mapper(tmp_path)
    item = describe(write_scene(tmp_path / "a.tif", np.full((70, 50), 1, np.uint8)))
    strips = list(_map_strips(mapper, [item]))
    assert (join(strips) == 1).all()
    shares = np.concatenate([probabilities for _, probabilities in strips], axis=1)
    np.testing.assert_allclose(shares[1], 0.9, atol=1e-6)


def test_no_more_rows_than_a_window_has_are_held(tmp_path: Path) -> None:
    item = describe(write_scene(tmp_path / "a.tif", blobs(130, 40, 0, 3)))
    strips = list(_map_strips(rule_mapper(tmp_path), [item]))
    assert max(probabilities.shape[1] for _, probabilities in strips) <= SIDE


def test_the_model_sees_windows_of_its_own_size_and_batches_as_asked(
    tmp_path: Path,
) -> None:
    seen = []

    def predict(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return torch.full((len(images), 3, *images.shape[-2:]), 1 / 3)

    item = describe(write_scene(tmp_path / "a.tif", blobs(20, 100, 0, 3)))
    list(_map_strips(replace(rule_mapper(tmp_path, predict), batch_size=4), [item]))
    assert [shape[0] for shape in seen] == [4, 2]
    assert {shape[1:] for shape in seen} == {(7, SIDE, SIDE)}


def test_pixels_without_data_get_no_class_and_others_keep_theirs(
    tmp_path: Path,
) -> None:
    classes = blobs(70, 90, seed=2, classes=3)
    hole = np.s_[10:60, 20:80]
    path = write_scene(tmp_path / "a.tif", classes, hole=hole)
    found = join(list(_map_strips(rule_mapper(tmp_path), [describe(path)])))
    wanted = classes.copy()
    wanted[hole] = NO_CLASS
    np.testing.assert_array_equal(found, wanted)


def test_of_two_dates_pixels_count_where_both_show_something(tmp_path: Path) -> None:
    first, second = (blobs(40, 50, seed=s, classes=3) for s in (0, 1))
    items = [
        describe(write_scene(tmp_path / "a.tif", first, hole=np.s_[:5, :])),
        describe(write_scene(tmp_path / "b.tif", second, hole=np.s_[:, 45:])),
    ]
    found = join(list(_map_strips(rule_mapper(tmp_path), items)))
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
    ((_, shares),) = _map_strips(mapper, [item])
    bands = mapper.bands(item)
    image, _ = mapper.preprocessing.prepare(read_raster(item, bands))
    alone = model.predict(torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(shares, alone, atol=1e-6)
    np.testing.assert_array_equal(join([(0, shares)]), alone.argmax(dim=0))


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
        maps.append(join(list(_map_strips(mapper, [item]))))
    assert len(np.unique(maps[0])) > 1
    inside = np.s_[:, SIDE // 2 :]
    np.testing.assert_array_equal(maps[0][:, SIDE:][inside], maps[1][inside])


def test_maps_of_chips_agree_with_what_is_scored(tmp_path: Path) -> None:
    mapper, model = tiny_mapper()
    config = places_config(write_places(tmp_path))
    dense = read_dense(config, None, Stated(sensor=SENSOR))
    dataset = DenseDataset(dense, mapper.preprocessing)
    assert len(dataset) == len(dense.samples)
    for number, chip_ in enumerate(dense.samples[:4]):
        scored = model.predict(dataset[number]["image"][None])[0].argmax(dim=0)
        mapped = join(list(_map_strips(mapper, [chip_.item])))
        np.testing.assert_array_equal(mapped, scored)


def test_what_cannot_be_mapped_is_said(tmp_path: Path) -> None:
    mapper, _ = tiny_mapper()
    small = describe_raster(
        chip(tmp_path / "small.tif", 7, 40), SENSOR, Stated(offset=0)
    )
    with pytest.raises(ShapeError, match=r"small.tif is 7 x 40 px, smaller than"):
        list(_map_strips(mapper, [small]))
    other = describe(write_scene(tmp_path / "other.tif", blobs(40, 40, 0)))
    with pytest.raises(BandError, match="missing band"):
        list(_map_strips(mapper, [other]))

    def broken(images: Tensor) -> Tensor:
        return torch.full((len(images), 3, *images.shape[-2:]), float("nan"))

    with pytest.raises(DataError, match="no finite probabilities"):
        list(_map_strips(rule_mapper(tmp_path, broken), [other]))


def test_at_borders_of_windows_shares_go_over_from_one_to_the_other(
    tmp_path: Path,
) -> None:
    """Two windows of 32 px at columns 0 and 16 of 48 say 0.2 and 0.8 of class 1."""

    def predict(images: Tensor) -> Tensor:
        shares = torch.tensor([0.2, 0.8]).reshape(2, 1, 1, 1)
        one = shares.expand(2, 1, SIDE, SIDE)
        return torch.cat([1 - one, one, torch.zeros_like(one)], dim=1)

    item = describe(write_scene(tmp_path / "a.tif", np.ones((20, 48), np.uint8)))
    strips = list(_map_strips(rule_mapper(tmp_path, predict), [item]))
    share = strips[0][1][1]
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
    assert (join(strips)[:, :24] == 0).all()
    assert (join(strips)[:, 24:] == 1).all()


def test_batches_of_any_size_give_the_same_map(tmp_path: Path) -> None:
    item = describe_raster(chip(tmp_path / "a.tif", 80, 90), SENSOR, Stated(offset=0))
    mapper, _ = tiny_mapper()
    one, many = (
        np.concatenate(
            [p for _, p in _map_strips(replace(mapper, batch_size=size), [item])],
            axis=1,
        )
        for size in (1, 7)
    )
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_the_preview_is_the_map_thinned_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectralgpt.scenes.maps._PREVIEW_PX", 20)
    classes = blobs(70, 90, seed=1, classes=3)
    item = describe(write_scene(tmp_path / "a.tif", classes))
    made = map_image(rule_mapper(tmp_path), (item,), tmp_path / "map.tif")
    np.testing.assert_array_equal(made.preview, classes[::5, ::5])
