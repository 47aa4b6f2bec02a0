"""Runs that are killed, or cannot go on, in the middle of a scene."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt.errors import OutputError, RasterError
from spectralgpt.scenes.maps import map_image
from tests.dense_files import blobs
from tests.map_scenes import describe, rule, rule_mapper, write_scene

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import dataclasses, resource, signal, sys, time
from pathlib import Path
from spectralgpt.scenes.maps import map_image
from tests.map_scenes import describe, rule, rule_mapper

folder, delay, limit = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
calls = 0

def predict(images):
    global calls
    calls += 1
    time.sleep(delay)
    return rule(images)

if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
mapper = dataclasses.replace(
    rule_mapper(folder, predict),
    **dict(digest="rule", name="rule", probabilities=True, polygons=True, batch_size=4),
)
map_image(mapper, (describe(folder / "scene.tif"),), folder / "maps/scene.tif")
print(calls)
"""


def scene(folder: Path) -> Path:
    classes = blobs(300, 90, seed=2, classes=3)
    return write_scene(folder / "scene.tif", classes, hole=np.s_[40:60, 30:50])


def start(folder: Path, delay: float = 0.0, limit: int = 0) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(delay), str(limit)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> int:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return int(out)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    scene(tmp_path)
    calls = finish(start(tmp_path))
    whole = files(tmp_path / "maps")
    assert {"scene.tif", "scene_probabilities.tif", "scene.gpkg"} <= set(whole)
    (tmp_path / "maps").rename(tmp_path / "whole")

    process = start(tmp_path, delay=0.3)
    journal = tmp_path / "maps/.scene.tif.unfinished/journal.jsonl"
    deadline = time.monotonic() + 200
    while not (journal.is_file() and journal.read_text().count("next_row") >= 5):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = {path.name for path in (tmp_path / "maps").iterdir()}
    assert left == {".scene.tif.unfinished", ".scene.tif.lock"}
    again = finish(start(tmp_path))
    assert again < calls
    assert files(tmp_path / "maps") == whole


def test_a_map_of_numbers_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    calls: list[int] = []

    def predict(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == 12:
            raise KeyboardInterrupt
        return images[:, :1] * 100

    item, made = describe(scene(tmp_path)), []
    numbers = {"class_names": ("height",), "colours": (), "unit": "m", "digest": "rule"}
    mapper = dataclasses.replace(
        rule_mapper(tmp_path, predict), batch_size=4, **numbers
    )
    with pytest.raises(KeyboardInterrupt):
        map_image(mapper, (item,), tmp_path / "maps/scene.tif")
    made.append(map_image(mapper, (item,), tmp_path / "maps/scene.tif"))
    again = len(calls) - 12
    made.append(map_image(mapper, (item,), tmp_path / "whole/scene.tif"))
    assert again < len(calls) - 12 - again
    assert made[0].values == made[1].values
    assert made[0].pixels.tolist() == [300 * 90 - 20 * 20]
    assert files(tmp_path / "maps") == files(tmp_path / "whole")


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_the_next_run_goes_on(tmp_path: Path) -> None:
    scene(tmp_path)
    process = start(tmp_path, limit=200_000)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    last = err.strip().splitlines()[-1]
    assert "OutputError" in last
    assert "cannot be written" in last
    assert not (tmp_path / "maps/scene.tif").exists()
    finish(start(tmp_path))
    assert (tmp_path / "maps/scene.tif").exists()


def test_a_scene_that_is_cut_off_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    path = scene(tmp_path)
    item = describe(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size * 2 // 3)
    mapper = dataclasses.replace(rule_mapper(tmp_path), probabilities=True)
    with pytest.raises(RasterError, match=r"scene\.tif cannot be read"):
        map_image(mapper, (item,), tmp_path / "maps/a.tif")
    assert not (tmp_path / "maps").exists()


def test_an_old_map_stays_while_a_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = describe(scene(tmp_path))
    path = tmp_path / "maps/a.tif"
    map_image(rule_mapper(tmp_path), (item,), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spectralgpt.rasters.write._reserve", full)
    with pytest.raises(OutputError, match="No space left on device"):
        map_image(rule_mapper(tmp_path), (item,), path)
    assert path.read_bytes() == before


def test_progress_reaches_the_whole(tmp_path: Path) -> None:
    item = describe(scene(tmp_path))
    seen: list[float] = []
    map_image(rule_mapper(tmp_path), (item,), tmp_path / "a/a.tif", seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) > 10


def test_a_model_that_fails_in_its_thread_is_told(tmp_path: Path) -> None:
    item = describe(scene(tmp_path))

    def predict(images: torch.Tensor) -> torch.Tensor:
        if len(images) < 4:
            raise RuntimeError("out of memory")
        return rule(images)

    mapper = dataclasses.replace(rule_mapper(tmp_path, predict), batch_size=4)
    with pytest.raises(RuntimeError, match="out of memory"):
        map_image(mapper, (item,), tmp_path / "a/a.tif")
