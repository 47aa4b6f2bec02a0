"""What an arena's report says of two starts."""

import json
import math
from pathlib import Path

import pytest

from spectralgpt.reports.arena import (
    interval,
    is_separated,
    ranked,
    unseparated,
    write_arena_report,
    write_study_report,
)


def test_interval_is_students() -> None:
    # Five values of deviation 1: 2.776 / sqrt(5).
    values = [-1.264911, -0.632456, 0.0, 0.632456, 1.264911]
    mean, width = interval(values)
    assert mean == pytest.approx(0)
    assert width == pytest.approx(2.776445 / 5**0.5, rel=1e-4)
    assert math.isnan(interval([0.5])[1])


def test_differences_count_seed_by_seed() -> None:
    # Seeds differ by far more than the starts do, but one is ahead on each.
    one = [[0.2, 0.5, 0.8]]
    two = [[0.21, 0.512, 0.811]]
    assert is_separated(one, two)
    assert is_separated(two, one)
    assert not is_separated(one, [[0.3, 0.4, 0.8]])
    assert not is_separated([[0.3]], [[0.9]])


def test_chance_of_pretraining_counts() -> None:
    one = [[0.50, 0.51, 0.52], [0.60, 0.61, 0.62]]
    two = [[0.57, 0.58, 0.59], [0.63, 0.64, 0.65]]
    assert not is_separated(one, two)
    assert is_separated(one, [[0.67, 0.68, 0.691], [0.63, 0.64, 0.65]])


def test_starts_are_ranked_by_their_means() -> None:
    values = {"a": [[0.1, 0.2]], "b": [[0.9, 0.8]], "c": [[0.85, 0.84]]}
    assert ranked(values) == ["b", "c", "a"]
    assert ("b", "c") in unseparated(values)


def found(**changes: object) -> dict[str, object]:
    values = {"mae": [[0.5, 0.6, 0.7]], "<i>": [[0.1, 0.2, 0.31]]}
    cost = {
        "steps": 10,
        "batch": 8,
        "seconds_per_step": 0.5,
        "gflop_per_step": None,
        "memory_bytes": 2**30,
        "seconds": 5.0,
    }
    return {
        "budget": "processor seconds",
        "amount": 900,
        "pretrain_seeds": [0],
        "seeds": [0, 1, 2],
        "scores": {"scenes": {"ridge, accuracy": values}},
        "curves": {"scenes": {"mae": [[[2.0, 0.4], [5.0, 0.6]]]}},
        "costs": {"mae": cost},
        **changes,
    }


def test_report_and_table_say_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "arena.json").write_text(json.dumps(found()))
    page = write_arena_report(tmp_path).read_text()
    assert "0.600 ± 0.248" in page
    assert "mae is ahead of all others" in page
    assert "&lt;i&gt;" in page
    assert "not counted" in page
    assert "data:image/png" in page
    header, first, *_ = (tmp_path / "arena.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.replace('"', "").split(","), strict=False))
    assert row["task"] == "scenes"
    assert "0.600000" in first


def test_a_study_has_the_same_page(tmp_path: Path) -> None:
    entry = {"values": [0.5, 0.6], "mean": 0.55, "std": 0.07, "class": None}
    study = {"0.1": {"pretrained": {"accuracy": entry}, "random": {"accuracy": entry}}}
    (tmp_path / "study.json").write_text(json.dumps(study))
    page = write_study_report(tmp_path).read_text()
    assert "10% of the labels" in page
    assert "not told apart from random" in page
    assert "processor s" not in page
