"""Self-contained HTML: one file that opens from disk, with no script and no network.

Everything that is text is escaped here, in one place. What a report says is left to the
modules that write one.
"""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from spectralgpt import __version__
from spectralgpt.atomic_files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Section", "Table", "render_report", "write_report"]

_DOTS_PER_INCH = 130
# The page may load nothing at all: pictures are in the file, and so is the style.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
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
    figures: Sequence[Picture] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)
    links: Sequence[tuple[str, str]] = field(default_factory=tuple)


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
    style = (files(__package__) / "report.css").read_text(encoding="utf-8")
    anchors = [f"section-{number}" for number, _ in enumerate(sections, start=1)]
    entries = "".join(
        f'<li><a href="#{anchor}">{html.escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "".join(
        _render_section(anchor, section)
        for anchor, section in zip(anchors, sections, strict=True)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<header>\n<h1>{html.escape(title)}</h1>\n{_paragraphs(summary)}"
        f"{_render_facts(facts)}</header>\n"
        f'<nav aria-label="Contents"><ol>{entries}</ol></nav>\n'
        f"<main>\n{body}</main>\n"
        f"<footer>Written by spectralgpt {html.escape(__version__)}.</footer>\n"
        "</body>\n</html>\n"
    )


def _render_section(anchor: str, section: Section) -> str:
    parts = [f'<section id="{anchor}">\n<h2>{html.escape(section.title)}</h2>\n']
    parts.append(_paragraphs(section.text))
    parts.append(_render_links(section.links))
    parts += [_render_table(table) for table in section.tables]
    parts += [_render_picture(picture) for picture in section.figures]
    return "".join([*parts, "</section>\n"])


def _paragraphs(text: str) -> str:
    blocks = [block.strip() for block in text.split("\n\n")]
    return "".join(f"<p>{html.escape(block)}</p>\n" for block in blocks if block)


def _render_links(links: Sequence[tuple[str, str]]) -> str:
    if not links:
        return ""
    # Quoting takes the colon of any scheme away, so that a link stays a relative path.
    entries = "".join(
        f'<li><a href="{html.escape(quote(path), quote=True)}">{html.escape(text)}</a>'
        "</li>"
        for text, path in links
    )
    return f"<ul>{entries}</ul>\n"


def _render_facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    entries = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for value, name in facts
    )
    return f'<dl class="facts">{entries}</dl>\n'


def _render_picture(picture: Picture) -> str:
    data = base64.b64encode(_png(picture.image)).decode("ascii")
    caption = html.escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" '
        f'alt="{html.escape(picture.alt, quote=True)}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _png(image: "Figure | Path") -> bytes:
    if isinstance(image, Path):
        return image.read_bytes()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    FigureCanvasAgg(image)
    image.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    return buffer.getvalue()


def _render_table(table: Table) -> str:
    header = "".join(
        f'<th scope="col">{html.escape(name)}</th>' for name in table.header
    )
    rows = "".join(f"<tr>{_render_cells(row)}</tr>\n" for row in table.rows)
    caption = (
        f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    )
    return (
        f'<div class="table" tabindex="0" role="group"><table>{caption}\n'
        f"<thead><tr>{header}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody></table></div>\n"
    )


def _render_cells(row: Iterable[str]) -> str:
    cells = []
    for index, value in enumerate(row):
        if index == 0:
            cells.append(f'<th scope="row">{html.escape(value)}</th>')
            continue
        kind = ' class="number"' if _NUMBER.fullmatch(value.strip()) else ""
        cells.append(f"<td{kind}>{html.escape(value)}</td>")
    return "".join(cells)
