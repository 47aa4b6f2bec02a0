import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.data import crops as cropping
from spectralgpt.data.crops import (
    Crop,
    CropConfig,
    check_token_budget,
    draw_bands,
)
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import RasterFile, Window
from spectralgpt.sensors import load_sensor

split_region = cropping._split_region
SENSOR = load_sensor("sentinel-2-l2a")
ENMAP = load_sensor("enmap-l2a").select()


def item(place="a", holdout="auto"):
    return RasterFile(place, SENSOR, {}, 1, 0, place=place, holdout=holdout)


def draw(region, size, seed=0, **config):
    generator = torch.Generator().manual_seed(seed)
    return Crop(0, region).draw(size, CropConfig(**config), generator)


@settings(max_examples=200)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    row=st.integers(0, 50),
    size=st.sampled_from([8, 32, 96, 128]),
    seed=st.integers(0, 10**6),
)
def test_crops_lie_in_their_region(height, width, row, size, seed):
    crop = draw(Window(row, 7, height, width), size, seed).window
    assert row <= crop.row
    assert crop.row + crop.height <= row + height
    assert crop.column >= 7
    assert crop.column + crop.width <= 7 + width


def test_crops_of_a_large_scene_run_from_native_to_base_resolution():
    region = Window(0, 0, 2000, 2000)
    crops = [draw(region, 96, seed).window for seed in range(400)]
    sides = [math.sqrt(crop.height * crop.width) for crop in crops]
    assert 94 < min(sides) < 110
    assert 200 < max(sides) < 217
    shares = [side**2 / (96**2 / 0.2) for side in sides]
    assert sum(shares) / len(shares) == pytest.approx(0.6, abs=0.03)
    ratios = [crop.width / crop.height for crop in crops]
    assert 0.73 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.37


def test_small_chip_is_its_own_base_window():
    crops = [draw(Window(0, 0, 120, 120), 128, seed).window for seed in range(400)]
    shares = [crop.height * crop.width / 120**2 for crop in crops]
    assert 0.19 < min(shares) < 0.25
    assert 0.9 < max(shares) <= 1


def test_same_generator_gives_the_same_crop_and_seeds_differ():
    region = Window(0, 0, 500, 400)
    assert draw(region, 64, 3) == draw(region, 64, 3)
    assert len({draw(region, 64, seed).window for seed in range(20)}) == 20


def test_flips_happen_half_of_the_time_if_asked():
    crops = [draw(Window(0, 0, 99, 99), 32, seed) for seed in range(300)]
    assert 120 < sum(crop.flip_columns for crop in crops) < 180
    assert not any(crop.flip_rows for crop in crops)
    off = [draw(Window(0, 0, 99, 99), 32, s, horizontal_flip=False) for s in range(50)]
    assert not any(crop.flip_columns for crop in off)
    assert not any(crop.is_transposed for crop in crops)
    turned = [draw(Window(0, 0, 99, 99), 32, s, transpose=True) for s in range(300)]
    assert 120 < sum(crop.is_transposed for crop in turned) < 180
    # All else is as it was without it.
    assert [replace(crop, is_transposed=False) for crop in turned] == crops


@settings(max_examples=100)
@given(height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(8, 128))
def test_grid_crops_do_not_overlap_and_stay_inside(height, width, size):
    crops = Crop(0, Window(11, 5, height, width)).grid(size)
    side = min(size, height, width)
    assert len(crops) == (height // side) * (width // side)
    top, left = crops[0].window.row, crops[0].window.column
    cells = set()
    for crop in crops:
        window = crop.window
        assert window.height == window.width == side
        assert window.row >= 11
        assert window.row + side <= 11 + height
        assert window.column >= 5
        assert window.column + side <= 5 + width
        assert (window.row - top) % side == (window.column - left) % side == 0
        cells.add((window.row, window.column))
    assert len(cells) == len(crops)


@settings(max_examples=100)
@given(
    height=st.integers(100, 3000),
    width=st.integers(100, 3000),
    share=st.floats(0.01, 0.4),
)
def test_large_scene_is_split_without_overlap(height, width, share):
    config = CropConfig(val_share=share)
    train, val = (
        split_region(item(holdout="block"), height, width, 32, split, config)
        for split in ("train", "val")
    )
    if train is None or val is None:
        pytest.fail("block holdout gives both parts of a scene this large")
    if height >= width:
        assert train.row + train.height + 16 == val.row
        assert val.row + val.height == height
        assert train.width == val.width == width
        assert val.height >= max(32, round(height * share))
    else:
        assert train.column + train.width + 16 == val.column
        assert val.column + val.width == width
        assert train.height == val.height == height


def test_small_images_are_split_by_place_alone():
    config = CropConfig(val_share=0.3)

    def split_of(place):
        inside = {
            split: split_region(item(place, "auto"), 64, 64, 64, split, config)
            for split in ("train", "val")
        }
        assert sum(region is not None for region in inside.values()) == 1
        return "val" if inside["val"] else "train"

    places = [f"place {i}" for i in range(300)]
    held_out = [place for place in places if split_of(place) == "val"]
    assert 60 < len(held_out) < 120
    # A stable hash: the same on every machine and in every process.
    assert held_out[:3] == ["place 1", "place 5", "place 9"]


def test_holdout_can_be_forbidden_or_kept_whole():
    config = CropConfig()
    never = item(holdout="never")
    assert split_region(never, 2000, 2000, 64, "val", config) is None
    assert split_region(never, 2000, 2000, 64, "train", config).height == 2000
    whole = item("place 1", holdout="place")
    regions = [split_region(whole, 2000, 2000, 64, s, config) for s in ("train", "val")]
    assert [r for r in regions if r] == [Window(0, 0, 2000, 2000)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale_min": 0},
        {"scale_min": 0.5, "scale_max": 0.4},
        {"aspect_max": 0.5},
        {"val_share": 1},
        {"max_invalid_share": -0.1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        CropConfig(**wrong)


def test_drawn_bands_are_whole_groups_of_the_spectrum_in_order() -> None:
    whole = {ENMAP[i : i + 3] for i in range(0, 224, 3)}
    for seed in range(20):
        drawn = draw_bands(ENMAP, 3, 12, seed)
        groups = {drawn[i : i + 3] for i in range(0, len(drawn), 3)}
        assert len(groups) == 12
        assert groups <= whole
        wavelengths = [band.wavelength_nm for band in drawn]
        assert wavelengths == sorted(wavelengths)


def test_draw_is_that_of_the_seed_and_reaches_every_group() -> None:
    assert draw_bands(ENMAP, 3, 12, 5) == draw_bands(ENMAP, 3, 12, 5)
    seen = {band for seed in range(60) for band in draw_bands(ENMAP, 3, 12, seed)}
    assert seen == set(ENMAP)


def test_a_share_of_draws_is_of_single_bands() -> None:
    bands = SENSOR.select()
    drawn = [draw_bands(bands, 3, None, seed, 0.7) for seed in range(300)]
    some = [chosen for chosen in drawn if len(chosen) < len(bands)]
    # Of those of single bands a tenth takes all of them.
    assert 0.5 < len(some) / len(drawn) < 0.75
    assert min(map(len, some)) == 3
    for chosen in some:
        nm = [band.wavelength_nm for band in chosen]
        assert nm == sorted(nm)
        assert len(set(chosen)) == len(chosen)
    assert draw_bands(bands, 3, None, 7, 0.7) == draw_bands(bands, 3, None, 7, 0.7)
    assert draw_bands(bands, 3, None, 7) == bands


def test_single_bands_keep_within_the_budget() -> None:
    counts = {len(draw_bands(ENMAP, 3, 4, seed, 1.0)) for seed in range(200)}
    assert counts == set(range(3, 13))


@pytest.mark.parametrize(
    ("budget", "groups"), [(None, None), (144, 1), (1727, 11), (10800, None)]
)
def test_budget_holds_whole_band_groups(budget: int | None, groups: int | None) -> None:
    contract = sensor_preprocessing("enmap-l2a", image_size=96)
    assert check_token_budget(budget, contract) == groups


def test_budget_below_one_band_group_is_refused() -> None:
    contract = sensor_preprocessing("enmap-l2a", image_size=96)
    with pytest.raises(
        ConfigError, match=r"token_budget is 143.* 96 px has 144 tokens"
    ):
        check_token_budget(143, contract)
