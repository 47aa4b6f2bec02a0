"""Self-contained HTML: one file that opens from disk, with no script and no network.

A page is a jinja2 template that extends `templates/page.html`; what it says stands
there, what it shows is handed over. All text is escaped.
"""

import base64
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralgpt import __version__
from spectralgpt.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
_DOTS_PER_INCH = 130
_NUMBER = re.compile(r"[-+\u2212]?[\d.,]+(e[-+]?\d+)?( ?[%a-zµ/]*)?( ± [\d.,]+)?")


def write_report(
    path: Path,
    template: Path,
    title: str,
    *,
    facts: Sequence[tuple[str, str]] = (),
    **shown: Any,
) -> Path:
    """Write a report, replacing the file only when it is complete.

    Args:
        path: the HTML file.
        template: extends page.html, and may use the macros of parts.html.
        title: heading of the page.
        facts: (value, what it is) pairs shown large at the top.
        **shown: what the template names: texts, rows of tables, and pictures, which are
            matplotlib figures or paths of PNG files.

    Returns:
        `path`.
    """
    page = _render_report(template, title, facts=facts, **shown)
    write_text(path, page)
    return path


def _render_report(
    template: Path, title: str, *, facts: Sequence[tuple[str, str]] = (), **shown: Any
) -> str:
    """Return the page that `write_report` writes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["png"] = _to_png
    environment.tests["numeric"] = lambda cell: _NUMBER.fullmatch(cell.strip())
    return environment.get_template(template.name).render(
        title=title, facts=facts, version=__version__, contents=[], **shown
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
