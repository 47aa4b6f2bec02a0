"""Run a job over many scenes: what is to do, in rounds, with a manifest at any time.

Attempts are made in this process, or in those of a Dask cluster. Dask, because it is
plain Python that users of clusters (SLURM, PBS, Kubernetes) have at hand in this field,
and because a job needs little of an engine: to send a small task to a process, and to
say when that process has died. Ray brings an object store and agents, in a wheel of
many times the size, and scenes go from files to files.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralgpt.errors import ConfigError, require
from spectralgpt.files import remove_leftovers
from spectralgpt.jobs.kinds import Plan, load_job
from spectralgpt.jobs.records import (
    MANIFEST,
    Attempt,
    RecordFolder,
    SceneRecord,
    attempt_scene,
)
from spectralgpt.scenes.inputs import Progress, adding_up

if TYPE_CHECKING:
    from distributed import Client, Future

_MANIFEST_EVERY_S = 10.0
_MOST_WAITS = 3
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SILENT = logging.CRITICAL
_SPAWN = "distributed.nanny.pre-spawn-environ"
_SETTINGS = {
    # A scene that ends its process is tried again by the job, not by Dask.
    "distributed.scheduler.allowed-failures": 0
}


@dataclass(frozen=True)
class JobOutcome:
    """What became of the scenes of a run.

    Args:
        manifest: the file with a line per scene.
        counts: of scenes by what became of them.
        failures: records of those that are not done, mostly because they failed.
        items: number of STAC items in items.json.
    """

    manifest: Path
    counts: dict[str, int]
    failures: list[SceneRecord]
    items: int


Engine = Callable[
    [Plan, Sequence[SceneRecord], bool, Progress | None], Iterator[Attempt]
]
"""Attempts scenes once each, in any order, and yields what came of each as it is known.

Told whether to wait for those that other processes have; its progress is given shares
that add up to the number of scenes.
"""


def _in_this_process(
    plan: Plan, records: Sequence[SceneRecord], wait: bool, progress: Progress | None
) -> Iterator[Attempt]:
    """Attempt one scene after the other; see `Engine`."""
    for record in records:
        advance = adding_up(progress)
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
    require("dask", "distributed")
    import dask
    from distributed import Client, LocalCluster

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
    progress: Progress | None,
) -> Iterator[Attempt]:
    """Attempt scenes in the cluster's processes; see `Engine`."""
    from distributed import as_completed

    record_of: dict[Future[Any], SceneRecord] = {
        client.submit(attempt_scene, plan, record, wait, pure=False): record
        for record in records
    }
    try:
        for future in as_completed(record_of):
            yield _result_of(plan, future, record_of[future])
            if progress is not None:
                progress(1.0)
            # Lets the cluster forget it, so that it does not do it again.
            future.release()
    finally:
        client.cancel(list(record_of))


def _result_of(plan: Plan, future: "Future[Any]", record: SceneRecord) -> Attempt:
    """Read what came of a scene where its process wrote it.

    What a task returned is gone when its process dies later, for another scene.
    """
    from distributed.scheduler import KilledWorker

    error: Any = future.exception() if future.status == "error" else None
    if error is None:
        found = RecordFolder(plan.output).read(record.id) or record
        return found, found.status not in ("done", "failed")
    if isinstance(error, KilledWorker):
        return _note_loss(plan, record)
    if isinstance(error, ImportError):
        raise ConfigError(f"the workers lack spectralgpt or what it needs: {error}")
    raise error


def run_job(
    plan: Plan,
    scenes: Sequence[tuple[Path, ...]],
    *,
    retries: int = 2,
    pause_s: float = 5.0,
    overwrite: bool = False,
    engine: Engine | None = None,
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
        engine: makes the attempts; None does so in this process.
        progress: called with shares of scenes; they add up to the number of scenes.

    Raises:
        ConfigError: the folder holds another job's outputs, or the scenes themselves.
        OSError: nothing can be written there.
    """
    store, engine = RecordFolder(plan.output), engine or _in_this_process
    records = _register(plan, scenes, overwrite)
    todo = [record for record in records if not record.is_done(plan)]
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
            busy = [record for record, is_busy in found.values() if is_busy]
            _attempt_all(plan, busy, engine, found, wait=True)
    finally:
        store.write_manifest()
    done_before, tried = len(records) - len(todo), [each for each, _ in found.values()]
    return _outcome(plan, done_before, tried, store.write_items())


def _worth_trying(plan: Plan, found: Mapping[str, Attempt]) -> list[SceneRecord]:
    """Return what failed in this run for a reason that may have passed."""
    return [
        each for each, _ in found.values() if each.may_pass and each.run == plan.run
    ]


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
        target = plan.target(name)
        for path in (target, *load_job(plan.job).beside(target)):
            if path.exists() and not overwrite:
                raise ConfigError(
                    f"{path} is there already, and not of this job: pass "
                    "--overwrite, or choose another --output."
                )

    store = RecordFolder(plan.output)
    with store.registering():
        if not overwrite:
            plan.check()
        remove_leftovers(plan.output)
        records = store.register(scenes, check)
        folder.mkdir(exist_ok=True)
        plan.write()
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
    for attempt in engine(plan, records, wait, progress) if records else ():
        found[attempt[0].id] = attempt
        if time.monotonic() - written > _MANIFEST_EVERY_S:
            RecordFolder(plan.output).write_manifest()
            written = time.monotonic()


def _note_loss(plan: Plan, known: SceneRecord) -> Attempt:
    """Write into a scene's record that its process died, and others after it, too."""
    store = RecordFolder(plan.output)
    with store.claiming(known.id) as is_free:
        record = store.read(known.id) or known
        is_begun = record.status == "running" and record.run == plan.run
        if is_free and is_begun:
            reason = "its process died, which lack of memory may cause."
            record = replace(record, status="failed", error=reason, may_pass=True)
            store.write(record)
    # A scene that only waited in that process was not begun, and is to be.
    return record, record.status not in ("done", "failed")


def _outcome(
    plan: Plan, before: int, records: Sequence[SceneRecord], items: int
) -> JobOutcome:
    failures = [record for record in records if record.status != "done"]
    done = [record for record in records if record.status == "done"]
    ours = sum(record.run == plan.run for record in done)
    counts = {
        "done": ours,
        "done before": before,
        "done by another run": len(done) - ours,
        "failed": len(failures),
    }
    return JobOutcome(plan.output / MANIFEST, counts, failures, items)
