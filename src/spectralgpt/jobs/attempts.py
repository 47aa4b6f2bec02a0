"""One attempt at one scene, by whichever process and machine."""

import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from spectralgpt.atomic_files import UNWRITABLE, explain_failure
from spectralgpt.errors import (
    BandError,
    CheckpointError,
    ConfigError,
    DataError,
    ShapeError,
    UnitError,
)
from spectralgpt.jobs.kinds import Progress
from spectralgpt.jobs.plans import Plan, load_job, versions
from spectralgpt.jobs.records import RecordFolder, SceneRecord, this_process

__all__ = ["Attempt", "attempt_scene", "check_worker", "is_done"]

logger = logging.getLogger(__name__)
_LASTING = (
    BandError,
    CheckpointError,
    ConfigError,
    DataError,
    ShapeError,
    UnitError,
)
"""Errors that are the scene's own; others, such as of disk and network, may pass."""
_ONE_SCENE = threading.Lock()
"""Worker processes may have several threads; memory is bounded for one scene."""


@dataclass(frozen=True)
class Attempt:
    """What came of an attempt.

    Args:
        record: what is known of the scene now; its `run` says who made the attempt.
        is_busy: another process has the scene; nothing was done.
    """

    record: SceneRecord
    is_busy: bool = False


def attempt_scene(
    plan: Plan, known: SceneRecord, wait: bool, progress: Progress | None = None
) -> Attempt:
    """Do a scene, unless it is done or another process does it.

    Its errors are written into its record, none stops the job.

    Args:
        plan: what is done, and where.
        known: the scene's record when the attempt was planned.
        wait: for another process that has the scene; it may fail, or die.
        progress: called with the share that is done, 0..1.

    Raises:
        ConfigError: this process has another version or model than the plan.
        OSError: the record cannot be written.
    """
    records = RecordFolder(plan.output)
    with _ONE_SCENE, records.claiming(known.id, wait) as is_free:
        if not is_free:
            return Attempt(known, is_busy=True)
        found = records.read(known.id) or known
        # By another run, or by a process that died before it could say so.
        has_failed_since = found.status == "failed" and found != known
        if is_done(plan, found) or (
            has_failed_since and found.configuration == plan.configuration
        ):
            return Attempt(found)
        return _attempt(plan, records, found, progress)


def is_done(plan: Plan, record: SceneRecord) -> bool:
    """Whether a scene is done with the plan's model and options, and still there."""
    return (
        record.status == "done"
        and record.configuration == plan.configuration
        and all((plan.output / name).is_file() for name in record.outputs)
    )


def check_worker(plan: Plan) -> None:
    """Refuse to work with another version or model than the plan says.

    Raises:
        ConfigError: they differ.
        CheckpointError: the model cannot be loaded.
    """
    if plan.version != versions()["spectralgpt"]:
        raise ConfigError(
            f"{this_process()} runs spectralgpt {versions()['spectralgpt']}, the job "
            f"is of {plan.version}: install the same on all machines."
        )
    if load_job(plan.job).weights != plan.weights:
        raise ConfigError(
            f"{this_process()} finds another model at {plan.job.model} than the job "
            "began with: run it again, with --overwrite if the new one is meant."
        )


def _attempt(
    plan: Plan, records: RecordFolder, found: SceneRecord, progress: Progress | None
) -> Attempt:
    check_worker(plan)
    is_same = found.configuration == plan.configuration
    record = SceneRecord(
        id=found.id,
        scene=found.scene,
        after=found.after,
        status="running",
        attempts=(found.attempts if is_same else 0) + 1,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        host=this_process(),
        run=plan.run,
        configuration=plan.configuration,
        versions=versions(),
    )
    records.write(record)
    began = time.monotonic()
    try:
        work = load_job(plan.job).work
        made = work(record.dates, plan.target(record.id), progress)
        names = tuple(path.relative_to(plan.output).as_posix() for path in made)
        record = replace(record, status="done", outputs=names)
    except Exception as error:
        logger.info("%s failed", record.scene, exc_info=True)
        may_pass = not isinstance(error, _LASTING)
        text = _one_line(error)
        record = replace(record, status="failed", error=text, may_pass=may_pass)
    record = replace(record, seconds=round(time.monotonic() - began, 3))
    records.write(record)
    return Attempt(record)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    is_ours = type(error).__module__.startswith("spectralgpt.")
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = error.filename or "the output"
        return f"{where} cannot be used: {explain_failure(Path(where), error)}"
    return text if is_ours and text else f"{type(error).__name__}: {text}"
