"""The descriptions in examples/dense on the real samples that they describe."""

from pathlib import Path

import pytest
import yaml

from spectralgpt.data.dense import (
    DenseDataset,
    count_classes,
    read_dense,
    read_dense_config,
)
from spectralgpt.data.samples import SampleSet
from spectralgpt.data.statistics import sample_statistics
from spectralgpt.preprocessing import Preprocessing

# EnMAP bands in the water vapour's window, which these tiles hold no pixel of.
DEAD = ("B130", "B131", "B132", "B133", "B134", "B135")
EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "dense"


def read(shared: Path, name: str, **options: object) -> SampleSet:
    from dataclasses import replace

    path = EXAMPLES / f"{name}.yaml"
    folder = yaml.safe_load(path.read_text(encoding="utf-8"))["root"]
    config = read_dense_config(path, str(shared / "data" / folder))
    return read_dense(replace(config, **options))  # type: ignore[arg-type]


def contract(dense: SampleSet, image_size: int) -> Preprocessing:
    bands = tuple(b for b in dense.samples[0].item.bands if b.name not in DEAD)
    statistics = sample_statistics(dense.select("train"), bands, num_windows=20)
    sensor = dense.samples[0].item.sensor.name
    return Preprocessing(
        sensor, bands, "z-score", statistics, image_size, bands_per_token=1
    )


def labelled(dense: SampleSet) -> int:
    return sum(sum(counts.values()) for counts in count_classes(dense).values())


@pytest.mark.slow
def test_barkbeetle_keeps_its_160_and_40_places(shared: Path) -> None:
    segmentation = read(shared, "barkbeetle_segmentation")
    change = read(shared, "barkbeetle_change")
    for dense in (segmentation, change):
        assert len(dense.select("test").places) == 40
        kept = dense.select("train").places + dense.select("val").places
        assert len(set(kept)) == 160
        assert not set(kept) & set(dense.select("test").places)
    counts = count_classes(segmentation)
    damaged = sum(values["damaged"] for values in counts.values())
    # Source: SOURCE.md of the set: 14.6 % of 1.21 Mpx.
    assert damaged / labelled(segmentation) == pytest.approx(0.146, abs=0.002)
    assert count_classes(change) == counts
    before, after = change.samples[0].items
    assert "2019" in before.name
    assert "2020" in after.name
    tenth = read(shared, "barkbeetle_segmentation", train_fraction=0.1)
    assert len(tenth.select("train").places) == 13
    assert tenth.select("test").samples == segmentation.select("test").samples


@pytest.mark.slow
def test_barkbeetle_samples_are_reflectance_with_masks(shared: Path) -> None:
    dense = read(shared, "barkbeetle_change", train_fraction=0.1)
    data = DenseDataset(dense.select("train"), contract(dense, 64), memory_mb=64)
    total = 0
    for index in range(len(data)):
        sample = data[index]
        assert sample["image"].shape == (2, 12, 64, 64)
        assert sample["image"].isfinite().all()
        total += int((sample["target"] >= 0).sum())
    counted = sum(count_classes(dense.select("train"))["train"].values())
    # Pixels of 2019 without any measurement are not scored.
    assert 0.9 * counted < total <= counted


def test_each_enmap_tile_is_test_once(shared: Path) -> None:
    dense = read(shared, "enmap_potsdam", fold=7)
    assert len(dense.select("test").places) == 1
    assert len(dense.select("train").places) == 16
    # Source: SOURCE.md of the set: 12,760 of 18,432 px are unlabelled.
    assert labelled(dense) == 18_432 - 12_760
    data = DenseDataset(dense.select("test"), contract(dense, 128))
    assert data[0]["image"].shape == (218, 32, 32)


def test_landsat_pairs_have_their_sparse_labels(shared: Path) -> None:
    dense = read(shared, "landsat_change")
    # Source: SOURCE.md of the set.
    assert labelled(dense) == 4_227 + 17_163 + 2_363 + 12_393
    names = [
        tuple(Path(item.name).name for item in chip.items) for chip in dense.samples
    ]
    assert ("2000TM", "2003TM") in names
    data = DenseDataset(dense.select("train"), contract(dense, 80))
    sample = data[0]
    assert sample["image"].shape == (2, 6, 80, 80)
    assert sample["valid"].float().mean() > 0.99


@pytest.mark.parametrize(
    ("name", "bands"),
    [("terramesh_l2a", 12), ("sen1floods11", 13), ("ravaen_worldfloods", 13)],
)
def test_other_samples_load(shared: Path, name: str, bands: int) -> None:
    dense = read(shared, name)
    assert {chip.split for chip in dense.samples} == {"train", "val", "test"}
    data = DenseDataset(dense.select("val"), contract(dense, 64))
    sample = data[0]
    assert sample["image"].shape[0] == bands
    assert sample["image"].isfinite().all()


def test_every_description_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    names = {path.stem for path in EXAMPLES.glob("*.yaml")} - {"landsat_tm_etm"}
    assert all(f'"{name}"' in text for name in names)
