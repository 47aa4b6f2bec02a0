"""Running the examples of the documents as a reader would."""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^\n]+ -->\n)?```(?P<language>bash|python|yaml)"
    r"(?P<file> title=\"[^\"]+\")?\n(?P<code>.*?)```",
    re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    """One fenced block of a document.

    A block titled with a file name is written to that file; one after a comment
    `<!-- not run: why -->` is left out.
    """

    language: str
    code: str
    file: str | None
    is_run: bool


def read_examples(path: Path) -> list[Example]:
    """Read the fenced bash, python and yaml blocks of a document, in order."""
    examples = []
    for match in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        file = match["file"]
        examples.append(
            Example(
                match["language"],
                match["code"],
                file.split('"')[1] if file else None,
                match["skip"] is None,
            )
        )
    return examples
