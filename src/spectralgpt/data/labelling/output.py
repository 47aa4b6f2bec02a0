"""The command that makes a labelled set again."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling.config import LabelSource, TileRules

__all__ = ["command_of"]


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
