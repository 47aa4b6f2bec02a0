"""Run a job over many scenes: what is to do, in rounds, with a manifest at any time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectralgpt.errors import ConfigError
from spectralgpt.jobs.engines import Attempt, Engine, Lost, in_this_process, is_done
from spectralgpt.jobs.kinds import Job, Plan, Progress, check_plan, load_job, write_plan
from spectralgpt.jobs.records import (
    MANIFEST,
    RecordFolder,
    SceneRecord,
    write_items,
    write_manifest,
)
from spectralgpt.outputs import remove_leftovers

__all__ = ["JobOutcome", "plan_job", "run_job"]

_MANIFEST_EVERY_S = 10.0
_MOST_WAITS = 3


@dataclass(frozen=True)
class JobOutcome:
    """What became of the scenes of a run.

    Args:
        manifest: the file with a line a scene.
        counts: of scenes by what became of them.
        failures: records of those that are not done, mostly because they failed.
        items: number of STAC items in items.json.
    """

    manifest: Path
    counts: dict[str, int]
    failures: list[SceneRecord]
    items: int


def plan_job(job: Job, output: Path) -> Plan:
    """Load a job's model, and say what its outputs will depend on.

    Raises:
        CheckpointError: the model cannot be read, or is for something else.
        ConfigError: options do not fit it.
    """
    # Other processes start in other folders.
    if Path(job.model).exists():
        job = replace(job, model=str(Path(job.model).absolute()))
    return Plan(job, output.absolute(), load_job(job).weights)


def run_job(
    plan: Plan,
    scenes: Sequence[tuple[Path, ...]],
    *,
    retries: int = 2,
    pause_s: float = 5.0,
    overwrite: bool = False,
    engine: Engine = in_this_process,
    progress: Progress | None = None,
) -> JobOutcome:
    """Do every scene once; run again, it does what failed or was interrupted.

    A scene that fails for a reason that may pass is tried again after the others. Any
    number of runs may work on one folder at a time.

    Args:
        plan: what is done, and where.
        scenes: the dates of each, as many as the job takes; see
            `spectralgpt.scenes.inputs`.
        retries: further attempts at a scene.
        pause_s: before the first further round; longer before those after it.
        overwrite: do all scenes again, also what was done with another model.
        engine: makes the attempts.
        progress: called with shares of scenes; they add up to the number of scenes.

    Raises:
        ConfigError: the folder holds another job's outputs, or the scenes themselves.
        OSError: nothing can be written there.
    """
    records = _register(plan, scenes, overwrite)
    todo = [record for record in records if not is_done(plan, record)]
    if progress is not None:
        progress(len(records) - len(todo))
    # Scenes that ended a process before come last, so that the others are done.
    todo.sort(key=lambda each: 0 if each.status == "waiting" else each.attempts)
    found: dict[str, Attempt] = {}
    try:
        _attempt_all(plan, todo, engine, found, progress=progress)
        for turn in range(1, retries + 1):
            again = _worth_trying(plan, found)
            if again:
                time.sleep(pause_s * turn)
                _attempt_all(plan, again, engine, found)
        for _ in range(_MOST_WAITS):
            # What another run had in hand is done by now, or is to be done here.
            busy = [each.record for each in found.values() if each.is_busy]
            _attempt_all(plan, busy, engine, found, wait=True)
    finally:
        write_manifest(plan.output)
    items = write_items(plan.output)
    return _outcome(plan, len(records) - len(todo), list(found.values()), items)


def _worth_trying(plan: Plan, found: Mapping[str, Attempt]) -> list[SceneRecord]:
    """Return what failed in this run for a reason that may have passed."""
    records = [attempt.record for attempt in found.values()]
    return [each for each in records if each.may_pass and each.run == plan.run]


def _register(
    plan: Plan, scenes: Sequence[tuple[Path, ...]], overwrite: bool
) -> list[SceneRecord]:
    """Return the record of each scene; nothing is written if the job is refused."""
    folder = plan.target("any").parent
    dates = {date.resolve().parent for scene in scenes for date in scene}
    if folder.resolve() in dates:
        raise ConfigError(
            f"{folder} holds the scenes themselves: choose another --output."
        )

    def check(name: str) -> None:
        if plan.target(name).exists() and not overwrite:
            raise ConfigError(
                f"{plan.target(name)} is there already, and not of this job: pass "
                "--overwrite, or choose another --output."
            )

    store = RecordFolder(plan.output)
    with store.registering():
        if not overwrite:
            check_plan(plan)
        remove_leftovers(plan.output)
        records = store.register(scenes, check)
        folder.mkdir(exist_ok=True)
        write_plan(plan)
        if overwrite:
            records = [SceneRecord(r.id, r.scene, after=r.after) for r in records]
            for record in records:
                store.write(record)
    return records


def _attempt_all(
    plan: Plan,
    records: Sequence[SceneRecord],
    engine: Engine,
    found: dict[str, Attempt],
    *,
    wait: bool = False,
    progress: Progress | None = None,
) -> None:
    """Attempt each scene once, and note what came of it."""
    written = 0.0
    for each in engine(plan, records, wait, progress) if records else ():
        attempt = _note_loss(plan, each) if isinstance(each, Lost) else each
        found[attempt.record.id] = attempt
        if time.monotonic() - written > _MANIFEST_EVERY_S:
            write_manifest(plan.output)
            written = time.monotonic()


def _note_loss(plan: Plan, lost: Lost) -> Attempt:
    """Write into a scene's record that its process died."""
    store = RecordFolder(plan.output)
    with store.claiming(lost.record.id) as is_free:
        record = store.read(lost.record.id) or lost.record
        is_begun = record.status == "running" and record.run == plan.run
        if is_free and is_begun:
            record = replace(record, status="failed", error=lost.reason, may_pass=True)
            store.write(record)
    # A scene that only waited in that process was not begun, and is to be.
    return Attempt(record, is_busy=record.status not in ("done", "failed"))


def _outcome(
    plan: Plan, before: int, attempts: Sequence[Attempt], items: int
) -> JobOutcome:
    failures = [each.record for each in attempts if each.record.status != "done"]
    done = [each for each in attempts if each.record.status == "done"]
    ours = sum(each.record.run == plan.run for each in done)
    counts = {
        "done": ours,
        "done before": before,
        "done by another run": len(done) - ours,
        "failed": len(failures),
    }
    return JobOutcome(plan.output / MANIFEST, counts, failures, items)
