"""Each mode once, on the tiny model, and what becomes of the result."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import spectralgpt
from spectralgpt.benchmarks import measurement, steps
from spectralgpt.benchmarks.measurement import (
    differing_settings,
    read_result,
    run_benchmark,
)
from spectralgpt.benchmarks.settings import BenchmarkConfig
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.files import write_json
from spectralgpt.training.fit import fit

SCENE = Path(spectralgpt.__file__).parent / "demo_data" / "scene"
TINY = BenchmarkConfig(
    model="tiny", image_size=32, batch_size=2, warmup=1, steps=5, device="cpu"
)
NAMES = {
    "images_per_second",
    "seconds_per_step",
    "model_flops_per_image",
    "peak_matmul_gflops",
    "model_flops_utilization",
    "peak_rss_bytes",
    "memory_bandwidth_gb_s",
    "torch_version",
    "device",
    "threads",
    "spread",
    "parts",
    "machine",
    "package_version",
    "date",
    "git_commit",
    "settings",
}


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "_MATMUL_SIZES", (128,))
    monkeypatch.setattr(measurement, "_COPIED_BYTES", 2**20)
    monkeypatch.setattr(measurement, "PROBE_SIZE", 128)


def test_the_probe_is_not_part_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, clock = measurement.measure_products, time.perf_counter
    hours = 0

    def slow(*args: Any) -> list[dict[str, Any]]:
        nonlocal hours
        hours += 1
        return measured(*args)

    monkeypatch.setattr(measurement, "measure_products", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * hours)
    for mode in ("pretrain", "inference"):
        result = run_benchmark(replace(TINY, mode=mode))
        assert max(result["step_seconds"]) < 3600
        assert sum(result["parts"].values()) < 3600
    assert hours > 2 * TINY.steps


@pytest.mark.parametrize(
    ("mode", "parts"),
    [
        ("pretrain", {"data", "embedding", "encoder", "decoder", "loss", "optimizer"}),
        ("finetune", {"data", "embedding", "encoder", "head", "loss", "optimizer"}),
        ("inference", {"embedding", "encoder"}),
    ],
)
def test_a_mode_gives_figures_that_agree(mode: Any, parts: set[str]) -> None:
    done: list[int] = []
    result = run_benchmark(replace(TINY, mode=mode), done.append)
    assert result.keys() >= NAMES
    assert len(result["step_seconds"]) == 5
    assert done == list(range(1, steps.total_steps(TINY) + 1))
    spread = result["spread"]
    assert (
        spread["lower_quartile"]
        <= result["seconds_per_step"]
        <= spread["upper_quartile"]
    )
    assert result["images_per_second"] == pytest.approx(2 / result["seconds_per_step"])
    share = result["model_flops_per_image"] * result["images_per_second"]
    assert result["model_flops_utilization"] == pytest.approx(
        share / result["peak_matmul_gflops"] / 1e9
    )
    assert len(result["probe_gflops"]) == TINY.steps
    assert min(result["probe_gflops"]) > 0
    assert set(result["parts"]) == parts
    assert all(seconds > 0 for seconds in result["parts"].values())
    assert result["peak_rss_bytes"] > 50e6
    json.dumps(result, allow_nan=False)


def test_pretraining_runs_through_the_loop_of_pretrain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def watched(module: Any, train: Any, held_out: Any, config: Any, *rest: Any,
                **more: Any) -> Any:  # fmt: skip
        seen.update(batch=next(iter(train)), config=config)
        made = fit(module, train, held_out, config, *rest, **more)
        seen.update(steps=made.global_step, rows=module.last_terms)
        return made

    monkeypatch.setattr(steps, "fit", watched)
    run_benchmark(replace(TINY, precision="fp32"))
    assert seen["steps"] == steps.total_steps(TINY)
    assert seen["config"].precision == "fp32"
    assert set(seen["rows"]) == {"loss", "token_loss", "spectral_loss"}
    images = seen["batch"]["images"]
    assert images.shape == (2, 12, 32, 32)
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("mode", ["data", "pretrain"])
def test_a_data_set_is_read_from_disk(mode: Any) -> None:
    config = replace(TINY, mode=mode, data=SCENE, exclude_bands=("B10",))
    result = run_benchmark(config)
    assert result["images_per_second"] > 0
    assert result["settings"]["data"] == str(SCENE)
    if mode == "data":
        assert result["probe_gflops"] == []
        assert result["model_flops_per_image"] is None
        assert result["model_flops_utilization"] is None
    else:
        assert result["parts"]["data"] > 0


def test_threads_are_set_and_put_back() -> None:
    before = torch.get_num_threads()
    result = run_benchmark(replace(TINY, mode="inference", threads=before + 1))
    assert result["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ConfigError, match="no multiple of patch_size"):
        run_benchmark(replace(TINY, image_size=30))


def test_results_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    result = {"images_per_second": 2.0, "seconds_per_step": 1.0, "settings": {"x": 1}}
    write_json(path, result)
    assert read_result(path) == result
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "cannot be read as JSON"),
        ("[1]", "missing or wrong: images_per_second"),
        ('{"images_per_second": 1}', "seconds_per_step, settings"),
        (
            '{"images_per_second": "1", "seconds_per_step": 1, "settings": {}}',
            "values",
        ),
    ],
)
def test_other_files_are_no_results(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_result(path)


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        read_result(tmp_path / "a.json")


def test_settings_and_machines_are_compared() -> None:
    one = {"settings": {"model": "tiny", "steps": 5}, "machine": {"cpu": "A"}}
    two = {"settings": {"model": "base", "steps": 5}, "machine": {"cpu": "B"}}
    assert differing_settings(one, two) == {
        "model": ("tiny", "base"),
        "cpu": ("A", "B"),
    }


def test_the_median_is_not_moved_by_one_slow_step() -> None:
    from spectralgpt.benchmarks.steps import Measured

    speed = measurement._speed(TINY, Measured(seconds=[1.0, 1.0, 1.0, 1.0, 60.0]))
    assert speed["images_per_second"] == 2.0
