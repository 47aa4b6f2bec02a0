"""Splits are those of earlier versions, image by image: studies go on after updates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.data.dense import DenseDataConfig, read_dense
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.splits import Fractions
from tests.dense_files import BANDS, write_pair, write_sensor
from tests.raster_files import LEFT, TOP

IMAGES = 24
CLASSES = {"ground": 0, "roof": 1, "pond": 2, "mast": 3}
LONG = Fractions(0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve places of two images, with masks, a label and several labels each."""
    folder = tmp_path_factory.mktemp("set")
    single, several = ["image,label,place"], ["image,labels,place"]
    for number in range(IMAGES):
        place = number // 2
        mask = np.zeros((16, 16), np.uint8)
        mask.flat[: 9 * number] = 1
        mask[12:14] = 2 if number in (3, 8, 9, 15, 20) else 0
        mask[14:] = 3 if number in (5, 17) else 0
        name = f"p{place:02d}_{number % 2}"
        corner = (LEFT + 900.0 * place + 160 * (number % 2), TOP - 700.0 * (place % 3))
        write_pair(folder, name, mask, corner=corner)
        held = [name for name, code in CLASSES.items() if (mask == code).any()]
        single.append(f"images/{name}.tif,{held[-1]},")
        several.append(f"images/{name}.tif,{';'.join(held)},p{place:02d}")
    for name, lines in (("single", single), ("several", several)):
        given = [f"{lines[0]},split"]
        given += [f"{line},{'test' if 'p1' in line else 'train'}" for line in lines[1:]]
        (folder / f"given_{name}.csv").write_text("\n".join(given), encoding="utf-8")
    lines = [
        f"p{number // 2:02d}_{number % 2},{'test' if number > 19 else 'train'}"
        for number in range(IMAGES)
    ]
    lines.insert(0, "place,split")
    (folder / "given.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "single.csv").write_text("\n".join(single), encoding="utf-8")
    (folder / "several.csv").write_text("\n".join(several), encoding="utf-8")
    return folder


def letters(samples: Any) -> str:
    """Say the split of each image by a letter, "-" for those that are left out."""
    found = {Path(sample.item.name).stem: sample.split[:2] for sample in samples}
    names = [f"p{number // 2:02d}_{number % 2}" for number in range(IMAGES)]
    return "".join({"tr": "t", "va": "v", "te": "e"}.get(found.get(n, ""), "-")
                   for n in names)  # fmt: skip


def labelled_splits(root: Path, labels: str, seed: int, options: Any) -> str:
    config = LabelledDataConfig(
        str(root), sensor=write_sensor(root), bands=BANDS, layout="csv", labels=labels,
        class_names=tuple(CLASSES), allow_unlisted=True, split_seed=seed, **options,
    )  # fmt: skip
    return letters(read_labelled(config).samples)


def dense_splits(root: Path, seed: int, options: Any) -> str:
    config = DenseDataConfig(
        str(root), sensor=write_sensor(root), bands=BANDS, classes=dict(CLASSES),
        place=r"(?P<place>p\d+)_", split_seed=seed, **options,
    )  # fmt: skip
    return letters(read_dense(config).samples)


CASES: dict[str, Any] = {
    "stratified": {"split": "stratified"},
    "other shares": {"split": "stratified", "fractions": LONG},
    "two splits": {"split": "auto", "fractions": Fractions(0.8, 0.2, 0.0)},
    "a third": {"split": "stratified", "train_fraction": 0.34},
    "blocks": {"split": "blocks", "block_m": 1500.0},
    "blocks with gaps": {"split": "blocks", "block_m": 2500.0, "gap_m": 1300.0},
    "half of blocks": {"split": "blocks", "block_m": 900.0, "train_fraction": 0.5},
}
GIVEN: dict[str, Any] = {
    "val out of train": {"split": "auto"},
    "half with val out of train": {"split": "given", "train_fraction": 0.5},
}
FOLDS: dict[str, Any] = {
    "one place": {"split": "folds", "fold": 3},
    "five folds": {"split": "folds", "fold": 4, "num_folds": 5},
    "part of four": {"split": "folds", "num_folds": 4, "train_fraction": 0.4},
}

# By case and seed: for one label an image, several labels with places, and masks.
SPLITS_BEFORE = {
    ("stratified", 0): (
        "ttettvttvttvtevetttttvte",
        "vvvvvveetttttteetttttttt",
        "ttvvvvtteetteetttteevvtt",
    ),
    ("stratified", 7): (
        "tttvvvttteetttetttevtttv",
        "ttttvvvvtttteevvtttteett",
        "tteevveevvvvttttttttttvv",
    ),
    ("other shares", 0): (
        "ttettvttvvtvtevetttvtvve",
        "vvvvtteetttttteevvvvtttt",
        "ttvvvvvveetteetttteevvtt",
    ),
    ("other shares", 7): (
        "tttvvvtvteetttetttevvvtv",
        "ttttttvvtttteevvvvvveett",
        "tteevveevvvvttttttttttvv",
    ),
    ("two splits", 0): (
        "ttvttvtttttttvtvtttttttv",
        "ttttttvvttttttvvvvtttttt",
        "ttvvvvttttttttttttttvvtt",
    ),
    ("two splits", 7): (
        "tttttvtttvvtttvtttvttttt",
        "ttttttttttttvvttvvttvvtt",
        "ttvvvvttttvvttttttttttvv",
    ),
    ("a third", 0): (
        "t-et-vt-v-tv-evett---v-e",
        "vvvvvvee------eetttttt--",
        "--vvvv--ee--eetttteevv--",
    ),
    ("a third", 7): (
        "tt-vvv---ee---etttev-t-v",
        "tt--vvvvtt--eevvtt--ee--",
        "--eevveevvvv----tt--ttvv",
    ),
    ("blocks", 0): (
        "tttttttttttteeeeeevvvvtt",
        "tttttttttttteeeeeevvvvtt",
        "tttttttttttteeeeeevvvvtt",
    ),
    ("blocks", 7): (
        "tteettvvttttttvvvveetttt",
        "tteettvvttttttvvvveetttt",
        "tteettvvttttttvvvveetttt",
    ),
    ("blocks with gaps", 0): (
        "tttttttt--eeeeee--vvvvvv",
        "tttttttt--eeeeee--vvvvvv",
        "tttttttt--eeeeee--vvvvvv",
    ),
    ("blocks with gaps", 7): (
        "tttttttt--vvvv--eeeeee--",
        "tttttttt--vvvv--eeeeee--",
        "tttttttt--vvvv--eeeeee--",
    ),
    ("half of blocks", 0): (
        "t---ttvvt-ttevvvvv-eeet-",
        "et--ttvvtt--evvvvvteee--",
        "e---ttvvttttevvvvv-eee--",
    ),
    ("half of blocks", 7): (
        "tteett--vvvvt-eevvt-t--t",
        "tteett--vvvvtteevv--tttt",
        "tteett--vvvv--eevv--tt--",
    ),
}
GIVEN_BEFORE = {
    ("val out of train", 0): (
        "ttvvtvtttttttvttttvteeee",
        "ttttttvvvvttttttvvtteeee",
        "ttttvvttvvttvvtttttteeee",
    ),
    ("val out of train", 7): (
        "ttttttttvtvtttvttvvteeee",
        "ttttvvttttttvvvvtttteeee",
        "ttttvvttvvttttttttvveeee",
    ),
    ("half with val out of train", 0): (
        "t-vv-vttt-t-tvt--tv-eeee",
        "tt--ttvvvv--ttttvv--eeee",
        "----vvttvv--vvtttt--eeee",
    ),
    ("half with val out of train", 7): (
        "ttt--tt-vtv--tv-tvv-eeee",
        "tt--vv--ttttvvvvtt--eeee",
        "tt--vv--vv----ttttvveeee",
    ),
}
FOLDS_BEFORE = {
    ("one place", 0): "tttttteevvtttttttttttttt",
    ("one place", 7): "tttttteevvtttttttttttttt",
    ("five folds", 0): "tttttttttteettttvvvveevv",
    ("five folds", 7): "tteettvvvveettttttvvtttt",
    ("part of four", 0): "----vv--tteeee--tteevvvv",
    ("part of four", 7): "--eeeevveevvvv--tt--tt--",
}


@pytest.mark.parametrize(("case", "seed"), SPLITS_BEFORE)
def test_a_seed_splits_as_it_always_did(root: Path, case: str, seed: int) -> None:
    single, several, dense = SPLITS_BEFORE[case, seed]
    options = CASES[case]
    assert labelled_splits(root, "single.csv", seed, options) == single
    assert labelled_splits(root, "several.csv", seed, options) == several
    assert dense_splits(root, seed, options) == dense


@pytest.mark.parametrize(("case", "seed"), GIVEN_BEFORE)
def test_what_is_given_stays_as_it_always_did(root: Path, case: str, seed: int) -> None:
    single, several, dense = GIVEN_BEFORE[case, seed]
    options = GIVEN[case]
    assert labelled_splits(root, "given_single.csv", seed, options) == single
    assert labelled_splits(root, "given_several.csv", seed, options) == several
    table = {"split_table": "given.csv"}
    assert dense_splits(root, seed, options | table) == dense


@pytest.mark.parametrize(("case", "seed"), FOLDS_BEFORE)
def test_folds_are_those_that_they_always_were(
    root: Path, case: str, seed: int
) -> None:
    assert dense_splits(root, seed, FOLDS[case]) == FOLDS_BEFORE[case, seed]
