"""Images are recognised wherever a copy of them lies, and parts of them by pixels."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.data.dense import DenseDataConfig, read_dense, sets
from spectralgpt.data.identity import (
    SeenImages,
    digest_data,
    find_copies,
    split_settings,
    training_settings,
)
from spectralgpt.data.samples import Sample, SampleSet
from spectralgpt.errors import CheckpointError
from spectralgpt.rasters import Stated, describe_raster
from tests.dense_places import dense_places, places_config
from tests.toy import BANDS, SENSOR, write_chip


@pytest.fixture
def dense(tmp_path: Path) -> SampleSet:
    return dense_places(tmp_path / "places", "segmentation")


def test_a_copy_elsewhere_is_the_same_images(dense: SampleSet, tmp_path: Path) -> None:
    seen = SeenImages.of(dense.select("train").samples)
    assert seen.count(dense.samples) == len(dense.select("train").samples) == 6
    assert seen.count(dense.select("test").samples) == 0
    copy = Path(shutil.copytree(dense.source, tmp_path / "elsewhere"))
    again = read_dense(places_config(copy), assumed=Stated(sensor=SENSOR))
    assert seen.count(again.samples) == 6


def test_copies_are_known_by_other_names_compressions_and_types(
    dense: SampleSet, tmp_path: Path
) -> None:
    chips = [dense.samples[0], dense.samples[1]]
    seen = SeenImages.of(chips)
    path = Path(str(chips[0].item.files["B02"].path))
    with rasterio.open(path) as file:
        numbers, profile = file.read(), file.profile
        names = file.descriptions
    profile |= {"dtype": "float32", "compress": "deflate", "tiled": True}
    profile |= {"blockxsize": 16, "blockysize": 16}
    with rasterio.open(tmp_path / "other.tif", "w", **profile) as file:
        file.write(numbers.astype(np.float32))
        file.descriptions = names
    shutil.copy(path, tmp_path / "renamed.tif")
    found = [
        describe_raster(tmp_path / "other.tif", SENSOR, Stated(offset=0)),
        describe_raster(tmp_path / "renamed.tif", SENSOR, Stated(offset=0)),
    ]
    copies = [Sample((item,), (0,)) for item in found]
    assert seen.count(copies) == 2
    assert SeenImages.of(copies).count(dense.samples) == 1
    names_of = dict(find_copies(copies, chips))
    assert set(names_of.values()) == {chips[0].name}


def test_blank_images_are_not_one_image(tmp_path: Path) -> None:
    blank = dict.fromkeys(BANDS, np.full((32, 32), 900, np.uint16))
    chips = []
    for name, corner in (("a", 5e5), ("b", 6e5)):
        path = write_chip(tmp_path / f"{name}.tif", blank, origin=(corner, 4e6))
        chips.append(Sample((describe_raster(path, SENSOR, Stated(offset=0)),), (0,)))
    assert SeenImages.of(chips[:1]).count(chips) == 1


def test_names_alone_do_not_make_images_the_same(tmp_path: Path) -> None:
    dense = dense_places(tmp_path / "one", "segmentation")
    seen = SeenImages.of(dense.samples)
    for path in (tmp_path / "one" / "after").glob("*.tif"):
        pixels = np.full((32, 32), 2000 + len(path.name), np.uint16)
        write_chip(path, dict.fromkeys(dense.samples[0].item.files, pixels))
    assert seen.count(dense.samples) == 0


def test_parts_are_seen_where_pixels_are_shared(dense: SampleSet) -> None:
    tiles = sets._cut_tiles(dense, 16).samples
    seen = SeenImages.of(tiles[:1])
    assert seen.count(tiles) == 1
    assert seen.count(sets._cut_tiles(dense, 12).samples) == 4
    assert seen.count(dense.samples) == 1
    assert SeenImages.of(dense.samples[:1]).count(tiles) == 4
    both = seen.joined(SeenImages.of(tiles[3:4]))
    assert both.count(tiles) == 2
    assert both.joined(SeenImages.of(dense.samples[:1])).count(tiles) == 4


def test_what_a_checkpoint_keeps_is_small_and_reads_back(dense: SampleSet) -> None:
    for chips in (dense.samples, sets._cut_tiles(dense, 16).samples):
        seen = SeenImages.of(chips)
        text = json.dumps(seen.to_dict())
        assert SeenImages.from_dict(json.loads(text)) == seen
        assert len(text) < 30 + 40 * len(chips)
    for damaged in (
        {},
        {"whole": 3, "parts": {}},
        {"whole": "", "parts": {"a": "1 2"}},
    ):
        with pytest.raises(CheckpointError, match="is damaged"):
            SeenImages.from_dict(damaged)


def test_data_are_others_once_a_mask_or_a_split_changes(dense: SampleSet) -> None:
    before = digest_data(dense.samples)
    assert digest_data(dense.samples[::-1]) == before
    assert digest_data(dense.samples[1:]) != before
    moved = (replace(dense.samples[0], split="x"), *dense.samples[1:])
    assert digest_data(moved) != before
    dense.samples[0].mask.path.touch()
    assert digest_data(dense.samples) != before


def test_data_are_others_once_other_numbers_are_no_measurement(
    dense: SampleSet,
) -> None:
    before = digest_data(dense.samples)
    chip = dense.samples[0]
    more = replace(chip.item, other_invalid=(*chip.item.other_invalid, 7.0))
    name, file = next(iter(chip.item.files.items()))
    own = chip.item.files | {name: replace(file, nodata=7.0)}
    for item in (more, replace(chip.item, files=own)):
        items = (*chip.items[:-1], item)
        assert digest_data([replace(chip, items=items), *dense.samples[1:]]) != before


@pytest.mark.parametrize("said", ["text", ["test_flips"], 7, None])
def test_what_is_no_settings_of_a_training_says_nothing(said: object) -> None:
    assert training_settings({"config": said}) == {}
    assert split_settings({"config": said}, DenseDataConfig) == {}
    assert split_settings({"config": {"data": said}}, DenseDataConfig) == {}
