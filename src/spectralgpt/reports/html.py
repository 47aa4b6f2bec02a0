"""Self-contained HTML: one file that opens from disk, with no script and no network.

`templates/page.html` draws it and escapes all text. What a report says is left to the
modules that write one.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt import __version__
from spectralgpt.atomic_files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Section", "Table", "render_report", "write_report"]

_DOTS_PER_INCH = 130
_NUMBER = re.compile(r"[-+\u2212]?[\d.,]+(e[-+]?\d+)?( ?[%a-zµ/]*)?( ± [\d.,]+)?")


@dataclass(frozen=True)
class Picture:
    """One figure of a report.

    Args:
        image: a matplotlib figure, or the path of a PNG file.
        alt: what the figure shows, for those who cannot see it.
        caption: text below the figure; how to read it.
    """

    image: "Figure | Path"
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A small table: a header and rows of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (separated by empty lines), figures, tables and links.

    A link is (its text, a path relative to the page); other pages cannot be named.
    """

    title: str
    text: str = ""
    figures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    links: Sequence[tuple[str, str]] = ()


def write_report(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    facts: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a report, replacing the file only when it is complete.

    Args:
        path: the HTML file.
        title: heading of the page.
        sections: the parts of the page, in order.
        summary: paragraphs below the heading.
        facts: (value, what it is) pairs shown large at the top.

    Returns:
        `path`.
    """
    page = render_report(title, sections, summary=summary, facts=facts)
    replace_file(path, lambda to: to.write_text(page, encoding="utf-8"))
    return path


def render_report(
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page that `write_report` writes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["png"] = _to_png
    environment.tests["numeric"] = lambda cell: _NUMBER.fullmatch(cell.strip())
    return environment.get_template("page.html").render(
        title=title,
        sections=sections,
        summary=summary,
        facts=facts,
        version=__version__,
    )


def _to_png(image: "Figure | Path") -> str:
    """Return a picture as base64 of PNG."""
    if isinstance(image, Path):
        content = image.read_bytes()
    else:
        buffer = BytesIO()
        image.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
        content = buffer.getvalue()
    return base64.b64encode(content).decode("ascii")
