"""The shipped recipes fit their configuration classes and the sensors they name."""

from dataclasses import replace
from pathlib import Path

import pytest

from spectralgpt.config import build_config, read_config, read_mapping
from spectralgpt.data.crops import check_token_budget
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.sources import list_images, read_source
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.recipes import find_recipe, list_recipes
from spectralgpt.sensors import load_sensor
from spectralgpt.training.finetuning import (
    DenseFinetuneConfig,
    RegressionFinetuneConfig,
)
from spectralgpt.training.pretrain_config import PretrainConfig, datasets_of, stages_of
from tests.dense_files import write_oscd, write_segmunich

EXAMPLES = Path(__file__).parent.parent / "examples"
TEN_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
PRETRAINING = [name for name in list_recipes() if name.startswith(("pretrain", "demo"))]
BANDS = {
    "sentinel-2-l1c": 12,
    "sentinel-2-l2a": 12,
    "landsat-8-9-l2": 7,
    "gaofen-2-pms": 4,
    "enmap-l2a": 224,
}


def stages(name: str) -> list[PretrainConfig]:
    config = read_config(find_recipe(name), PretrainConfig)
    return [*stages_of(config).values()] or [config]


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_recipe_names_the_bands_of_its_sensors(name: str) -> None:
    for config in stages(name):
        for _, data, _ in datasets_of(config.data):
            contract = sensor_preprocessing(
                data.sensor, data.use_bands, data.exclude_bands
            )
            # SatMAE leaves out the bands of the atmosphere.
            wanted = 10 if config.objective == "satmae" else BANDS[data.sensor]
            assert len(contract.bands) == wanted
            assert contract.sensor == "enmap-l2a" or "B10" not in contract.band_names
            contract = replace(contract, image_size=data.image_size)
            check_token_budget(data.token_budget, contract)
        assert config.optimizer.warmup_epochs < config.trainer.epochs


def test_progressive_recipe_is_the_two_single_ones_in_turn() -> None:
    names = ("pretrain_base_96", "pretrain_base_128")
    for stage, name in zip(stages("pretrain_progressive"), names, strict=True):
        (single,) = stages(name)
        for part in ("model", "masking", "optimizer", "trainer"):
            assert getattr(stage, part) == getattr(single, part)
        for part in ("sensor", "exclude_bands", "image_size", "scaling", "crops"):
            assert getattr(stage.data, part) == getattr(single.data, part)


def test_sensors_recipe_adds_one_sensor_a_stage() -> None:
    sensors = [
        [data.sensor for _, data, _ in datasets_of(config.data)]
        for config in stages("pretrain_sensors")
    ]
    assert [len(found) for found in sensors] == [1, 2, 3, 4]
    assert sensors[-1][0] == "enmap-l2a"


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_recipes_of_maps_are_the_best_that_is_known(task: str) -> None:
    values = dict(read_mapping(find_recipe(f"finetune_{task}")))
    data = {"root": "x", "task": task}
    config = build_config(
        {**values, "model": "x", "data": data}, DenseFinetuneConfig, "test"
    )
    assert (config.scaling, config.loss.dice_weight) == ("z-score", 1.0)
    assert config.pixel_detail
    assert config.test_flips
    assert config.samples_per_epoch is not None
    steps = config.samples_per_epoch // config.trainer.batch_size
    assert steps * config.trainer.epochs == 300
    rate = config.optimizer.base_lr * config.trainer.batch_size / 256
    assert rate == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("name", "rate", "warmup", "epochs"),
    [("segmunich", 64, 15, 250), ("oscd", 32, 0, 300)],
)
def test_published_recipes_of_maps(
    name: str, rate: int, warmup: int, epochs: int, tmp_path: Path
) -> None:
    """Source: the published training scripts (downstream_tasks), as read."""
    write = {"segmunich": write_segmunich, "oscd": write_oscd}[name]
    values = dict(read_mapping(find_recipe(name)))
    values["data"] |= {"root": str(write(tmp_path / name))}
    values["data"] |= {"bands": list(TEN_BANDS)} if name == "segmunich" else {}
    config = build_config({**values, "model": "x"}, DenseFinetuneConfig, "test")
    trainer, optimizer = config.trainer, config.optimizer
    assert trainer.effective_batch == rate
    assert optimizer.rate(rate) == pytest.approx(1e-4)
    assert (optimizer.weight_decay, optimizer.layer_decay) == (1e-5, None)
    assert (optimizer.warmup_epochs, trainer.epochs) == (warmup, epochs)
    assert (config.head, config.head_dropout, config.drop_path) == ("upernet", 0.5, 0.5)
    dense = read_dense(config.data)
    assert dense.select("train").samples
    assert len(dense.class_names) == {"segmunich": 13, "oscd": 2}[name]


def test_the_images_of_the_paper_are_those_of_its_list(tmp_path: Path) -> None:
    names = [f"S2A_MSIL2A_20170613T101031_{row}_4" for row in range(3)]
    for name in names:
        (tmp_path / "BigEarthNet-v1.0" / name).mkdir(parents=True)
        for band in load_sensor("sentinel-2-l2a").band_names:
            path = tmp_path / "BigEarthNet-v1.0" / name / f"{name}_{band}.tif"
            path.write_bytes(b"")
    listed = "\n".join((names[2], names[0], "S2B_MSIL2A_20170613T101031_9_9"))
    (tmp_path / "bigearthnet-train.txt").write_text(listed, encoding="utf-8")
    source = read_source(str(EXAMPLES / "bigearthnet_paper.yaml"))
    found = list_images(source, tmp_path)
    assert [Path(entry.name).name for entry in found] == [names[0], names[2]]


def test_numbers_are_learned_as_classes_are() -> None:
    ours, theirs = (
        dict(read_mapping(find_recipe(f"finetune_{task}")))
        for task in ("regression", "segmentation")
    )
    data = {"root": "x", "task": "regression", "target": {"name": "x", "unit": "m"}}
    config = build_config(
        {**ours, "model": "x", "data": data}, RegressionFinetuneConfig, "test"
    )
    assert config.loss == "mse"
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name != "loss")


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_says_what_it_is(name: str) -> None:
    assert len(list_recipes()[name]) > 20


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'pretrain_tiny'"):
        find_recipe("pretrain_tinny")
