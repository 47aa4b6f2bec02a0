"""Floors know the answer where single pixels tell it, and never see what is scored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.data.dense import DenseDataConfig, DenseDataset, read_dense
from spectralgpt.data.samples import SampleSet
from spectralgpt.rasters import Stated
from spectralgpt.tasks import floors
from spectralgpt.tasks.floors import find_floors, map_by_forest
from spectralgpt.training import scoring
from spectralgpt.training.scoring import evaluate_forest
from tests.dense_files import BANDS as SENSOR_BANDS
from tests.dense_files import write_sensor, write_set
from tests.dense_places import dense_places
from tests.tiny import tiny_contract
from tests.toy import BANDS, SENSOR, write_chip

SIDE, PLACES = 24, 10


def write_scenes(root: Path, task: str, seed: int = 0) -> SampleSet:
    """Write places whose index tells the class, and no single band does.

    Water has NDWI 0.4 and land -0.3; what burnt loses 0.6 of NBR, the rest 0.1.
    """
    rng = np.random.default_rng(seed)
    first, second = ("B03", "B08") if task == "segmentation" else ("B08", "B12")
    for number in range(PLACES):
        mask = (rng.random((SIDE, SIDE)) < 0.3).astype(np.uint8)
        dates = {"before": np.full(mask.shape, 0.5), "after": 0.4 - 0.5 * mask}
        if task == "segmentation":
            dates = {"after": np.where(mask, 0.4, -0.3)}
        for date, index in dates.items():
            total = rng.uniform(3000, 6000, mask.shape)
            pixels = {band: rng.uniform(500, 5000, mask.shape) for band in BANDS}
            pixels[first] = total * (1 + index) / 2
            pixels[second] = total * (1 - index) / 2
            whole = {band: values.astype(np.uint16) for band, values in pixels.items()}
            origin = (500_000.0 + 5000 * number, 4_600_000.0)
            image = write_chip(root / date / f"p{number}.tif", whole, origin=origin)
        path = root / "masks" / f"p{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(image) as opened:
            profile = {**opened.profile, "count": 1, "dtype": "uint8", "nodata": None}
        with rasterio.open(path, "w", **profile) as file:
            file.write(mask, 1)
    config = DenseDataConfig(
        root=str(root),
        task=task,  # type: ignore[arg-type]
        images="after",
        offset=0.0,
        classes={"burnt or water": 1, "other": 0},
    )
    return read_dense(config, assumed=Stated(sensor=SENSOR))


@pytest.mark.parametrize(
    ("task", "name", "low", "high"),
    [("segmentation", "NDWI >", -0.3, 0.4), ("change", "dNBR >", 0.1, 0.6)],
)
def test_the_index_of_the_trade_is_found_with_its_threshold(
    tmp_path: Path, task: str, name: str, low: float, high: float
) -> None:
    dense = write_scenes(tmp_path, task)
    train, test = dense.select("train"), dense.select("test")
    forest, index = find_floors(train, test, "burnt or water", seed=0)
    assert index.name.startswith(name)
    assert low < float(index.name.split()[-1]) < high
    assert index.scores["iou"] == index.scores["overall_accuracy"] == 1.0
    assert forest.scores["iou"] > 0.5
    assert forest.learned_from == len(train.samples) * SIDE**2
    assert index.scored_on == len(test.samples) * SIDE**2


def test_thresholds_are_tuned_on_the_training_places_only(tmp_path: Path) -> None:
    dense = write_scenes(tmp_path, "segmentation")
    train, test = dense.select("train"), dense.select("test")
    before = find_floors(train, test, "burnt or water", seed=0)
    for chip in test.samples:
        with rasterio.open(chip.mask.path, "r+") as mask:
            mask.write(1 - mask.read())
    after = find_floors(train, test, "burnt or water", seed=0)
    assert [floor.name for floor in after] == [floor.name for floor in before]
    assert after[1].scores["iou"] == 0.0


def test_without_its_bands_or_its_class_there_is_no_index(tmp_path: Path) -> None:
    dense = write_scenes(tmp_path, "segmentation")
    train, test = dense.select("train"), dense.select("test")
    (forest,) = find_floors(train, test, None, seed=0)
    assert forest.name == "random forest on pixels"

    def visible(part: SampleSet) -> SampleSet:
        chips = [
            replace(
                chip,
                items=tuple(
                    replace(
                        item,
                        files={k: v for k, v in item.files.items() if k < "B04"},
                    )
                    for item in chip.items
                ),
            )
            for chip in part.samples
        ]
        return replace(part, samples=tuple(chips))

    found = find_floors(visible(train), visible(test), "burnt or water", seed=0)
    assert [floor.name for floor in found] == ["random forest on pixels"]


def test_one_class_to_learn_from_gives_no_floor_and_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense = write_scenes(tmp_path, "segmentation")
    train, test = dense.select("train"), dense.select("test")
    for chip in train.samples:
        with rasterio.open(chip.mask.path, "r+") as mask:
            mask.write(np.zeros((1, *mask.shape), np.uint8))
    assert find_floors(train, test, "burnt or water", seed=0) == ()
    assert "show one class at most" in caplog.text


def test_the_best_threshold_is_that_of_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.3
    values = np.round(rng.normal(0, 1, 200) - 0.8 * truth, 1).astype(np.float32)
    values[:5] = np.nan
    chosen = floors._best_index(
        {"noise": rng.random(200).astype(np.float32), "x": values}, truth
    )
    assert chosen is not None
    name, above, threshold = chosen
    assert (name, above) == ("x", False)

    def f1(at: float) -> float:
        said = values < at
        return 2 * (said & truth).sum() / max(said.sum() + truth.sum(), 1)

    assert f1(threshold) == max(f1(at) for at in np.arange(-5, 5, 0.05))


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_a_class_that_single_pixels_show_is_mapped(tmp_path: Path, task: str) -> None:
    dense = dense_places(tmp_path, task)
    train, val, test = (
        DenseDataset(dense.select(split), tiny_contract())
        for split in ("train", "val", "test")
    )
    maps = list(map_by_forest(train, val, test, 0, "damaged"))
    assert all(predicted.shape == target.shape for _, predicted, target in maps)
    scores, _ = scoring._score_places(test.sample_set, "damaged", maps, 0, 20)
    assert scores.summary["iou"] > 0.95


def test_the_seed_decides_the_forest(tmp_path: Path) -> None:
    dense = dense_places(tmp_path, "segmentation")
    train = DenseDataset(dense.select("train"), tiny_contract())
    maps = [
        next(map_by_forest(train, train, train, seed, "damaged"))[1] for seed in (3, 3)
    ]
    assert maps[0].equal(maps[1])


def test_a_sensor_that_only_a_file_describes_will_do(tmp_path: Path) -> None:
    dense = write_set(tmp_path, dict.fromkeys("abcdef", (16, 16)), classes=2)
    config = DenseDataConfig(
        str(dense),
        sensor=write_sensor(tmp_path),
        bands=SENSOR_BANDS,
        classes={"low": 0, "high": 1},
        positive="high",
    )
    scores = evaluate_forest(config, tmp_path / "forest")
    assert scores.summary["iou"] > 0.9
    assert (tmp_path / "forest" / "metrics.json").is_file()
