from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data import division
from spectralgpt.data.dense import (
    DenseDataConfig,
    balanced_class_weights,
    count_classes,
    read_dense,
)
from spectralgpt.data.division import divide
from spectralgpt.data.samples import SampleSet
from spectralgpt.data.splits import Fractions
from spectralgpt.data.statistics import sample_statistics
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import Window
from tests.dense_files import BANDS, contract, image_of, write_pair, write_sensor
from tests.raster_files import LEFT, TOP, write_tiff

PLACES = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chips at each of twenty places; the share of class 1 grows with the place."""
    folder = tmp_path_factory.mktemp("set")
    for number in range(PLACES):
        for part in range(2):
            mask = np.zeros((16, 16), np.uint8)
            mask.flat[: 5 * number] = 1
            corner = (LEFT + 1000.0 * number + 100 * part, TOP)
            name = f"p{number:02d}_{part}"
            write_pair(folder, name, mask, corner=corner)
    return folder


def config(root: Path, **options: object) -> DenseDataConfig:
    stated = {
        "sensor": write_sensor(root),
        "bands": BANDS,
        "classes": {"ground": 0, "roof": 1},
        "place": r"(?P<place>p\d+)_",
    }
    return DenseDataConfig(str(root), **stated | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def everything(root: Path) -> SampleSet:
    return read_dense(config(root), divided=False)


def split_up(dense: SampleSet, seed: int = 0, **options: object) -> SampleSet:
    return divide(dense, config(Path(dense.source), **options), seed)


def place_splits(dense: SampleSet) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for chip in dense.samples:
        found.setdefault(chip.place, set()).add(chip.split)
    return found


def test_stratified_deals_out_whole_places_with_like_shares(
    everything: SampleSet,
) -> None:
    for seed in range(5):
        dense = split_up(everything, seed, split="stratified")
        assert {len(splits) for splits in place_splits(dense).values()} == {1}
        sizes = Counter(c.split for c in dense.samples)
        assert sizes == {"train": 24, "val": 8, "test": 8}
        counts = count_classes(dense)
        shares = [counts[s]["roof"] / sum(counts[s].values()) for s in counts]
        # Splits without strata miss this by far: shares run from 0 to 0.37.
        assert max(shares) - min(shares) < 0.08


def test_the_same_seed_splits_alike_and_another_otherwise(
    everything: SampleSet,
) -> None:
    first, again, other = (
        place_splits(split_up(everything, seed, split="stratified"))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_blocks_keep_neighbours_together_and_gaps_apart(everything: SampleSet) -> None:
    dense = split_up(everything, split="blocks", block_m=3000.0)
    assert {len(splits) for splits in place_splits(dense).values()} == {1}
    gapped = split_up(everything, split="blocks", block_m=3000.0, gap_m=2500.0)
    assert len(gapped.samples) < len(dense.samples)
    metres = division._sample_centres(gapped.samples) * np.array([90_000.0, 111_000.0])
    distance = np.linalg.norm(metres[:, None] - metres[None], axis=2)
    splits = np.array([chip.split for chip in gapped.samples])
    assert distance[splits[:, None] != splits[None]].min() > 2300


def test_each_place_is_test_once_when_one_is_left_out(everything: SampleSet) -> None:
    tested: list[str] = []
    for fold in range(PLACES):
        dense = split_up(everything, split="folds", fold=fold)
        assert len(dense.select("train").places) == PLACES - 2
        assert len(dense.select("val").places) == 1
        tested += dense.select("test").places
    assert sorted(tested) == list(everything.places)


def test_folds_part_the_places(everything: SampleSet) -> None:
    tested = [
        split_up(everything, split="folds", num_folds=5, fold=fold)
        .select("test")
        .places
        for fold in range(5)
    ]
    assert [len(places) for places in tested] == [4] * 5
    assert len(set().union(*tested)) == PLACES
    with pytest.raises(ConfigError, match=r"has 20 places: data.num_folds must be in"):
        split_up(everything, split="folds", num_folds=21)
    with pytest.raises(ConfigError, match=r"data.fold below it"):
        split_up(everything, split="folds", num_folds=5, fold=5)


def test_a_fraction_keeps_whole_places_inside_larger_fractions(
    everything: SampleSet, root: Path
) -> None:
    whole = split_up(everything, split="stratified")
    half = split_up(everything, split="stratified", train_fraction=0.5)
    tenth = split_up(everything, split="stratified", train_fraction=0.1)
    assert len(tenth.select("train").places) == 1
    assert len(tenth.select("train").samples) == 2
    assert len(half.select("train").places) == 6
    assert set(tenth.select("train").places) <= set(half.select("train").places)
    for split in ("val", "test"):
        assert tenth.select(split).samples == whole.select(split).samples
    other = split_up(everything, 3, split="stratified", train_fraction=0.1)
    assert other.select("train").places != tenth.select("train").places
    with pytest.raises(
        ConfigError, match=r"train_fraction is .* above 0 and at most 1"
    ):
        config(root, train_fraction=0.0)


def test_val_is_taken_out_of_train_by_place(everything: SampleSet) -> None:
    chips = tuple(
        replace(c, split="test" if c.place > "p14" else "train")
        for c in everything.samples
    )
    dense = split_up(replace(everything, samples=chips))
    assert {len(splits) for splits in place_splits(dense).values()} == {1}
    assert dense.select("test").places == ("p15", "p16", "p17", "p18", "p19")
    assert len(dense.select("val").places) == 3


def test_splits_that_cannot_be_are_refused(everything: SampleSet, root: Path) -> None:
    with pytest.raises(DataError, match="40 of 40 images have no split"):
        split_up(everything, split="given")
    one = replace(
        everything, samples=tuple(replace(c, place="p") for c in everything.samples)
    )
    with pytest.raises(DataError, match="has 1 places, too few for the splits"):
        split_up(one, split="stratified")
    with pytest.raises(DataError, match="too few for the 3 splits"):
        split_up(everything, split="blocks", block_m=1e7)
    with pytest.raises(
        ConfigError, match=r"data.place 'x\(\?P<place>y\)' does not fit"
    ):
        read_dense(config(root, place="x(?P<place>y)"), divided=False)


def test_a_large_image_is_cut_into_tiles_that_cover_it_once(tmp_path: Path) -> None:
    mask = np.zeros((50, 70), np.uint8)
    write_pair(tmp_path, "scene", mask)
    dense = read_dense(config(tmp_path, place=None, tile_px=32), divided=False)
    covered = np.zeros(mask.shape, int)
    for chip in dense.samples:
        assert isinstance(chip.window, Window)
        at = chip.window
        covered[at.row : at.row + at.height, at.column : at.column + at.width] += 1
    assert (covered == 1).all()
    assert len(dense.samples) == 6
    blocks = divide(dense, config(tmp_path, split="blocks", block_m=160.0), 0)
    assert {chip.split for chip in blocks.samples} == {"train", "val", "test"}


def test_weights_let_classes_count_alike(root: Path) -> None:
    dense = read_dense(
        config(root, classes={"ground": 0, "roof": 1, "none": 9}), divided=False
    )
    counts = count_classes(dense)[""]
    weights = balanced_class_weights(dense)
    assert weights[0] * counts["ground"] == pytest.approx(weights[1] * counts["roof"])
    assert weights[2] == 0
    total = sum(w * n for w, n in zip(weights, counts.values(), strict=True))
    assert total / sum(counts.values()) == pytest.approx(1)


def test_statistics_are_measured_inside_the_windows(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 3
    write_tiff(tmp_path / "images" / "a.tif", image_of(mask))
    write_tiff(tmp_path / "masks" / "a.tif", mask[None])
    classes = {"a": 0, "b": 3}
    dense = read_dense(
        config(tmp_path, place=None, tile_px=32, classes=classes), divided=False
    )
    bands = contract(write_sensor(tmp_path)).bands
    left = [c for c in dense.samples if c.window and c.window.column == 0]
    statistics = sample_statistics(replace(dense, samples=tuple(left)), bands)
    assert statistics.mean["violet"] == pytest.approx(0.1)
    assert sample_statistics(dense, bands).mean["violet"] > 0.15
    assert statistics.mean["far"] == pytest.approx(0.26)


def test_fractions_of_nothing_leave_a_split_out(everything: SampleSet) -> None:
    dense = split_up(everything, split="stratified", fractions=Fractions(0.8, 0.2, 0.0))
    assert {chip.split for chip in dense.samples} == {"train", "val"}


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    """Twelve places; three of them show class 2, one of them class 3."""
    root = tmp_path_factory.mktemp("rare")
    for number in range(12):
        mask = np.zeros((16, 16), np.uint8)
        mask[:4] = 1
        mask[8:10] = 2 if number in (2, 5, 9) else 0
        mask[14:] = 3 if number == 9 else 0
        corner = (LEFT + 1000.0 * number, TOP)
        write_pair(root, f"p{number:02d}_", mask, corner=corner)
    classes = {"ground": 0, "roof": 1, "pond": 2, "mast": 3}
    return read_dense(config(root, classes=classes), divided=False)


def classes_of(dense: SampleSet, split: str) -> set[str]:
    counts = count_classes(dense)[split]
    return {name for name, count in counts.items() if count}


@pytest.mark.parametrize("split", ["stratified", "blocks"])
@pytest.mark.parametrize("seed", range(8))
def test_every_class_is_learned_and_three_places_serve_three_splits(
    rare: SampleSet, split: str, seed: int
) -> None:
    dense = split_up(rare, seed, split=split, block_m=900)
    assert classes_of(dense, "train") == set(rare.class_names)
    for name in ("val", "test"):
        assert classes_of(dense, name) >= {"ground", "roof", "pond"}


def test_a_share_of_the_training_places_keeps_every_class(rare: SampleSet) -> None:
    for seed in range(8):
        dense = split_up(rare, seed, split="stratified", train_fraction=0.1)
        assert classes_of(dense, "train") == set(rare.class_names)


def test_a_class_that_the_gaps_take_from_train_is_refused_by_name(
    rare: SampleSet,
) -> None:
    refused = 0
    for seed in range(10):
        try:
            dense = split_up(rare, seed, split="blocks", block_m=900, gap_m=1500.0)
        except DataError as error:
            refused += "mast" in str(error)
        else:
            assert classes_of(dense, "train") == set(rare.class_names)
    assert refused
