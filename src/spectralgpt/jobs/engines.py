"""Attempts at scenes, and where they are made: in this process, or on a Dask cluster.

Dask, because it is plain Python that users of clusters (SLURM, PBS, Kubernetes) have at
hand in this field, and because a job needs little of an engine: to send a small task to
a process, and to say when that process has died. Ray brings an object store and agents,
in a wheel of many times the size, and scenes go from files to files.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spectralgpt.errors import (
    BandError,
    CheckpointError,
    ConfigError,
    DataError,
    ShapeError,
    UnitError,
)
from spectralgpt.files import UNWRITABLE, explain_failure
from spectralgpt.jobs.kinds import Plan, Progress, load_job, versions
from spectralgpt.jobs.records import RecordFolder, SceneRecord, this_process

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = [
    "Attempt",
    "Engine",
    "Lost",
    "attempt_scene",
    "check_worker",
    "in_this_process",
    "is_done",
    "on_dask",
]

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
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SILENT = logging.CRITICAL
_SPAWN = "distributed.nanny.pre-spawn-environ"
_SETTINGS = {
    # A scene that ends its process is tried again by the job, not by Dask.
    "distributed.scheduler.allowed-failures": 0,
}


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


class Lost(Exception):  # noqa: N818 - not raised, but handed on
    """The process of a scene died, and others that took it over, too."""

    def __init__(self, record: SceneRecord, reason: str) -> None:
        super().__init__(reason)
        self.record, self.reason = record, reason


class Engine(Protocol):
    """Attempts scenes, in any order, and yields what came of each as it is known."""

    def __call__(
        self,
        plan: Plan,
        records: Sequence[SceneRecord],
        wait: bool,
        progress: Callable[[float], None] | None,
    ) -> Iterator[Attempt | Lost]:
        """Attempt each scene once; `progress` is given shares that add up to them."""
        ...


def in_this_process(
    plan: Plan,
    records: Sequence[SceneRecord],
    wait: bool,
    progress: Callable[[float], None] | None,
) -> Iterator[Attempt | Lost]:
    """Attempt one scene after the other; see `Engine`."""
    for record in records:
        done = 0.0

        def advance(share: float) -> None:
            nonlocal done
            if progress is not None:
                progress(share - done)
            done = share

        attempt = attempt_scene(plan, record, wait, advance)
        advance(1.0)
        yield attempt


@contextmanager
def on_dask(workers: int, scheduler: str | None) -> Iterator[Engine]:
    """Give an engine on a Dask cluster, which is closed in the end if it is our own.

    Args:
        workers: processes to start on this machine, which share its cores.
        scheduler: address or scheduler file of a cluster that is there, in place of
            `workers`; encryption is taken from Dask's own configuration.

    Raises:
        ConfigError: Dask is not installed, or the cluster does not answer.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise ConfigError(
            "several processes need Dask: pip install 'spectralgpt[dask]'."
        ) from None
    # It tells of every connection, and of each process that it ends in the middle.
    level = logging.INFO if logging.getLogger().isEnabledFor(logging.INFO) else _SILENT
    logging.getLogger("distributed").setLevel(level)
    with ExitStack() as stack:
        if scheduler is None:
            threads = str(max(1, (os.cpu_count() or 1) // workers))
            variables = dict.fromkeys(_THREAD_VARIABLES, threads)
            stack.enter_context(dask.config.set(_SETTINGS | {_SPAWN: variables}))
            # Who may talk to a scheduler may run any code: only this process may.
            with _without_ctrl_c():
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    protocol="tls://",
                    security=True,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=level,
                )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        else:
            client = stack.enter_context(_connect(scheduler))
        yield partial(_attempt_on, client)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start processes that leave Ctrl-C, which a terminal sends to all, to this one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # It would let Ctrl-C through where it is started.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _connect(scheduler: str) -> "Client":
    from distributed import Client

    try:
        if Path(scheduler).is_file():
            return Client(scheduler_file=scheduler)
        return Client(scheduler)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"there is no Dask scheduler at {scheduler}: {reason}"
        ) from None


def _attempt_on(
    client: "Client",
    plan: Plan,
    records: Sequence[SceneRecord],
    wait: bool,
    progress: Callable[[float], None] | None,
) -> Iterator[Attempt | Lost]:
    """Attempt scenes in the cluster's processes; see `Engine`."""
    from distributed import as_completed

    record_of: dict[Future[Any], SceneRecord] = {
        client.submit(attempt_scene, plan, record, wait, pure=False): record
        for record in records
    }
    try:
        for future in as_completed(record_of):
            yield _outcome(plan, future, record_of[future])
            if progress is not None:
                progress(1.0)
            # Lets the cluster forget it, so that it does not do it again.
            future.release()
    finally:
        client.cancel(list(record_of))


def _outcome(plan: Plan, future: "Future[Any]", record: SceneRecord) -> Attempt | Lost:
    """Read what came of a scene where its process wrote it.

    What a task returned is gone when its process dies later, for another scene.
    """
    from distributed.scheduler import KilledWorker

    error: Any = future.exception() if future.status == "error" else None
    if error is None:
        found = RecordFolder(plan.output).read(record.id) or record
        return Attempt(found, is_busy=found.status not in ("done", "failed"))
    if isinstance(error, KilledWorker):
        return Lost(record, "its process died, which lack of memory may cause.")
    if isinstance(error, ImportError):
        raise ConfigError(f"the workers lack spectralgpt or what it needs: {error}")
    raise error
