"""Pretraining on equal budgets, scored by the same tasks."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectralgpt.config import build_config, read_config
from spectralgpt.errors import ConfigError, SpectralGPTError, TrainingError
from spectralgpt.recipes import find_recipe
from spectralgpt.training import arena, trials
from spectralgpt.training.arena import ArenaConfig, run_arena
from spectralgpt.training.pretrain_data import plain_contract
from spectralgpt.training.probing import Prober
from spectralgpt.training.trials import Cost
from tests.toy import SENSOR, write_archive

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    root = write_archive(tmp_path / "toy", per_class=8, size=16)
    images = {"root": str(root), "sensor": SENSOR, "exclude_bands": ["B10"]}
    images["offset"] = 0
    labelled = {"root": str(root), "offset": 0}
    # A process of its own takes longer than all the rest.
    cost = Cost(0.5, 90.0, 2**30)
    monkeypatch.setattr(arena, "measure_cost", lambda plan, seconds: cost)
    return {
        "images": 32,
        "seeds": [0, 1],
        "pretrain": {
            "model": {"size": "tiny", "depth": 1, "decoder_depth": 1},
            "data": {**images, "image_size": 16},
            "optimizer": {"warmup_epochs": 0.5},
            "trainer": {"epochs": 2, "batch_size": 4, "workers": 0},
            "report": {"images": 0},
        },
        "starts": {"ours": {}, "mae": {"objective": "mae", "budget": 0.5}},
        "tasks": {"toy": {"data": labelled, "methods": ["ridge"]}},
    }


def build(config: dict[str, Any]) -> ArenaConfig:
    return build_config(config, ArenaConfig, "test")


def test_all_is_pretrained_and_scored_once(
    config: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []
    out = run_arena(build(config), tmp_path / "out", said.append)
    assert [line for line in said if "pretraining" in line] == [
        "pretraining 1 of 2, about 0:18:00 left: ours, seed 0",
        "pretraining 2 of 2, about 0:06:00 left: mae, seed 0",
    ]
    found = json.loads((out / "arena.json").read_text())
    assert {name: cost["steps"] for name, cost in found["costs"].items()} == {
        "ours": 8,
        "mae": 4,
    }
    scores = found["scores"]["toy"]["ridge, accuracy"]
    assert {"ours", "random ours", "mae", "random mae"} <= scores.keys()
    assert {"band statistics", "random forest"} <= scores.keys()
    assert all(len(values[0]) == 2 for values in scores.values())
    (curve,) = found["curves"]["toy"]["ours"]
    assert [images for images, _ in curve] == [16, 32]
    assert "mae" in (out / "report.html").read_text()
    said.clear()
    run_arena(build(config), out, said.append)
    assert said == []
    changed = {**config, "images": 64}
    with pytest.raises(ConfigError, match="images 32 \\(now 64\\)"):
        run_arena(build(changed), out)


def test_seeds_say_which_splits_are_drawn(config: dict[str, Any]) -> None:
    plan = arena._plan(build(config), "ours")
    contract = plain_contract(plan, plan.data)
    task = arena._task_of(build(config), "toy")
    assert task is not None
    both, second = (
        Prober(task, seeds).list_images(contract)[1] for seeds in ((0, 1), (1,))
    )
    assert all((both[1][name] == second[0][name]).all() for name in both[1])
    assert any(both[0][name].tolist() != both[1][name].tolist() for name in both[0])


def test_a_start_goes_on_from_another(config: dict[str, Any], tmp_path: Path) -> None:
    first = {"objective": "mae", "budget": 0.5}
    starts = {
        "first": {**first, "scored": False},
        "second": {**first, "after": "first"},
    }
    said: list[str] = []
    whole = build({**config, "starts": starts, "floors": False})
    out = run_arena(whole, tmp_path / "o", said.append)
    # The second one, which cannot be tried yet, is taken to be as fast as the first.
    assert "pretraining 1 of 2, about 0:12:00 left: first, seed 0" in said
    assert "pretraining 2 of 2, about 0:06:00 left: second, seed 0" in said
    begun = yaml.safe_load((out / "models/second/seed-0/config.yaml").read_text())
    assert begun["model"]["start_from"] == str(out / "models/first/seed-0")
    found = json.loads((out / "arena.json").read_text())
    assert found["scores"]["toy"]["ridge, accuracy"].keys() == {"second"}
    # What the first one saw counts, too.
    (curve,) = found["curves"]["toy"]["second"]
    assert [images for images, _ in curve] == [24, 32]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "either seconds or images"),
        ({"seconds": 5.0}, "either seconds or images"),
        ({"starts": {"a b": {}}}, "names a folder"),
        ({"starts": {"a": {"budget": 0}}}, "start a: budget is 0"),
        ({"starts": {"a": {"after": "b"}, "b": {}}}, "no start before it"),
        ({"starts": {"a": {"scored": False}}}, "no start is scored"),
        ({"starts": {"a": {"objective": "moe"}}}, "objective 'moe' is unknown"),
        ({"starts": {"a": {"stages": [{"name": "x"}]}}}, "each is one stage"),
        (
            {"starts": {"a": {"objective": "mae"}, "b": {"after": "a"}}},
            "start b: objective spectralgpt starts from weights of spectralgpt, not of",
        ),
        ({"tasks": {"toy": {"methods": ["ridge"]}}}, "data"),
        ({"tasks": {}}, "needs starts, tasks"),
        ({"tasks": {"toy": {"data": {"root": "nowhere"}}}}, "nowhere"),
        (
            {
                "images": None,
                "seconds": 9,
                "starts": {"a": {"trainer": {"workers": 2}}},
            },
            "workers is 2",
        ),
        ({"images": 4}, "pays 1 steps"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(
    config: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpectralGPTError, match=message):
        run_arena(build({**config, **changes}), tmp_path / "out")
    assert not list((tmp_path / "out").glob("models/*/seed-0/config.yaml"))


@pytest.mark.parametrize(
    "path", [find_recipe("ablations"), *EXAMPLES.glob("arena_*.yaml")]
)
def test_what_ships_can_be_planned(path: Path) -> None:
    config = read_config(path, ArenaConfig)
    for start in config.starts:
        assert arena._plan(config, start).trainer.epochs == 4
    assert yaml.safe_load(path.read_text())["tasks"]


def _killed(plan: object, folder: Path, threads: int, seconds: float) -> None:
    os._exit(9)


@pytest.mark.slow
def test_a_trial_that_is_killed_is_named(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_measure", _killed)
    with pytest.raises(TrainingError, match="trial of objective spectralgpt"):
        trials.measure_cost(arena._plan(build(config), "ours"))


@pytest.mark.slow
def test_a_step_of_several_micro_batches_costs_them_all(config: dict[str, Any]) -> None:
    whole, parts = (
        arena._plan(
            build(
                {
                    **config,
                    "starts": {
                        "a": {"trainer": {"batch_size": size, "accumulate": 16 // size}}
                    },
                }
            ),
            "a",
        )
        for size in (16, 2)
    )
    one, two = trials.measure_cost(whole), trials.measure_cost(parts)
    assert one.seconds / 2 < two.seconds < 8 * one.seconds


@pytest.mark.slow
def test_a_trial_takes_as_long_as_it_is_told(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = arena._plan(build(config), "ours")
    # A trial has no scores to wait for.
    waits = replace(plan.trainer, patience=1, save_top_k=1)
    plan = replace(plan, trainer=waits)
    short = trials._Trial(0.0, 24)
    long = trials._Trial(3.0, 24)
    both = iter((short, long))
    monkeypatch.setattr(trials, "_Trial", lambda *least: next(both))
    for number in range(2):
        trials._measure(plan, tmp_path / f"trial-{number}", 1, 0.0)
    assert len(short.ends) == 24
    assert 3.0 <= long.seconds < 4.5


def test_flop_are_counted_without_computing() -> None:
    config = read_config(EXAMPLES / "arena_simulated.yaml", ArenaConfig)
    plans = {start: arena._plan(config, start) for start in config.starts}
    counts = {start: trials._count_gflop(plan) for start, plan in plans.items()}
    # BEiT counts none without the tokeniser that it goes on from.
    assert {start for start, count in counts.items() if count is None} <= {
        "tokenizer",
        "beit",
    }
    # All bands in a token: a quarter of the tokens of four groups.
    assert counts["mae"] < 0.5 * counts["satmae"]  # type: ignore[operator]
