"""Damaged journals, rows, records, notes: the same bytes as without, or a refusal."""

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectralgpt.errors import SpectralGPTError
from spectralgpt.files import checked_line, parse_checked
from spectralgpt.jobs.kinds import Plan
from spectralgpt.jobs.records import RecordFolder, SceneRecord
from spectralgpt.jobs.running import run_job
from spectralgpt.scenes.maps import map_image
from tests.dense_files import blobs
from tests.fuzz.mutate import bounded, mutate_bytes, mutate_text, refusal, rounds
from tests.job_kinds import NotingJob, of_one_date, write_scenes
from tests.map_scenes import describe, rule, rule_mapper, write_scene


def damage(path: Path, seed: int) -> None:
    content = path.read_bytes()
    if seed % 2 and path.suffix != ".rows":
        text = content.decode("utf-8")
        path.write_bytes(mutate_text(text, seed).encode("utf-8", "surrogatepass"))
    else:
        path.write_bytes(mutate_bytes(content, seed))


def make_map(folder: Path, stop_after: int | None = None) -> None:
    calls = 0

    def predict(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if stop_after is not None and calls > stop_after:
            raise KeyboardInterrupt
        return rule(images)

    mapper = dataclasses.replace(
        rule_mapper(folder, predict), digest="rule", probabilities=True, batch_size=2
    )
    item = describe(folder / "scene.tif")
    map_image(mapper, (item,), folder / "maps/scene.tif")


def refused(work: Callable[[], None]) -> str | None:
    """Return why work was refused, None if it was done."""
    try:
        with bounded():
            work()
    except SpectralGPTError as error:
        return refusal(error)
    return None


def files_of(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder with a map that was stopped in the middle, and what it is to be."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stopped")
    write_scene(folder / "scene.tif", blobs(120, 40, seed=2, classes=3))
    make_map(folder)
    whole = files_of(folder / "maps")
    shutil.rmtree(folder / "maps")
    with pytest.raises(KeyboardInterrupt):
        make_map(folder, stop_after=5)
    assert (folder / "maps/.scene.tif.unfinished/journal.jsonl").stat().st_size > 500
    return folder, whole


@pytest.mark.parametrize("seed", rounds())
def test_a_damaged_unfinished_map_ends_as_the_same_bytes(
    seed: int, stopped: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    start, whole = stopped
    folder = tmp_path / "run"
    shutil.copytree(start, folder)
    unfinished = folder / "maps/.scene.tif.unfinished"
    drawn = random.Random(seed)
    names = ["journal.jsonl", "scene.tif.rows", "scene_probabilities.tif.rows"]
    for name in drawn.choices(names, [4, 1, 1], k=drawn.randint(1, 2)):
        damage(unfinished / name, seed)
    said = refused(lambda: make_map(folder))
    assert said is None or "pass --overwrite" in said
    assert said or files_of(folder / "maps") == whole


@pytest.mark.parametrize("seed", rounds())
def test_a_damaged_entry_is_none_or_the_same(seed: int, tmp_path: Path) -> None:
    values: dict[str, Any] = {"map": "ä.tif", "digest": "0" * 8, "n": [1, 2.5, None]}
    line = checked_line(values)
    for found in (
        mutate_bytes(line.encode(), seed),
        mutate_text(line, seed).encode("utf-8", "surrogatepass"),
    ):
        with bounded():
            assert parse_checked(found) in (None, values)
    store = RecordFolder(tmp_path, ".finished")
    record = SceneRecord("a", "/x/ä.tif", "done", configuration="1" * 8)
    store.write(record)
    damage(tmp_path / ".finished/a.json", seed)
    assert store.read("a") in (None, record)


@pytest.mark.parametrize("seed", rounds())
def test_a_damaged_record_is_of_no_scene_and_the_job_does_it_again(
    seed: int, tmp_path: Path
) -> None:
    (tmp_path / "notes").touch()
    job: Any = NotingJob(str(tmp_path / "notes"))
    texts = {"a": "wood", "b": "field"}
    scenes = write_scenes(tmp_path / "in", texts)
    scenes += write_scenes(tmp_path / "other", {"a": "lake"})

    def run() -> None:
        plan = Plan.of(job, tmp_path / "out")
        run_job(plan, of_one_date(scenes), pause_s=0)

    run()
    wanted = files_of(tmp_path / "out/scenes")
    records = sorted((tmp_path / "out/.records").glob("*.json"))
    assert len(records) == 3
    drawn = random.Random(seed)
    damaged = drawn.choice(
        [*records, tmp_path / "out/manifest.jsonl", tmp_path / "out/job.json"]
    )
    damage(damaged, seed)
    drawn.shuffle(scenes)
    said = refused(run)
    if said is not None:
        assert damaged.name == "job.json"
        assert "--overwrite" in said
        return
    assert files_of(tmp_path / "out/scenes") == wanted
    lines = (tmp_path / "out/manifest.jsonl").read_bytes().splitlines()
    found = [parse_checked(line) for line in lines]
    assert [row and (row["scene"], row["status"]) for row in found] == [
        (record.scene, "done") for record in RecordFolder(tmp_path / "out").read_all()
    ]
    assert {row["scene"] for row in found if row} == set(map(str, scenes))


def test_a_record_of_other_values_is_none(tmp_path: Path) -> None:
    store = RecordFolder(tmp_path)
    with store.registering():
        store.write(SceneRecord("a", "/x/a.tif", outputs=("scenes/a.tif",)))
    path = tmp_path / ".records/a.json"
    assert store.read("a") is not None
    path.write_text(path.read_text().replace('"waiting"', '"done"'))
    assert store.read("a") is None
    assert store.read_all() == []
