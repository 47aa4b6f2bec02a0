import logging
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from torch.utils.data import DataLoader

from spectralgpt.data.crops import CropConfig
from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import Stated, describe_raster
from tests.raster_files import S2_L2A, write_tiff


def contract(size=16, scaling="image-minmax", **settings):
    return sensor_preprocessing(
        "sentinel-2-l2a", image_size=size, scaling=scaling, **settings
    )


def chip(path, height=24, width=24, seed=0, bands=S2_L2A, fill=None):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 5000, (len(bands), height, width), dtype=np.uint16)
    if fill is not None:
        pixels[:, fill] = 0
    write_tiff(path, pixels, descriptions=bands)
    return describe_raster(path, "sentinel-2-l2a", Stated(offset=0))


def chips(folder, count, **options):
    return [chip(folder / f"{i}.tif", seed=i, **options) for i in range(count)]


def keep_all(**changes):
    return CropConfig(**{"val_share": 0.0} | changes)


def same(one, two):
    return all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(two[k])) for k in one
    )


def test_sample_has_the_promised_parts(tmp_path):
    data = PretrainingDataset(chips(tmp_path, 3), contract(), crops=keep_all())
    sample = data[1]
    assert sample["images"].shape == sample["valid"].shape == (12, 16, 16)
    assert sample["images"].dtype == torch.float32
    assert sample["valid"].dtype == torch.bool
    assert sample["item"] == 1
    assert sample["images"].amin(dim=(1, 2)).tolist() == [0] * 12
    np.testing.assert_allclose(sample["images"].amax(dim=(1, 2)), 1, atol=1e-6)


def test_draw_depends_on_index_and_generator_alone(tmp_path):
    items = chips(tmp_path, 4)
    one = PretrainingDataset(items, contract(), crops=keep_all())
    two = PretrainingDataset(items, contract(), crops=keep_all())
    two.draw(3, torch.Generator().manual_seed(99))
    for seed in (1, 2):
        first = one.draw(2, torch.Generator().manual_seed(seed))
        assert same(first, two.draw(2, torch.Generator().manual_seed(seed)))
    assert not same(one.draw(2, torch.Generator().manual_seed(3)), first)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_what_one_process_gives(tmp_path, workers):
    data = PretrainingDataset(chips(tmp_path, 6), contract(), crops=keep_all())
    alone = [data[i] for i in range(6)]  # opens files before the workers start
    loader = DataLoader(data, batch_size=None, num_workers=workers)
    for one, two in zip(alone, loader, strict=True):
        assert same(one, two)


def test_data_set_is_pickled_without_open_files(tmp_path):
    data = PretrainingDataset(chips(tmp_path, 2), contract(), crops=keep_all())
    expected = data[0]
    assert same(pickle.loads(pickle.dumps(data))[0], expected)


def test_flip_mirrors_the_same_crop(tmp_path):
    items = chips(tmp_path, 1)
    flipped = PretrainingDataset(items, contract(), crops=keep_all())
    plain = PretrainingDataset(items, contract(), crops=keep_all(horizontal_flip=False))
    mirrored = 0
    for seed in range(12):
        one = flipped.draw(0, torch.Generator().manual_seed(seed))["images"]
        two = plain.draw(0, torch.Generator().manual_seed(seed))["images"]
        if not torch.equal(one, two):
            assert torch.equal(one, two.flip(-1))
            mirrored += 1
    assert 2 < mirrored < 10


def test_transposing_swaps_rows_and_columns_of_the_same_crop(tmp_path):
    items = chips(tmp_path, 1)
    turned = PretrainingDataset(items, contract(), crops=keep_all(transpose=True))
    plain = PretrainingDataset(items, contract(), crops=keep_all())
    swapped = 0
    for seed in range(12):
        one = turned.draw(0, torch.Generator().manual_seed(seed))
        two = plain.draw(0, torch.Generator().manual_seed(seed))
        if not same(one, two):
            for name in ("images", "valid"):
                assert torch.equal(one[name], two[name].mT)
            swapped += 1
    assert 2 < swapped < 10


def test_bands_are_matched_by_name_not_position(tmp_path):
    one = chip(tmp_path / "a.tif")
    with_order = S2_L2A[::-1]
    with rasterio.open(one.files["B01"].path) as dataset:
        pixels = dataset.read()
    write_tiff(tmp_path / "b.tif", pixels[::-1], descriptions=with_order)
    two = describe_raster(tmp_path / "b.tif", "sentinel-2-l2a", Stated(offset=0))
    samples = [
        PretrainingDataset([item], contract(), crops=keep_all())[0]
        for item in (one, two)
    ]
    assert torch.equal(samples[0]["images"], samples[1]["images"])


def test_images_share_indices_by_size_and_weight(tmp_path):
    small = chip(tmp_path / "s.tif")
    large = chip(tmp_path / "l.tif", height=288, width=144)
    data = PretrainingDataset([small, large], contract(), crops=keep_all())
    counts = Counter(data.item_of(i).name for i in range(len(data)))
    assert counts[small.name] == 1
    assert counts[large.name] == pytest.approx(288 * 144 / (16**2 / 0.2), abs=1)
    heavy = replace(small, weight=8.0)
    data = PretrainingDataset([heavy, large], contract(), crops=keep_all())
    counts = Counter(data.item_of(i).name for i in range(len(data)))
    assert counts[small.name] == 8


def test_validation_takes_fixed_crops_of_the_held_out_strip(tmp_path):
    item = chip(tmp_path / "scene.tif", height=200, width=100)
    val = PretrainingDataset([item], contract(), split="val")
    assert len(val) == 6
    assert same(val[2], val.draw(2, torch.Generator().manual_seed(7)))
    rows = {crop.window.row for crop in val._fixed}
    assert min(rows) >= 180
    train = PretrainingDataset([item], contract(), split="train")
    for seed in range(60):
        crop = train.choose_crop(0, 0, torch.Generator().manual_seed(seed)).window
        assert crop.row + crop.height <= 180 - 16


def test_dates_of_one_place_never_straddle(tmp_path):
    items = [
        replace(item, place=f"place {i // 2}")
        for i, item in enumerate(chips(tmp_path, 20))
    ]
    crops = CropConfig(val_share=0.3)
    places = []
    for split in ("train", "val"):
        data = PretrainingDataset(items, contract(), split=split, crops=crops)
        places.append({data.item_of(i).place for i in range(len(data))})
    assert places[0]
    assert places[1]
    assert not places[0] & places[1]
    assert len(places[0] | places[1]) == 10


def test_crops_without_data_are_drawn_again(tmp_path):
    hole = np.ones((200, 200), bool)
    hole[:100] = False  # the upper half has data
    items = [chip(tmp_path / "half.tif", 200, 200, fill=hole)]
    data = PretrainingDataset(items, contract(), crops=keep_all(max_invalid_share=0))
    for seed in range(30):
        assert data.draw(0, torch.Generator().manual_seed(seed))["valid"].all()


def test_nothing_but_nodata_is_an_error_not_an_endless_loop(tmp_path):
    everywhere = np.ones((24, 24), bool)
    items = [chip(tmp_path / "empty.tif", fill=everywhere)]
    data = PretrainingDataset(items, contract(), crops=keep_all())
    with pytest.raises(
        DataError, match=r"crops in turn hold more than the share of 0.25"
    ):
        data[0]


def break_pixels(item):
    path = item.files["B01"].path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_one_bad_file_is_skipped_counted_and_reported_once(tmp_path, caplog):
    items = chips(tmp_path, 12)
    break_pixels(items[5])
    data = PretrainingDataset(items, contract(), crops=keep_all())
    with caplog.at_level(logging.WARNING):
        for i in (5, 6, 5):
            assert data[i]["images"].shape == (12, 16, 16)
    assert list(data.bad) == [5]
    reports = [r for r in caplog.records if r.name == "spectralgpt.data.pretraining"]
    assert len(reports) == 1
    assert "1 of 12 images are bad" in reports[0].getMessage()
    assert "5.tif" in reports[0].getMessage()


def test_skipping_does_not_depend_on_having_seen_the_file(tmp_path):
    items = chips(tmp_path, 12)
    break_pixels(items[5])
    fresh = PretrainingDataset(items, contract(), crops=keep_all())
    used = PretrainingDataset(items, contract(), crops=keep_all())
    used[5]
    assert same(fresh[5], used[5])


def test_too_many_bad_files_are_fatal(tmp_path):
    items = chips(tmp_path, 12)
    break_pixels(items[5])
    break_pixels(items[6])
    data = PretrainingDataset(items, contract(), crops=keep_all())
    data[5]
    with pytest.raises(DataError, match=r"2 of 12 images are bad.*More than the share"):
        data[6]


def test_images_that_lack_a_band_are_counted_as_bad(tmp_path):
    items = chips(tmp_path, 3)
    items.append(chip(tmp_path / "rgb.tif", bands=("B02", "B03", "B04")))
    with pytest.raises(DataError, match=r"1 of 4 images are bad.*missing band B01"):
        PretrainingDataset(items, contract(), crops=keep_all())
    data = PretrainingDataset(items, contract(), crops=keep_all(), max_bad_share=0.5)
    assert len(data) == 3


def test_missing_bands_are_invalid_everywhere_if_they_may_be_missing(tmp_path):
    items = chips(tmp_path, 2)
    items.append(chip(tmp_path / "some.tif", bands=S2_L2A[1:4]))
    data = PretrainingDataset(items, contract(), crops=keep_all(), allow_missing=True)
    assert len(data) == 3
    samples = {sample["item"]: sample for sample in (data[i] for i in range(3))}
    lacking = samples[2]
    there = [band.name in S2_L2A[1:4] for band in contract().bands]
    assert lacking["valid"].all(dim=2).all(dim=1).tolist() == there
    assert not lacking["valid"][~torch.tensor(there)].any()
    assert lacking["images"].shape == (12, 16, 16)
    missing = lacking["images"][~torch.tensor(there)]
    assert missing.min() == missing.max()
    assert 0 < missing.min() < 1
    assert samples[0]["valid"].all()


def test_image_with_none_of_the_bands_is_bad_all_the_same(tmp_path):
    items = [*chips(tmp_path, 1), chip(tmp_path / "red.tif", bands=("B04",))]
    narrow = sensor_preprocessing("sentinel-2-l2a", ["B11", "B12"], image_size=16)
    with pytest.raises(DataError, match=r"red\.tif has none of the bands"):
        PretrainingDataset(items, narrow, crops=keep_all(), allow_missing=True)


def test_token_budget_reads_the_cubes_of_the_batch_alone(tmp_path):
    data = PretrainingDataset(
        chips(tmp_path, 2), contract(), crops=keep_all(), token_budget=8
    )
    plain = PretrainingDataset(chips(tmp_path, 2), contract(), crops=keep_all())
    assert (data.groups, plain.groups) == (2, 4)
    for seed in (1, 2, 3):
        generators = [torch.Generator().manual_seed(9) for _ in range(2)]
        some, every = data.draw(0, generators[0], seed), plain.draw(0, generators[1])
        kept = [
            contract().wavelengths_nm.index(w)
            for w in (b.wavelength_nm for b in data.contract_of(seed).bands)
        ]
        assert len(kept) == 6
        assert torch.equal(some["images"], every["images"][kept])
        assert torch.equal(some["bands"], every["bands"][kept])


def test_batch_of_coarse_bands_alone_shows_the_same_ground(tmp_path):
    rng = np.random.default_rng(0)
    for name, side in (("B02", 48), ("B03", 48), ("B11", 24), ("B12", 24)):
        pixels = rng.integers(100, 5000, (1, side, side), dtype=np.uint16)
        write_tiff(tmp_path / f"{name}.tif", pixels, res=480 / side)
    item = describe_raster(tmp_path, "sentinel-2-l2a", Stated(offset=0))
    bands = sensor_preprocessing(
        "sentinel-2-l2a", ["B02", "B03", "B11", "B12"], image_size=16, bands_per_token=2
    )
    plain = PretrainingDataset([item], bands, crops=keep_all())
    every = plain.draw(0, torch.Generator().manual_seed(9))
    some = PretrainingDataset([item], bands, crops=keep_all(), token_budget=4)
    seeds = range(8)
    drawn = {some.contract_of(seed).band_names: seed for seed in seeds}
    coarse = some.draw(0, torch.Generator().manual_seed(9), drawn["B11", "B12"])
    assert torch.equal(coarse["images"], every["images"][2:])
    assert coarse["gsd_m"] == every["gsd_m"]


def test_image_smaller_than_a_token_is_named(tmp_path):
    items = chips(tmp_path, 1, height=7, width=24)
    with pytest.raises(DataError, match="7 x 24 px, smaller than a token of 8 px"):
        PretrainingDataset(items, contract(), crops=keep_all())


def test_unknown_and_empty_splits_are_refused(tmp_path):
    items = chips(tmp_path, 1)
    with pytest.raises(ConfigError, match="split must be train or val, found 'test'"):
        PretrainingDataset(items, contract(), split="test")
    with pytest.raises(DataError, match="no image is left in the val split of 1"):
        PretrainingDataset(items, contract(), split="val", crops=keep_all())
