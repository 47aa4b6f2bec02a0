from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectralgpt.config import build_config
from spectralgpt.errors import ConfigError
from spectralgpt.training.pretrain_config import (
    DataConfig,
    MaskingConfig,
    PretrainConfig,
    datasets_of,
    stages_of,
)


def run(*stages: dict[str, Any], **top: Any) -> PretrainConfig:
    values = {"data": {"root": "/data", "image_size": 96}, "stages": stages, **top}
    return build_config(values, PretrainConfig, "test")


def test_stage_takes_what_it_does_not_say_from_the_run() -> None:
    stages = stages_of(
        run(
            {"name": "a", "data": {"root": "fmow", "crops": {"scale_min": 0.5}}},
            {"name": "b", "data": {"root": "/other"}, "masking": {"ratio": 0.5}},
            masking={"ratio": 0.75, "style": "tube"},
            trainer={"epochs": 30},
        )
    )
    assert list(stages) == ["a", "b"]
    one, two = stages.values()
    assert one.data.root == Path("/data/fmow")
    assert one.data.image_size == 96
    assert one.data.crops.scale_min == 0.5
    assert one.data.crops.val_share == 0.1
    assert (one.masking.ratio, one.masking.style) == (0.75, "tube")
    assert two.data.root == Path("/other")
    assert (two.masking.ratio, two.masking.style) == (0.5, "tube")
    assert two.trainer.epochs == 30
    assert not two.stages


def test_stage_that_says_its_length_replaces_the_run_s() -> None:
    stages = stages_of(
        run(
            {"name": "a", "steps": 100},
            {"name": "b", "data": {"samples_per_epoch": 64}},
            data={"root": "/data", "samples_per_epoch": 512},
            trainer={"epochs": 4},
        )
    )
    by_steps, by_samples = stages.values()
    assert by_steps.steps == 100
    assert by_steps.data.samples_per_epoch is None
    assert by_samples.data.samples_per_epoch == 64


def test_data_set_takes_what_it_does_not_say_from_data() -> None:
    data = DataConfig(
        root=Path("/data"),
        image_size=64,
        mixture=(
            {"name": "s2", "weight": 2, "root": "s2", "exclude_bands": ["B10"]},
            {"name": "enmap", "sensor": "enmap-l2a", "token_budget": 512},
        ),
    )
    (name, one, weight), (_, two, usual) = datasets_of(data)
    assert (name, weight, one.root) == ("s2", 2, Path("/data/s2"))
    assert one.exclude_bands == ("B10",)
    assert (usual, two.token_budget, two.image_size) == (1, 512, 64)
    assert two.root == Path("/data")
    assert not two.mixture


def test_one_data_set_needs_no_mixture() -> None:
    data = DataConfig(root=Path("/data/fmow"))
    (only,) = datasets_of(data)
    assert only[:2] == ("fmow", data)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"data": {}}], "stages, entry 1: key 'name' is missing"),
        ([{"name": "../a"}], r"entry 1: name is '\.\./a'; use letters"),
        ([{"name": "a"}, {"name": "a"}], "stages: the name 'a' is there twice"),
        (
            [{"name": "a", "objective": "mae"}, {"name": "b", "objective": "beit"}],
            "stage 'b': objective beit starts from weights of beit or tokenizer, not",
        ),
        ([{"name": "a", "dat": {}}], "unknown key 'dat'; did you mean 'data'"),
        (
            [{"name": "a", "data": {"imge_size": 96}}],
            "stage 'a', data: unknown key 'imge_size'; did you mean 'image_size'",
        ),
        (
            [{"name": "a", "data": {"image_size": "big"}}],
            "stage 'a', data: 'image_size' must be a whole number, found 'big'",
        ),
        ([{"name": "a", "masking": 3}], "'masking' must be keys with values, found 3"),
        ([{"name": "a", "masking": {"ratio": 1.5}}], "masking.ratio is 1.5"),
        ([{"name": "a", "model": {"size": "base"}}], "unknown key 'model'"),
        (
            [{"name": "a", "trainer": {"devices": 2}}],
            r"stage 'a': trainer\.devices holds for all stages",
        ),
        ([{"name": "a", "steps": 7, "trainer": {"epochs": 2}}], "steps is 7"),
        (["a"], "entry 1: expected keys with values, found 'a'"),
        (
            [{"name": "a", "data": {"mixture": [{"name": "x", "weight": 0}]}}],
            r"data\.mixture, entry 1 \(x\): weight is 0; use above 0",
        ),
        (
            [{"name": "a", "data": {"mixture": [{"name": "x", "weight": "2"}]}}],
            "weight is '2'; use above 0",
        ),
        (
            [{"name": "a", "data": {"mixture": [{"name": "x"}, {"name": "x"}]}}],
            r"stage 'a', data\.mixture: the name 'x' is there twice",
        ),
        (
            [{"name": "a", "data": {"mixture": [{"name": "x", "mixture": []}]}}],
            "unknown key 'mixture'",
        ),
    ],
)  # fmt: skip
def test_wrong_stage_is_refused_by_name(stages: list[Any], message: str) -> None:
    config = replace(run(), stages=tuple(stages))
    with pytest.raises(ConfigError, match=message):
        stages_of(config)


def test_stage_without_data_is_refused() -> None:
    config = PretrainConfig(stages=({"name": "a"},))
    with pytest.raises(ConfigError, match=r"stage 'a' has no data\. Name data\.root"):
        stages_of(config)


def test_two_lengths_of_an_epoch_are_refused() -> None:
    values = {"steps": 200, "data": {"samples_per_epoch": 64}}
    with pytest.raises(ConfigError, match="both say how long an epoch is"):
        build_config(values, PretrainConfig, "test")


def test_numbers_that_yaml_takes_for_text_are_read() -> None:
    found = build_config({"optimizer": {"base_lr": "1e-4"}}, PretrainConfig, "test")
    assert found.optimizer.base_lr == 1e-4


def test_a_share_to_hide_is_refused_where_nothing_is_hidden() -> None:
    with pytest.raises(
        ConfigError, match=r"objective simclr does not have masking\.ratio"
    ):
        PretrainConfig(objective="simclr", masking=MaskingConfig(0.5))
    assert PretrainConfig(objective="simclr").masking.ratio == 0
    assert PretrainConfig(objective="st-mae").masking.ratio == 0.9
