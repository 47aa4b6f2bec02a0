"""The floor that a network must beat is itself no straw man."""

from pathlib import Path

import pytest

from spectralgpt.data.dense import DenseDataConfig, DenseDataset
from spectralgpt.tasks.pixel_forest import fit_pixel_forest, map_pixels
from spectralgpt.training.dense_scoring import PlaceCounts, evaluate_forest
from tests.dense_files import BANDS, write_sensor, write_set
from tests.dense_places import dense_places
from tests.tiny import tiny_contract


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_a_class_that_single_pixels_show_is_mapped(tmp_path: Path, task: str) -> None:
    dense = dense_places(tmp_path, task)
    train, val, test = (
        DenseDataset(dense.select(split), tiny_contract())
        for split in ("train", "val", "test")
    )
    forest = fit_pixel_forest(train, val, 0, "damaged")
    counts = PlaceCounts(test.dense, "damaged")
    for chip, predicted, target in map_pixels(forest, test):
        assert predicted.shape == target.shape
        counts.add(chip, predicted, target)
    assert counts.scores(seed=0, resamples=20).scores.summary["iou"] > 0.95


def test_the_seed_decides_the_forest(tmp_path: Path) -> None:
    dense = dense_places(tmp_path, "segmentation")
    train = DenseDataset(dense.select("train"), tiny_contract())
    maps = [
        next(map_pixels(fit_pixel_forest(train, train, seed, "damaged"), train))[1]
        for seed in (3, 3)
    ]
    assert maps[0].equal(maps[1])


def test_a_sensor_that_only_a_file_describes_will_do(tmp_path: Path) -> None:
    dense = write_set(tmp_path, dict.fromkeys("abcdef", (16, 16)), classes=2)
    config = DenseDataConfig(
        str(dense),
        sensor=write_sensor(tmp_path),
        bands=BANDS,
        classes={"low": 0, "high": 1},
        positive="high",
    )
    scores = evaluate_forest(config, tmp_path / "forest")
    assert scores.summary["iou"] > 0.9
    assert (tmp_path / "forest" / "metrics.json").is_file()
