"""The folder that is made: whole or not at all, and the command that makes it again."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from spectralgpt.atomic_files import folder_beside
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling.config import LabelSource, TileRules
from spectralgpt.errors import DataError

__all__ = ["appearing", "check_target", "command_of"]


def command_of(
    scenes: Sequence[Path],
    image_format: ImageFormat,
    labels: LabelSource,
    rules: TileRules,
    output: Path,
    licence: str,
) -> list[str]:
    """Return the command line that does the same."""
    words = ["spectralgpt", "data", "label", "--scenes", *map(str, scenes)]
    words += ["--output", str(output)]
    for name, value in image_format.facts.items():
        words += [f"--{name}", _word(value)]
    for values in (labels, rules, rules.fractions):
        prefix = "fractions." if values is rules.fractions else ""
        for field in fields(values):
            value = getattr(values, field.name)
            if field.name != "fractions" and value != field.default:
                words += [f"--{prefix}{field.name}", _word(value)]
    return words + (["--licence", licence] if licence else [])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def check_target(output: Path, own_files: Sequence[str], overwrite: bool) -> None:
    """Refuse a folder that is there, unless it may be replaced.

    Args:
        output: folder to make.
        own_files: what tells a folder that was made here before.
        overwrite: replace such a one.

    Raises:
        DataError: the folder is there.
    """
    if not output.exists():
        return
    if output.is_dir() and not any(output.iterdir()):
        return
    if not overwrite:
        raise DataError(f"{output} exists. Choose another folder, or pass --overwrite.")
    if not all((output / name).is_file() for name in own_files):
        raise DataError(
            f"{output} lacks {' or '.join(own_files)}, so it is no labelled set and "
            "is not replaced. Choose another folder."
        )


@contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes the output if nothing goes wrong."""
    output = output.absolute()
    with folder_beside(output) as beside:
        folder = beside / output.name
        folder.mkdir()
        yield folder
        if output.exists():
            shutil.rmtree(output)
        folder.replace(output)
