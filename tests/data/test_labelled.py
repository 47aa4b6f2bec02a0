import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt.data import division
from spectralgpt.data.datasets import LabelledDataset
from spectralgpt.data.division import divide
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.masks import count_classes
from spectralgpt.errors import BandError, DataError, DatasetNotFoundError, UnitError
from tests.tiny import tiny_contract
from tests.toy import BANDS, CLASSES, SENSOR, chip_pixels, write_archive, write_chip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive"), per_class=10)


def config(root: Path, **options: object) -> LabelledDataConfig:
    stated = {"sensor": SENSOR, "offset": 0.0, **options}
    return LabelledDataConfig(root=str(root), **stated)  # type: ignore[arg-type]


def one_chip(folder: Path, **options: object) -> Path:
    pixels = chip_pixels("field", 32, np.random.default_rng(0))
    return write_chip(folder / "field" / "a.tif", pixels, **options)  # type: ignore


def table(root: Path, text: str, images: tuple[str, ...] = ("a", "b")) -> Path:
    for name in images:
        pixels = chip_pixels("field", 16, np.random.default_rng(0))
        write_chip(root / "images" / f"{name}.tif", pixels)
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


def test_folder_of_classes_is_read_with_sorted_class_names(archive: Path) -> None:
    labelled = read_labelled(config(archive))
    assert labelled.class_names == CLASSES
    for chip in labelled.samples:
        assert CLASSES[chip.labels[0]] in Path(chip.item.name).parent.name
    counts = count_classes(labelled)
    assert [counts[s]["water"] for s in ("train", "val", "test")] == [6, 2, 2]


def test_split_folders_are_kept(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_archive(tmp_path / split, per_class=2, size=16)
    labelled = read_labelled(config(tmp_path))
    assert {Path(c.item.name).parts[-3] for c in labelled.select("val").samples} == {
        "val"
    }
    assert len(labelled.select("test").samples) == 6


@pytest.mark.parametrize(
    "names", [("training", "validation", "testing"), ("Train", "valid", "TEST")]
)
def test_folders_are_the_splits_that_they_name(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        write_archive(tmp_path / name, per_class=1, size=16)
    labelled = read_labelled(config(tmp_path))
    assert [len(labelled.select(s).samples) for s in ("train", "val", "test")] == [
        3
    ] * 3
    assert labelled.class_names == CLASSES


@pytest.mark.parametrize("other", ["holdout", "val"])
def test_folders_beside_splits_are_refused_by_name(tmp_path: Path, other: str) -> None:
    for name in ("train", "validation", other):
        write_archive(tmp_path / name, per_class=1, size=16)
    with pytest.raises(DataError, match=other):
        read_labelled(config(tmp_path))


def test_litter_is_neither_class_nor_image(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "set")
    for name in (".ipynb_checkpoints", "__MACOSX", "water/.ipynb_checkpoints"):
        shutil.copytree(archive / "water", tmp_path / "set" / name)
    shutil.copy(archive / "water/water_000.tif", tmp_path / "set/water/._water_000.tif")
    labelled = read_labelled(config(tmp_path / "set"))
    assert labelled.class_names == CLASSES
    assert len(labelled.samples) == 30


def test_data_behind_links_are_read(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for kind in CLASSES:
        (root / kind).symlink_to(archive / kind)
    assert len(read_labelled(config(root)).samples) == 30
    rows = [f"{kind}/{kind}_00{n}.tif,{kind},{n}" for kind in CLASSES for n in range(9)]
    (root / "labels.csv").write_text("\n".join(["image,label,place", *rows]))
    stated = config(root, layout="csv", allow_unlisted=True)
    labelled = read_labelled(stated)
    assert len(labelled.samples) == 27
    pairs = {(chip.place, chip.split) for chip in labelled.samples}
    assert len(pairs) == 9


def test_val_is_taken_out_of_train_never_out_of_test(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_archive(tmp_path / split, per_class=5, size=16)
    labelled = read_labelled(config(tmp_path))
    assert len(labelled.select("val").samples) == 3
    assert {Path(c.item.name).parts[-3] for c in labelled.select("val").samples} == {
        "train"
    }


def test_the_same_seed_splits_alike_and_another_otherwise(archive: Path) -> None:
    labelled = read_labelled(config(archive), divided=False)
    first, again, other = (
        [c.split for c in divide(labelled, config(archive), seed).samples]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_blocks_keep_neighbours_together(archive: Path) -> None:
    labelled = read_labelled(config(archive), divided=False)
    divided = divide(labelled, config(archive, split="blocks", block_m=4000.0), 0)
    centres = division._sample_centres(divided.samples)
    near = np.abs(centres[:, None] - centres[None]).max(axis=2) < 1e-4
    splits = np.array([chip.split for chip in divided.samples])
    assert (splits[:, None] == splits[None])[near].all()
    assert set(splits) == {"train", "val", "test"}


def test_gap_separates_splits_by_its_distance(archive: Path) -> None:
    labelled = read_labelled(config(archive), divided=False)
    blocks = config(archive, split="blocks", block_m=4000.0, gap_m=6000.0)
    gapped = divide(labelled, blocks, 0)
    metres = division._sample_centres(gapped.samples) * np.array([82_000.0, 111_000.0])
    splits = np.array([chip.split for chip in gapped.samples])
    distance = np.linalg.norm(metres[:, None] - metres[None], axis=2)
    apart = splits[:, None] != splits[None]
    assert len(gapped.samples) < len(labelled.samples)
    assert distance[apart].min() > 5500


def test_too_few_blocks_are_refused_with_the_way_out(archive: Path) -> None:
    with pytest.raises(DataError, match=r"too few for.*Make data.block_m smaller"):
        read_labelled(config(archive, split="blocks", block_m=1e7))


def test_a_fraction_of_train_keeps_val_and_test(archive: Path) -> None:
    whole = read_labelled(config(archive))
    part = read_labelled(config(archive, train_fraction=0.5))
    assert len(part.select("train").samples) == len(whole.select("train").samples) // 2
    assert part.select("test").samples == whole.select("test").samples


def test_csv_gives_single_and_multi_labels(tmp_path: Path) -> None:
    single = table(tmp_path / "s", "image,label\nimages/a.tif,x\nimages/b.tif,y\n")
    assert read_labelled(
        config(single, layout="csv"), divided=False
    ).targets().tolist() == [0, 1]
    text = "image,labels,split\nimages/a.tif,x;z,train\nimages/b.tif,,test\n"
    multi = read_labelled(
        config(table(tmp_path / "m", text), layout="csv"), divided=False
    )
    assert multi.task == "multi-label"
    assert multi.targets().tolist() == [[1, 1], [0, 0]]
    assert [chip.split for chip in multi.samples] == ["train", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n", r"needs the columns image and either label or labels"),
        ("image,label\n", "has no rows"),
        ("image,label\nimages/a.tif,\n", r"1 rows have no label \(images/a.tif\)"),
        (
            "image,label\nimages/a.tif,x\nimages/q.tif,x\nimages/r.tif,x\n",
            r"2 files are missing \(images/q.tif, images/r.tif\); "
            r"1 images have no row: add rows .*\(images/b.tif\)",
        ),
        (
            "image,label\nimages/a.tif,x\nimages/a.tif,y\nimages/b.tif,x\n",
            r"1 images are listed more than once \(images/a.tif\)",
        ),
        ("image,label\n../a.tif,x\n", "1 paths lie outside"),
        ("image,label,split\nimages/a.tif,x,dev\n", r"1 splits are unknown .*\(dev\)"),
    ],
)
def test_csv_that_does_not_fit_its_images_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(config(table(tmp_path, text), layout="csv"), divided=False)


def test_unlisted_images_may_be_allowed(tmp_path: Path) -> None:
    root = table(tmp_path, "image,label\nimages/a.tif,x\n")
    allowed = read_labelled(
        config(root, layout="csv", allow_unlisted=True), divided=False
    )
    assert len(allowed.samples) == 1


def test_unknown_class_is_named(archive: Path) -> None:
    with pytest.raises(DataError, match=r"1 unknown classes \(water\); known: field"):
        read_labelled(config(archive), ["field", "forest"], divided=False)


def test_labels_are_matched_to_a_models_classes_by_name(archive: Path) -> None:
    names = ("water", "ice", "field", "forest")
    labelled = read_labelled(config(archive), names, divided=False)
    for chip in labelled.samples:
        assert names[chip.labels[0]] == Path(chip.item.name).parent.name


def test_missing_folder_and_empty_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="There is no folder"):
        read_labelled(config(tmp_path / "nowhere"), divided=False)
    with pytest.raises(DataError, match="no images in folders of classes"):
        read_labelled(config(tmp_path), divided=False)


def test_bands_in_another_order_give_the_same_bits(tmp_path: Path) -> None:
    one_chip(tmp_path / "a")
    one_chip(tmp_path / "b", order=BANDS[::-1])
    first, second = (
        LabelledDataset(
            read_labelled(config(tmp_path / name), divided=False), tiny_contract()
        )[0]
        for name in ("a", "b")
    )
    assert torch.equal(first["image"], second["image"])


def test_missing_band_is_refused_by_name(tmp_path: Path) -> None:
    one_chip(tmp_path, order=[band for band in BANDS if band != "B8A"])
    dataset = LabelledDataset(
        read_labelled(config(tmp_path), divided=False), tiny_contract()
    )
    with pytest.raises(BandError, match="B8A"):
        dataset[0]


def test_wrong_unit_and_twice_applied_offset_are_refused(tmp_path: Path) -> None:
    one_chip(tmp_path)
    labelled = read_labelled(config(tmp_path), divided=False)
    chip = labelled.samples[0]
    for item, message in (
        (replace(chip.item, quantification=1.0, unit="reflectance"), "unscaled"),
        (replace(chip.item, offset=-6000.0), "twice-applied offset"),
    ):
        wrong = replace(labelled, samples=(replace(chip, items=(item,)),))
        with pytest.raises(UnitError, match=message):
            LabelledDataset(wrong, tiny_contract())[0]


def test_drawn_samples_follow_their_generator_and_stay_inside(archive: Path) -> None:
    dataset = LabelledDataset(
        read_labelled(config(archive), divided=False),
        tiny_contract(),
        crop_scale=(0.2, 0.6),
        flip=True,
    )
    first, again, other = (
        dataset.draw(0, torch.Generator().manual_seed(seed))["image"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (12, 32, 32)


def test_chips_kept_in_memory_are_the_same_up_to_the_limit(archive: Path) -> None:
    labelled = read_labelled(config(archive), divided=False)
    plain = LabelledDataset(labelled, tiny_contract())
    limited = LabelledDataset(labelled, tiny_contract(), memory_mb=0.1)
    for index in (0, 1, 0):
        assert torch.equal(plain[index]["image"], limited[index]["image"])
    assert limited.raster(0) is limited.raster(0)
    assert limited.raster(1) is not limited.raster(1)


def test_small_chips_are_enlarged_to_the_models_image(tmp_path: Path) -> None:
    one_chip(tmp_path)
    sample = LabelledDataset(
        read_labelled(config(tmp_path), divided=False), tiny_contract(64)
    )[0]
    assert sample["image"].shape == (12, 64, 64)
    shutil.rmtree(tmp_path)
