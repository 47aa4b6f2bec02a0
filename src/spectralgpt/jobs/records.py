"""What is known of each scene of a job, and attempts at it: a small file, and a lock.

A record is changed only by the process that holds its scene's lock, and is replaced
whole. The system frees the lock when a process ends, however it ends, so that a scene
that is locked is being worked on and one that says `running` without a lock was
interrupted. Manifest and STAC item collection are made of the records, at any time.
"""

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from spectralgpt import __version__
from spectralgpt.errors import (
    BandError,
    CheckpointError,
    ConfigError,
    DataError,
    ShapeError,
    UnitError,
)
from spectralgpt.files import (
    checked_line,
    explain_unwritable,
    parse_checked,
    read_json,
    write_text,
)
from spectralgpt.jobs.kinds import Plan, load_job
from spectralgpt.scenes.inputs import SCENE_SUFFIXES, Progress

logger = logging.getLogger(__name__)

Status = Literal["waiting", "running", "done", "failed", "interrupted"]
_FOLDER = ".records"
_NOT_IN_NAMES = re.compile(r"[^\w.+-]+", re.ASCII)
_LONGEST_NAME = 150
_DIGITS = 8
MANIFEST = "manifest.jsonl"
_ITEMS = "items.json"
_LASTING = (BandError, CheckpointError, ConfigError, DataError, ShapeError, UnitError)
"""Errors that are the scene's own; others, such as of disk and network, may pass."""
_ONE_SCENE = threading.Lock()
"""Worker processes may have several threads; memory is bounded for one scene."""


@dataclass(frozen=True)
class SceneRecord:
    """What is known of a scene; a line of the manifest.

    Args:
        id: name of its outputs, unlike those of all other scenes of the job.
        scene: where it is.
        after: where its second date is, of two; empty of one.
        status: `waiting` for its first attempt, `running`, `done`, `failed`, or
            `interrupted`: its process ended in the middle.
        attempts: how often it was begun with this configuration.
        seconds: that the last attempt took.
        outputs: files that were made, under the job's folder.
        error: why the last attempt failed, in one line.
        may_pass: whether that may be gone the next time, such as a fault of the disk.
        started: time of the last attempt, UTC.
        host: machine and process of the last attempt.
        run: id of the run that made it.
        configuration: digest of model and options, see `spectralgpt.jobs.kinds`.
        versions: of the programs that matter for the outputs.
    """

    id: str
    scene: str
    status: Status = "waiting"
    attempts: int = 0
    seconds: float = 0.0
    outputs: tuple[str, ...] = ()
    error: str = ""
    may_pass: bool = False
    started: str = ""
    host: str = ""
    run: str = ""
    configuration: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    after: str = ""

    @property
    def dates(self) -> tuple[Path, ...]:
        """The scene, or both of its dates."""
        return tuple(Path(each) for each in (self.scene, self.after) if each)

    def to_line(self) -> str:
        """Return the record as JSON in one line that holds its own checksum."""
        return checked_line(asdict(self))

    def is_done(self, plan: Plan) -> bool:
        """Whether it is done with the plan's model and options, and still there."""
        return (
            self.status == "done"
            and self.configuration == plan.configuration
            and all((plan.output / name).is_file() for name in self.outputs)
        )


Attempt = tuple[SceneRecord, bool]
"""What is known of a scene after an attempt, and whether another process has it."""


class RecordFolder:
    """The records of a job's scenes, for all processes that work on it.

    Args:
        output: the job's folder.
        folder: of the records, under it.
    """

    def __init__(self, output: Path, folder: str = _FOLDER) -> None:
        self._output, self._folder = output, output / folder

    def read(self, name: str) -> SceneRecord | None:
        """Read what is known of a scene; None if that is nothing, or is damaged."""
        return _parse(self._path(name))

    def read_all(self) -> list[SceneRecord]:
        """Read the records of all scenes, by id; says which were interrupted."""
        return [self._with_truth(record) for record in self._read_whole()]

    def _read_whole(self) -> list[SceneRecord]:
        found = [_parse(path) for path in sorted(self._folder.glob("*.json"))]
        return [record for record in found if record is not None]

    def write(self, record: SceneRecord) -> None:
        """Replace what is known of a scene.

        Raises:
            OSError: it cannot be written.
        """
        write_text(self._path(record.id), record.to_line())

    @contextmanager
    def claiming(self, name: str, wait: bool = False) -> Iterator[bool]:
        """Hold a scene for this process; says whether it got it.

        Args:
            name: the scene's id.
            wait: until the process that has it is done with it, or dead.
        """
        lock = FileLock(self._path(name).with_suffix(".lock"))
        try:
            lock.acquire(timeout=-1 if wait else 0, poll_interval=0.5)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def registering(self) -> Iterator[None]:
        """Hold the list of scenes, to add to it.

        Raises:
            OSError: the folder cannot be made.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / "list.lock"):
            yield

    def register(
        self, scenes: Sequence[tuple[Path, ...]], check: Callable[[str], None]
    ) -> list[SceneRecord]:
        """Return the record of each scene, a new one for those that have none.

        Names are the files' own, of the first date; a scene whose name another one has
        gets a digest of its path, too, so that names stay while a list grows. Inside of
        `registering`.

        Args:
            scenes: the absolute paths of their dates.
            check: raises an error if the name of a new record cannot be used.

        Raises:
            ConfigError: a scene finds no name of its own.
            OSError: a record cannot be written.
        """
        # Names that differ in case alone are one file on some systems. A record that is
        # not as it was written is none: its scene is done anew.
        taken = {record.id.lower() for record in self._read_whole()}
        found = [self._find(dates, taken) for dates in scenes]
        new = [record for record, is_new in found if is_new]
        for record in new:
            # Where a damaged record lies, the outputs are this job's.
            if not self._path(record.id).exists():
                check(record.id)
        for record in new:
            self.write(record)
        return [record for record, _ in found]

    def write_manifest(self) -> None:
        """Write manifest.jsonl: a line for each scene that the folder knows, by id.

        Raises:
            OSError: it cannot be written.
        """
        # Of several runs none may put back what it read before another one wrote.
        with self.registering():
            lines = [record.to_line() for record in self.read_all()]
            write_text(self._output / MANIFEST, "".join(lines))

    def write_items(self) -> int:
        """Write items.json, a STAC item collection of the scenes that are done.

        Scenes without a georeference or a day have no STAC item, and are left out.

        Returns:
            How many there are.

        Raises:
            OSError: it cannot be written.
        """
        with self.registering():
            paths = [
                self._output / name
                for record in self.read_all()
                if record.status == "done"
                for name in record.outputs
                if name.endswith(".json")
            ]
            # What someone has deleted is done again by the next run.
            read = (_read_item(path) for path in paths if path.is_file())
            items = [item for item in read if item is not None]
            collection = {"type": "FeatureCollection", "features": items}
            text = json.dumps(collection, ensure_ascii=False)
            write_text(self._output / _ITEMS, text)
        return len(items)

    def _find(
        self, dates: tuple[Path, ...], taken: set[str]
    ) -> tuple[SceneRecord, bool]:
        """Return a scene's record, and whether it is a new one."""
        scene, *others = map(str, dates)
        plain, after = _name_of(scene), "".join(others)
        digest = sha256(os.fsencode(scene + after)).hexdigest()[:_DIGITS]
        names = (plain, f"{plain}_{digest}")
        for name in names:
            known = self.read(name)
            if known is not None and (known.scene, known.after) == (scene, after):
                return known, False
        for name in names:
            if name.lower() not in taken:
                taken.add(name.lower())
                return SceneRecord(name, scene, after=after), True
        raise ConfigError(
            f"{scene} would share its outputs with another scene: use another --output."
        )

    def _with_truth(self, record: SceneRecord) -> SceneRecord:
        """Tell a scene that is being worked on from one that was interrupted."""
        if record.status != "running":
            return record
        with self.claiming(record.id) as is_free:
            return replace(record, status="interrupted") if is_free else record

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _this_process() -> str:
    """Name machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _name_of(scene: str) -> str:
    """Return the scene's own name as a file name, without the ending of a raster."""
    path = Path(scene)
    name = path.stem if path.suffix.lower() in SCENE_SUFFIXES else path.name
    return _NOT_IN_NAMES.sub("_", name).strip("._")[:_LONGEST_NAME] or "scene"


def _parse(path: Path) -> SceneRecord | None:
    with contextlib.suppress(OSError, TypeError):
        values = parse_checked(path.read_bytes())
        if values is not None:
            outputs = tuple(map(str, values.pop("outputs")))
            return SceneRecord(**values, outputs=outputs)
    return None


def _read_item(path: Path) -> dict[str, Any] | None:
    """Read an item that a scene's work wrote, with addresses from one folder above."""
    try:
        item: dict[str, Any] = read_json(path)
        for asset in item["assets"].values():
            asset["href"] = f"./{path.parent.name}/{asset['href'].removeprefix('./')}"
    except (DataError, KeyError, TypeError, AttributeError):
        logger.warning(
            "%s is damaged, so %s lacks it: delete it and run the job again.",
            path,
            _ITEMS,
        )
        return None
    return item


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
            return known, True
        found = records.read(known.id) or known
        # By another run, or by a process that died before it could say so.
        has_failed_since = found.status == "failed" and found != known
        is_same = found.configuration == plan.configuration
        if found.is_done(plan) or (has_failed_since and is_same):
            return found, False
        return _attempt(plan, records, found, progress), False


def _check_worker(plan: Plan) -> None:
    """Refuse to work with another version or model than the plan says."""
    if plan.version != __version__:
        raise ConfigError(
            f"{_this_process()} runs spectralgpt {__version__}, the job is of "
            f"{plan.version}: install the same on all machines."
        )
    if load_job(plan.job).weights != plan.weights:
        raise ConfigError(
            f"{_this_process()} finds another model at {plan.job.model} than the job "
            "began with: run it again, with --overwrite if the new one is meant."
        )


def _attempt(
    plan: Plan, records: RecordFolder, found: SceneRecord, progress: Progress | None
) -> SceneRecord:
    _check_worker(plan)
    is_same = found.configuration == plan.configuration
    record = SceneRecord(
        id=found.id,
        scene=found.scene,
        after=found.after,
        status="running",
        attempts=(found.attempts if is_same else 0) + 1,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        host=_this_process(),
        run=plan.run,
        configuration=plan.configuration,
        versions=plan.versions,
    )
    records.write(record)
    began = time.monotonic()
    try:
        target = plan.target(record.id)
        ready: Any = load_job(plan.job)
        items = ready.describe(record.dates)
        made = ready.finish(ready.make(items, target, progress))
        names = tuple(path.relative_to(plan.output).as_posix() for path in made)
        record = replace(record, status="done", outputs=names)
    except Exception as error:
        logger.info("%s failed", record.scene, exc_info=True)
        may_pass = not isinstance(error, _LASTING)
        text = _one_line(error)
        record = replace(record, status="failed", error=text, may_pass=may_pass)
    record = replace(record, seconds=round(time.monotonic() - began, 3))
    records.write(record)
    return record


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    is_ours = type(error).__module__.startswith("spectralgpt.")
    plain = text if is_ours and text else f"{type(error).__name__}: {text}"
    return explain_unwritable(error) or plain
