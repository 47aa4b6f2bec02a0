"""Scenes done in this process, named after their files and listed in a table."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectralgpt.errors import ConfigError
from spectralgpt.files import write_table
from spectralgpt.jobs.kinds import ReadyJob
from spectralgpt.jobs.records import RecordFolder, SceneRecord
from spectralgpt.scenes.inputs import Outcome, Progress, for_each_input, name_maps

_FINISHED = ".finished"
"""Folder of the records of what is done, while not all is."""


def run_listed(
    ready: ReadyJob,
    scenes: Sequence[tuple[Path, ...]],
    output: Path,
    *,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Do every scene here, its outputs named after its file, and list them in a table.

    A run that is stopped leaves records of what it has done, and is continued.

    Args:
        ready: what is done.
        scenes: the dates of each.
        output: folder of what is made.
        overwrite: replace what is there.
        strict: stop at the first bad scene.
        progress: called with shares of scenes; they add up to the number of scenes.

    Raises:
        ConfigError: an output would replace another one, or a scene.
        DataError: no scene could be used.
    """
    dates = {paths[0]: paths for paths in scenes}
    targets = name_maps(list(dates), output)
    store = RecordFolder(output, _FINISHED)
    known = {path: store.read(target.stem) for path, target in targets.items()}
    # Each raster appears after the files that belong to it.
    finished = {
        path: record.configuration
        for path, record in known.items()
        if record is not None and targets[path].is_file()
    }
    others = [target for path, target in targets.items() if path not in finished]
    folders = {date.resolve().parent for each in dates.values() for date in each}
    for target in others:
        if target.resolve().parent in folders:
            raise ConfigError(
                f"{target.parent} holds the images themselves: choose another --output."
            )
        for made_path in (target, *ready.beside(target)):
            if made_path.exists() and not overwrite:
                raise ConfigError(f"{made_path} is there already: pass --overwrite.")
    rows: list[dict[str, Any]] = []

    def work(path: Path, advance: Progress) -> None:
        items, target = ready.describe(dates[path]), targets[path]
        digest = ready.digest(items, target)
        if digest and finished.get(path) == digest:
            made: Any = ready.look_at(items, target)
        else:
            if path in finished and not overwrite:
                raise ConfigError(
                    f"{target} is there already, made of another model, image or "
                    "settings: pass --overwrite."
                )
            made = ready.make(items, target, advance)
            if digest:
                record = SceneRecord(target.stem, str(path), "done")
                store.write(replace(record, configuration=digest))
        rows.extend(ready.rows(path, made))
        ready.finish(made)

    failures = for_each_input(list(dates), work, strict=strict, progress=progress)
    table = output / ready.table
    write_table(table, rows)
    shutil.rmtree(output / _FINISHED, ignore_errors=True)
    return Outcome(table, len(scenes) - len(failures), failures)
