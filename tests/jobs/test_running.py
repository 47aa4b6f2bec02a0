"""Jobs over many scenes, with work that notes what it does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectralgpt.errors import ConfigError
from spectralgpt.jobs.kinds import Plan
from spectralgpt.jobs.records import RecordFolder, SceneRecord
from spectralgpt.jobs.running import JobOutcome, run_job
from tests.job_kinds import (
    NotingJob,
    count_notes,
    manifest,
    of_one_date,
    write_scenes,
)


@pytest.fixture
def job(tmp_path: Path) -> NotingJob:
    (tmp_path / "notes").touch()
    return NotingJob(str(tmp_path / "notes"))


def plan_of(job: NotingJob, output: Path) -> Plan:
    return Plan.of(job, output)  # type: ignore[arg-type]


def run(job: NotingJob, scenes: list[Path], output: Path, **options: Any) -> JobOutcome:
    return run_job(plan_of(job, output), of_one_date(scenes), pause_s=0, **options)


def test_bad_scenes_stop_no_others_and_passing_faults_are_tried_again(
    job: NotingJob, tmp_path: Path
) -> None:
    texts = {"a": "bad", "b": "good", "c": "flaky 2", "d": "bug", "e": "flaky 9"}
    scenes = [*write_scenes(tmp_path / "in", texts), tmp_path / "in/missing.tif"]
    outcome = run(job, scenes, tmp_path / "out", retries=2)
    assert outcome.counts["done"] == 2
    assert outcome.counts["failed"] == 4
    lines = manifest(tmp_path / "out")
    assert {name: row["status"] for name, row in lines.items()} == {
        "a": "failed",
        "b": "done",
        "c": "done",
        "d": "failed",
        "e": "failed",
        "missing": "failed",
    }
    # What is the scene's own fault is tried once, what may pass three times.
    assert [lines[name]["attempts"] for name in "abcde"] == [1, 1, 3, 3, 3]
    assert lines["a"]["error"] == f"{tmp_path}/in/a.tif is no good."
    assert lines["d"]["error"] == "KeyError: 'surprise'"
    assert "Input/output error" in lines["e"]["error"]
    assert lines["c"]["error"] == ""
    assert (tmp_path / "out/scenes/c.tif").read_text() == "flaky 2 one"
    assert not (tmp_path / "out/scenes/a.tif").exists()


def test_the_manifest_says_what_was_done_how_and_by_which_versions(
    job: NotingJob, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "in", {"a": "good"})
    outcome = run(replace(job, delay_s=0.2), scenes, tmp_path / "out")
    line = manifest(tmp_path / "out")["a"]
    assert outcome.manifest == tmp_path / "out/manifest.jsonl"
    assert line["scene"] == str(scenes[0])
    assert line["outputs"] == ["scenes/a.tif"]
    assert 0.2 <= line["seconds"] < 20
    assert set(line["versions"]) >= {"spectralgpt", "torch", "rasterio", "python"}
    said = json.loads((tmp_path / "out/job.json").read_text())
    assert line["configuration"] == said["configuration"]
    assert said["facts"]["label"] == "one"
    assert line["started"].endswith("+00:00")


def test_running_again_does_what_failed_and_nothing_that_is_done(
    job: NotingJob, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "in", {"a": "good", "b": "bad", "c": "good"})
    run(job, scenes[:2], tmp_path / "out")
    scenes[1].write_text("good")
    outcome = run(job, scenes, tmp_path / "out")
    assert outcome.counts == {
        "done": 2,
        "done before": 1,
        "done by another run": 0,
        "failed": 0,
    }
    notes = count_notes(Path(job.notes))
    assert notes == {
        "begin a": 1,
        "end a": 1,
        "begin b": 2,
        "end b": 1,
        "begin c": 1,
        "end c": 1,
    }
    assert manifest(tmp_path / "out")["b"]["attempts"] == 2


def test_a_done_scene_whose_output_is_gone_is_done_again(
    job: NotingJob, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "in", {"a": "good", "b": "good"})
    run(job, scenes, tmp_path / "out")
    (tmp_path / "out/scenes/b.tif").unlink()
    assert run(job, scenes, tmp_path / "out").counts["done"] == 1
    assert count_notes(Path(job.notes))["end a"] == 1


def test_another_model_or_option_is_refused_unless_overwritten(
    job: NotingJob, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "in", {"a": "good"})
    run(job, scenes, tmp_path / "out")
    other = replace(job, label="two")
    with pytest.raises(ConfigError, match="done with another label: pass --overwrite"):
        run(other, scenes, tmp_path / "out")
    with pytest.raises(ConfigError, match="another model and label"):
        run(replace(other, model="b"), scenes, tmp_path / "out")
    assert (tmp_path / "out/scenes/a.tif").read_text() == "good one"
    run(other, scenes, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/scenes/a.tif").read_text() == "good two"


def test_a_scene_keeps_its_name_while_others_of_that_name_come(
    job: NotingJob, tmp_path: Path
) -> None:
    first = write_scenes(tmp_path / "x", {"a": "x", "A": "upper"})
    run(job, first[:1], tmp_path / "out")
    second = write_scenes(tmp_path / "y", {"a": "y"})
    outcome = run(job, [*second, *first], tmp_path / "out")
    assert outcome.counts["done before"] == 1
    lines = manifest(tmp_path / "out")
    assert len(lines) == 3
    made = {
        row["scene"]: tmp_path / "out" / row["outputs"][0] for row in lines.values()
    }
    assert made[str(first[0])] == tmp_path / "out/scenes/a.tif"
    assert made[str(second[0])].read_text() == "y one"
    assert made[str(first[1])].read_text() == "upper one"
    assert len({path.name.lower() for path in made.values()}) == 3


def test_files_of_something_else_and_the_scenes_themselves_are_not_replaced(
    job: NotingJob, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "out/scenes", {"a": "good"})
    with pytest.raises(ConfigError, match="holds the scenes themselves"):
        run(job, scenes, tmp_path / "out")
    others = write_scenes(tmp_path / "in", {"a": "good", "b": "good"})
    (scenes[0].parent / "b.gpkg").touch()
    for other in others:
        with pytest.raises(ConfigError, match="there already, and not of this job"):
            run(job, [other], tmp_path / "out")
    assert not (tmp_path / "out/job.json").exists()
    assert scenes[0].read_text() == "good"


def test_a_scene_that_another_process_has_is_waited_for_and_not_done_twice(
    job: NotingJob, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "in", {"a": "good", "b": "good"})
    output = tmp_path / "out"
    plan = plan_of(job, output)
    store = RecordFolder(output)
    with store.registering():
        known, _ = store.register(of_one_date(scenes), lambda name: None)
    claim = store.claiming("a")
    assert claim.__enter__()

    def other_run_ends(share: float) -> None:
        if count_notes(Path(job.notes))["end b"] and store.read("a") == known:
            target = plan.target("a")
            target.write_text("of the other run")
            done = replace(
                known,
                status="done",
                outputs=("scenes/a.tif",),
                configuration=plan.configuration,
            )
            store.write(done)
            claim.__exit__(None, None, None)

    outcome = run_job(plan, of_one_date(scenes), progress=other_run_ends)
    assert outcome.counts["done"] == 1
    assert outcome.counts["done by another run"] == 1
    assert count_notes(Path(job.notes))["begin a"] == 0


def test_what_ended_a_process_before_is_done_last(
    job: NotingJob, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "in", {"a": "good", "b": "good", "c": "good"})
    store = RecordFolder(tmp_path / "out")
    with store.registering():
        known, *_ = store.register(of_one_date(scenes), lambda name: None)
    store.write(replace(known, status="running", attempts=2))
    assert {r.id: r.status for r in store.read_all()}["a"] == "interrupted"
    run(job, scenes, tmp_path / "out")
    order = Path(job.notes).read_text().split("\n")[::2]
    assert order[:3] == ["begin b", "begin c", "begin a"]


def test_a_line_is_one_line() -> None:
    record = SceneRecord("a", "/x/a.tif", error="one\ntwo", versions={"torch": "2"})
    assert len(record.to_line().splitlines()) == 1
    assert json.loads(record.to_line())["error"] == "one\ntwo"


def test_a_damaged_item_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RecordFolder(tmp_path)
    good = '{"id": "a", "assets": {"classes": {"href": "./a.tif"}}}'
    texts = {"a": good, "b": good[:20], "c": '{"assets": [1]}', "d": "[]"}
    (tmp_path / "scenes").mkdir()
    with store.registering():
        for name, text in texts.items():
            outputs = (f"scenes/{name}.json",)
            (tmp_path / outputs[0]).write_text(text)
            store.write(SceneRecord(name, f"/{name}.tif", "done", outputs=outputs))
    assert store.write_items() == 1
    assert [text.count("is damaged") for text in caplog.messages] == [1, 1, 1]
    (item,) = json.loads((tmp_path / "items.json").read_text())["features"]
    assert item["assets"]["classes"]["href"] == "./scenes/a.tif"
