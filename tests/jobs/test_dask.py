"""Jobs on a Dask cluster of this machine."""

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectralgpt.errors import ConfigError
from spectralgpt.jobs.kinds import Plan
from spectralgpt.jobs.running import Engine, JobOutcome, on_dask, run_job
from tests.job_kinds import NotingJob, count_notes, of_one_date, write_scenes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
        # Of the engine's own sockets and processes, as it closes.
        warnings.simplefilter("ignore", ResourceWarning)
        with on_dask(2, None) as made:
            yield made


def run(
    engine: Engine, folder: Path, texts: dict[str, str], retries: int
) -> tuple[JobOutcome, Counter[str], list[float]]:
    scenes = write_scenes(folder / "in", texts)
    (folder / "notes").touch()
    job: Any = NotingJob(str(folder / "notes"), 0.1)
    plan, seen = Plan.of(job, folder / "out"), [0.0]
    outcome = run_job(
        plan,
        of_one_date(scenes),
        retries=retries,
        pause_s=0,
        engine=engine,
        progress=seen.append,
    )
    return outcome, count_notes(folder / "notes"), seen


@pytest.mark.slow
def test_a_cluster_does_each_scene_once_in_several_processes(
    engine: Engine, tmp_path: Path
) -> None:
    texts = {f"good_{i}": "good" for i in range(6)} | {"bad": "bad", "flaky": "flaky 1"}
    outcome, notes, seen = run(engine, tmp_path, texts, retries=1)
    assert outcome.counts["done"] == 7
    assert [record.error for record in outcome.failures] == [
        f"{tmp_path}/in/bad.tif is no good."
    ]
    assert sum(seen) == len(texts)
    assert [notes[f"begin good_{i}"] for i in range(6)] == [1] * 6
    assert (notes["begin flaky"], notes["end flaky"]) == (2, 1)
    lines = (tmp_path / "out/manifest.jsonl").read_text().splitlines()
    assert len({row["host"] for row in map(json.loads, lines)}) == 2


@pytest.mark.slow
def test_a_scene_that_kills_its_process_fails_alone(
    engine: Engine, tmp_path: Path
) -> None:
    texts = {"deadly": "deadly"} | {f"good_{i}": "good" for i in range(4)}
    outcome, notes, _ = run(engine, tmp_path, texts, retries=0)
    assert outcome.counts["done"] == 4
    assert [(record.id, record.error) for record in outcome.failures] == [
        ("deadly", "its process died, which lack of memory may cause.")
    ]
    assert notes["begin deadly"] == 1
    assert [notes[f"end good_{i}"] for i in range(4)] == [1] * 4


def test_a_scheduler_that_is_not_there_is_one_error() -> None:
    pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(ConfigError, match="no Dask scheduler at tcp"),
        on_dask(0, "tcp://127.0.0.1:9"),
    ):
        pass


def test_without_dask_one_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    told = pytest.raises(ConfigError, match=r"pip install 'spectralgpt\[dask\]'")
    with told, on_dask(2, None):
        pass
