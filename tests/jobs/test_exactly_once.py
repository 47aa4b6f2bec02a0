"""Every scene is done once: runs that are killed, and several at a time."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.job_kinds import count_notes, write_scenes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from spectralgpt.jobs.kinds import Plan
from spectralgpt.jobs.running import run_job
from tests.job_kinds import NotingJob, of_one_date

folder, delay = Path(sys.argv[1]), float(sys.argv[2])
scenes = of_one_date(sorted((folder / "in").iterdir()))
plan = Plan.of(NotingJob(str(folder / "notes"), delay), folder / "out")
if __name__ == "__main__":
    if len(sys.argv) > 3:
        from spectralgpt.jobs.running import on_dask
        with on_dask(2, None) as engine:
            outcome = run_job(plan, scenes, pause_s=0.1, engine=engine)
    else:
        outcome = run_job(plan, scenes, pause_s=0.1)
    print(outcome.counts["done"])
    sys.exit(len(outcome.failures))
"""
NAMES = [f"scene_{number:02d}" for number in range(10)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "in", dict.fromkeys(NAMES, "good"))
    (tmp_path / "notes").touch()
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def start(folder: Path, delay: float, *more: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py"), str(folder), str(delay), *more],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(folder: Path, begun: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while sum(count_notes(folder / "notes").values()) < begun:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def statuses(folder: Path) -> dict[str, str]:
    lines = (folder / "out/manifest.jsonl").read_text().splitlines()
    return {row["id"]: row["status"] for row in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_runs_go_on_and_complete_each_scene_once(
    folder: Path, seed: int
) -> None:
    generator = random.Random(seed)
    kills = 0
    while kills < 3:
        process = start(folder, 0.2)
        done = sum(count_notes(folder / "notes").values())
        wait_for(folder, done + generator.randint(1, 5), process)
        time.sleep(generator.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    process = start(folder, 0.0)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    notes = count_notes(folder / "notes")
    # A kill between the work's end and its record would do that one scene again.
    assert sum(notes[f"end {name}"] for name in NAMES) <= len(NAMES) + kills
    assert sum(notes[f"end {name}"] > 1 for name in NAMES) <= 1
    assert sum(notes[f"begin {name}"] for name in NAMES) <= len(NAMES) + kills
    assert statuses(folder) == dict.fromkeys(NAMES, "done")
    assert sorted(path.stem for path in (folder / "out/scenes").iterdir()) == NAMES
    assert not list((folder / "out").glob(".*.partial"))


@pytest.mark.slow
def test_runs_at_the_same_time_share_the_scenes(folder: Path) -> None:
    processes = [start(folder, 0.3) for _ in range(3)]
    done = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        done.append(int(out))
    assert sum(done) == len(NAMES)
    assert count_notes(folder / "notes") == {
        f"{what} {name}": 1 for name in NAMES for what in ("begin", "end")
    }
    assert statuses(folder) == dict.fromkeys(NAMES, "done")


@pytest.mark.slow
def test_a_run_takes_over_from_one_that_is_killed_meanwhile(folder: Path) -> None:
    first = start(folder, 60.0)
    wait_for(folder, 1, first)
    second = start(folder, 0.0)
    wait_for(folder, 2 * len(NAMES) - 1, second)
    assert second.poll() is None
    assert list(statuses(folder).values()).count("running") <= 1
    first.send_signal(signal.SIGKILL)
    first.communicate()
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert int(out) == len(NAMES)


@pytest.mark.slow
def test_a_killed_run_on_a_cluster_frees_its_scenes(folder: Path) -> None:
    process = start(folder, 2.0, "dask")
    wait_for(folder, 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    again = start(folder, 0.0)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert statuses(folder) == dict.fromkeys(NAMES, "done")
