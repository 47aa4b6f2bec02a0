"""A job that notes what it does, for tests of how jobs are run."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectralgpt.errors import DataError
from spectralgpt.scenes.inputs import Progress


@dataclass(frozen=True)
class NotingJob:
    """Copy each scene's text; notes "begin NAME" and "end NAME" in `notes`.

    What the text says happens: "bad" fails for good, "flaky N" fails N times as a disk
    may, "bug" raises what nobody expected, "deadly" kills the process.
    """

    notes: str
    delay_s: float = 0.0
    label: str = "one"
    model: str = "noting"

    @property
    def settings(self) -> dict[str, str]:
        return {"command": "note", "label": self.label}

    def load(self) -> "NotingJob":
        return self

    @property
    def weights(self) -> str:
        return f"weights of {self.model}"

    def describe(self, dates: tuple[Path, ...]) -> tuple[Path, ...]:
        return dates

    def beside(self, target: Path) -> tuple[Path, ...]:
        return (target.with_suffix(".gpkg"),)

    def finish(self, made: Path) -> list[Path]:
        return [made]

    def make(
        self, dates: tuple[Path, ...], target: Path, progress: Progress | None
    ) -> Path:
        scene = dates[0]
        self._note(f"begin {scene.stem}")
        begun = count_notes(Path(self.notes))[f"begin {scene.stem}"]
        text = scene.read_text(encoding="utf-8")
        if text == "bad":
            raise DataError(f"{scene} is\nno good.")
        if text.startswith("flaky") and begun <= int(text.split()[1]):
            raise OSError(5, "Input/output error")
        if text == "bug":
            raise KeyError("surprise")
        if text == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        for part in range(4):
            time.sleep(self.delay_s / 4)
            if progress is not None:
                progress((part + 1) / 4)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text} {self.label}", encoding="utf-8")
        self._note(f"end {scene.stem}")
        return target

    def _note(self, line: str) -> None:
        # One write to a file that is appended to is one line, whoever else writes.
        with open(self.notes, "ab", buffering=0) as file:
            file.write(f"{line}\n".encode())


def count_notes(path: Path) -> Counter[str]:
    """Count the lines that jobs noted."""
    return Counter(path.read_text(encoding="utf-8").splitlines())


def manifest(output: Path) -> dict[str, dict[str, Any]]:
    """Read the manifest of a job, by scene."""
    lines = (output / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["id"]: row for row in rows}


def of_one_date(scenes: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return scenes as jobs take them."""
    return [(scene,) for scene in scenes]


def write_scenes(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write scenes with what is to happen to them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.tif").write_text(text, encoding="utf-8")
    return [folder / f"{name}.tif" for name in texts]
