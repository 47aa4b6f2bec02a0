from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spectralgpt.data.dense import (
    DenseAugmentationConfig,
    DenseDataConfig,
    DenseDataset,
    read_dense,
)
from spectralgpt.data.samples import SampleSet
from spectralgpt.errors import BandError, ConfigError, DataError, ShapeError
from spectralgpt.losses import IGNORE
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import Window
from tests.dense_files import (
    BANDS,
    blobs,
    class_of,
    contract,
    image_of,
    write_sensor,
    write_set,
)
from tests.raster_files import write_tiff

SIZES = {"large": (70, 90), "small": (20, 27), "wide": (16, 100)}
PLAIN = DenseAugmentationConfig(flip=False, turn=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), SIZES, classes=3)


def read(root: Path, **options: object) -> SampleSet:
    stated = {
        "sensor": write_sensor(root),
        "bands": BANDS,
        "classes": {"a": 0, "b": 1, "c": 2},
    }
    return read_dense(DenseDataConfig(str(root), **stated | options), divided=False)  # type: ignore


def dataset(root: Path, **options: object) -> DenseDataset:
    options.setdefault("augmentation", DenseAugmentationConfig())
    return DenseDataset(read(root), contract(write_sensor(root)), **options)  # type: ignore


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mismatches(sample: dict[str, Tensor]) -> int:
    """Labelled pixels whose class is not the one that the image shows."""
    target = sample["target"].numpy()
    return int((class_of(sample["image"].numpy()) != target)[target >= 0].sum())


def test_without_augmentation_windows_are_drawn_as_they_are(root: Path) -> None:
    data = dataset(root, augmentation=None)
    for index in (0, len(data) - 1):
        drawn, plain = data.draw(index, generator(index)), data[index]
        assert all(torch.equal(drawn[name], plain[name]) for name in plain)


def test_windows_show_every_labelled_pixel_once(root: Path) -> None:
    data = dataset(root)
    counts = [0] * len(SIZES)
    for index in range(len(data)):
        sample = data[index]
        assert mismatches(sample) == 0
        counts[data.windows[index][0]] += int((sample["target"] >= 0).sum())
    assert counts == [height * width for height, width in SIZES.values()]


def test_windows_move_back_at_the_edge_and_see_real_pixels(root: Path) -> None:
    data = dataset(root)
    large = [window for number, window, *_ in data.windows if number == 0]
    assert Window(38, 58, 32, 32) in large
    sample = data[data.windows.index(data.windows[len(large) - 1])]
    assert sample["valid"].all()
    # Of 38..70 the first rows, and of 58..90 the first columns, were seen before.
    assert (sample["target"][: 64 - 38] == IGNORE).all()
    assert (sample["target"][:, : 64 - 58] == IGNORE).all()


def test_small_images_are_padded_and_never_enlarged(root: Path) -> None:
    small = next(i for i, w in enumerate(dataset(root).windows) if w[0] == 1)
    for pad, side in (("shared", (32, 32)), ("patch", (24, 32))):
        sample = dataset(root, pad=pad)[small]
        assert sample["image"].shape == (7, *side)
        assert sample["valid"][:, :20, :27].all()
        assert not sample["valid"][:, 20:].any()
        assert not sample["valid"][:, :, 27:].any()
        assert (sample["target"][20:] == IGNORE).all()
        assert (sample["target"][:20, :27] >= 0).all()


def test_shared_padding_is_what_the_largest_chip_needs(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": (10, 12), "b": (17, 9)}, classes=3)
    data = dataset(tmp_path)
    assert [data.shape(index) for index in range(2)] == [(24, 24)] * 2
    assert data[0]["image"].shape == (7, 24, 24)


@pytest.mark.parametrize("memory_mb", [0.0, 100.0])
def test_crops_flips_and_turns_move_image_and_mask_alike(
    root: Path, memory_mb: float
) -> None:
    data = dataset(root, memory_mb=memory_mb)
    seen = set()
    for seed in range(40):
        sample = data.draw(seed % len(data), generator(seed))
        assert sample["image"].shape == (7, 32, 32)
        assert mismatches(sample) == 0
        assert (sample["valid"].any(0) == (sample["target"] >= 0)).all()
        seen.add(sample["target"].numpy().tobytes())
    assert len(seen) > 30


def test_all_flips_and_turns_occur(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": (32, 32)}, classes=3)
    data = dataset(tmp_path)
    drawn = {
        data.draw(0, generator(seed))["target"].numpy().tobytes() for seed in range(80)
    }
    plain = data[0]["target"].numpy()
    expected = {
        np.ascontiguousarray(np.rot90(turned, quarters)).tobytes()
        for turned in (plain, plain.T)
        for quarters in range(4)
    }
    assert drawn == expected


def test_draws_follow_their_generator(root: Path) -> None:
    data = dataset(root)
    first, again, other = (data.draw(0, generator(s)) for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["target"], other["target"])


def test_memory_changes_nothing_and_keeps_its_limit(root: Path) -> None:
    plain, kept = dataset(root), dataset(root, memory_mb=100.0)
    little = dataset(root, memory_mb=0.1)
    for index in range(len(plain)):
        for data in (kept, little):
            for sample, other in (
                (plain[index], data[index]),
                (plain.draw(index, generator(7)), data.draw(index, generator(7))),
            ):
                assert all(torch.equal(sample[name], other[name]) for name in sample)
    assert len(kept._kept) == 3
    assert 0 < len(little._kept) < 3
    # Its files are no longer needed.
    for chip in kept.sample_set.samples:
        object.__setattr__(chip.mask, "path", Path("gone.tif"))
    assert mismatches(kept[0]) == 0


def test_scaled_crops_keep_the_mask_on_the_image(root: Path) -> None:
    for low, high in ((0.5, 0.5), (2.0, 2.0), (0.6, 1.6)):
        augmentation = DenseAugmentationConfig(scale_low=low, scale_high=high)
        data = dataset(root, augmentation=augmentation)
        wrong = labelled = 0
        for seed in range(12):
            sample = data.draw(0, generator(seed))
            assert sample["image"].shape == (7, 32, 32)
            wrong += mismatches(sample)
            labelled += int((sample["target"] >= 0).sum())
        # Only along the edges of blocks, where the image is blended.
        assert wrong / labelled < (0.35 if high > 1.6 else 0.2)
    with pytest.raises(ConfigError, match="0 < low <= high"):
        DenseAugmentationConfig(scale_low=2.0)


def test_smaller_images_are_not_enlarged_by_scaling_alone(root: Path) -> None:
    augmentation = DenseAugmentationConfig(scale_low=2.0, scale_high=2.0)
    data = dataset(root, augmentation=augmentation)
    small = next(i for i, w in enumerate(data.windows) if w[0] == 1)
    sample = data.draw(small, generator())
    assert int((sample["target"] >= 0).sum()) == 10 * 14


def test_sparse_masks_are_drawn_where_labels_are(tmp_path: Path) -> None:
    mask = np.full((128, 128), 9, np.uint8)
    mask[40:44, 90:94] = 1
    write_tiff(tmp_path / "images" / "a.tif", image_of(mask))
    write_tiff(tmp_path / "masks" / "a.tif", mask[None])
    dense = read(tmp_path, ignored=(9,))
    found = {}
    for tries in (1, 60):
        augmentation = DenseAugmentationConfig(tries=tries)
        data = DenseDataset(dense, contract(write_sensor(tmp_path)), augmentation)
        drawn = [data.draw(0, generator(seed)) for seed in range(20)]
        found[tries] = sum(bool((s["target"] >= 0).any()) for s in drawn)
    assert found[1] < 10
    assert found[60] == 20


def test_pixels_without_any_band_have_no_label(tmp_path: Path) -> None:
    mask = blobs(16, 16, 0, classes=3)
    image = image_of(mask)
    image[:, :3] = 0
    image[1, 8] = 0
    write_tiff(tmp_path / "images" / "a.tif", image)
    write_tiff(tmp_path / "masks" / "a.tif", mask[None])
    sample = dataset(tmp_path)[0]
    assert (sample["target"][:3] == IGNORE).all()
    # Row 8 lacks one band of seven: it keeps its label, and the band is marked.
    assert (sample["target"][3:] >= 0).all()
    assert not sample["valid"][1, 8].any()
    assert sample["valid"][0, 8].all()


def test_a_hole_in_either_date_has_no_label(tmp_path: Path) -> None:
    mask = blobs(16, 16, 0, classes=2)
    before, after = image_of(mask), image_of(mask)
    before[:, 0], after[:, 1] = 0, 0
    write_tiff(tmp_path / "before" / "a.tif", before)
    write_tiff(tmp_path / "after" / "a.tif", after)
    write_tiff(tmp_path / "masks" / "a.tif", mask[None])
    data = DenseDataset(read(tmp_path, task="change"), contract(write_sensor(tmp_path)))
    sample = data[0]
    assert sample["image"].shape == sample["valid"].shape == (2, 7, 16, 16)
    assert (sample["target"][:2] == IGNORE).all()
    assert (sample["target"][2:] >= 0).all()
    assert not sample["valid"][0, :, 0].any()
    assert sample["valid"][1, :, 0].all()


def test_a_window_over_a_hole_is_no_error(tmp_path: Path) -> None:
    mask = blobs(32, 64, 0, classes=3)
    image = image_of(mask)
    image[:, :, 32:] = 0
    write_tiff(tmp_path / "images" / "a.tif", image)
    write_tiff(tmp_path / "masks" / "a.tif", mask[None])
    data = dataset(tmp_path)
    assert (data[0]["target"] >= 0).all()
    assert (data[1]["target"] == IGNORE).all()
    assert not data[1]["valid"].any()
    assert data[1]["image"].isfinite().all()


def test_masks_of_another_grid_are_found_by_coordinates(tmp_path: Path) -> None:
    mask = blobs(32, 32, 5, classes=3)
    write_tiff(tmp_path / "images" / "a.tif", image_of(mask), res=10.0)
    # The mask covers more ground with larger pixels: blocks of 4 px are 2 of its.
    coarse = np.full((20, 20), 9, np.uint8)
    coarse[2:18, 2:18] = mask[::2, ::2]
    corner = (500_000.0 - 40, 4_000_000.0 + 40)
    write_tiff(tmp_path / "masks" / "a.tif", coarse[None], res=20.0, corner=corner)
    sample = dataset(tmp_path)[0]
    assert (sample["target"].numpy() == mask).all()


def test_chips_with_windows_stay_inside_them(root: Path) -> None:
    dense = read(root)
    chip = replace(dense.samples[0], window=Window(10, 20, 40, 36))
    data = DenseDataset(
        replace(dense, samples=(chip,)), contract(write_sensor(root)), memory_mb=9.0
    )
    total = sum(int((data[i]["target"] >= 0).sum()) for i in range(len(data)))
    assert total == 40 * 36
    for seed in range(10):
        assert mismatches(data.draw(0, generator(seed))) == 0
    for _, window, *_ in data.windows:
        assert window.row >= 10
        assert window.column + window.width <= 56


def test_windows_are_carried_to_the_grid_of_the_models_bands(tmp_path: Path) -> None:
    mask = blobs(24, 24, 1, classes=3)
    folder = tmp_path / "images" / "a"
    for band in BANDS:
        fine = band == "blue"
        numbers = (
            image_of(mask)[:1] if not fine else np.full((1, 48, 48), 900, "uint16")
        )
        write_tiff(folder / f"{band}.tif", numbers, res=5.0 if fine else 10.0)
    write_tiff(tmp_path / "masks" / "a.tif", mask[None], res=10.0)
    dense = read(tmp_path, bands=None)
    sensor = write_sensor(tmp_path)
    coarse = contract(sensor)
    coarse = replace(coarse, bands=tuple(b for b in coarse.bands if b.name != "blue"))
    chip = replace(dense.samples[0], window=Window(16, 8, 32, 16))
    data = DenseDataset(replace(dense, samples=(chip,)), coarse)
    assert data.windows[0][1] == Window(8, 4, 16, 8)
    assert mismatches(data[0]) == 0
    odd = replace(chip, window=Window(15, 8, 32, 16))
    with pytest.raises(ShapeError, match="has no whole pixels in the bands"):
        len(DenseDataset(replace(dense, samples=(odd,)), coarse))


def test_what_cannot_be_read_is_named(root: Path) -> None:
    dense = read(root)
    other = sensor_preprocessing("sentinel-2-l2a", image_size=32)
    with pytest.raises(BandError, match="missing band"):
        DenseDataset(dense, other)[0]
    lacking = replace(dense, codes={0: 0, 1: 1})
    with pytest.raises(DataError, match=r"large.tif holds unknown class codes 2"):
        DenseDataset(lacking, contract(write_sensor(root)))[0]


def test_workers_read_the_same_samples(root: Path) -> None:
    data = dataset(root, augmentation=PLAIN)
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1)
    batches = list(loader)
    together = torch.cat([batch["image"] for batch in batches])
    assert torch.equal(
        together, torch.stack([data[i]["image"] for i in range(len(data))])
    )
