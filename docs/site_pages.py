"""Pages of the site that are made: files beside docs/, commands, notebooks.

Documents link as they lie in the repository, so that they can be read there too. On the
site README.md is the first page; other files that are linked to from beyond docs/ are
copied to the same place below the site's root.
"""

import contextlib
import io
import os
import posixpath
import re
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    *("README.md", "README.zh-CN.md"),
    *("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"),
)
# Of a terminal.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Links and pictures.
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages that do not lie in docs/, and what they link to."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    for file in list(files.documentation_pages()):
        texts[f"docs/{file.src_uri}"] = file.content_string
    linked = {
        posixpath.normpath(posixpath.join(posixpath.dirname(name), found[1]))
        for name, text in texts.items()
        for found in _LINK.findall(text)
    }
    add = partial(File.generated, config)
    for name in sorted({*PAGES, *linked}):
        if not name.startswith("docs/") and (ROOT / name).is_file():
            if name.endswith(".md"):
                text = (ROOT / name).read_text(encoding="utf-8")
                files.append(add(_place(name), content=text))
            else:
                files.append(add(name, abs_src_path=str(ROOT / name)))
    written = files.src_uris["commands.md"]
    files.remove(written)
    files.append(add("commands.md", content=written.content_string + _commands()))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(add(f"notebooks/{path.stem}.md", content=_notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between places of the repository into such between pages."""
    source = page.file.src_uri
    home = Path("docs") / source
    beside = {_place(name): name for name in PAGES}
    if page.file.generated_by and source in beside:
        home = Path(beside[source])
    elif source.startswith("src/"):
        home = Path(source)

    def turn(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home.parent.as_posix(), match[2]))
        there = _place(target)
        return match[1] + os.path.relpath(there, posixpath.dirname(source)) + match[3]

    return _LINK.sub(turn, markdown)


def _place(name: str) -> str:
    """Return where a file of the repository lies on the site."""
    if name == "README.md":
        return "index.md"
    return name.removeprefix("docs/").replace(".ipynb", ".md")


def _commands() -> str:
    """Describe every command, as `--help` does."""
    from spectralgpt.cli.main import COMMANDS, main

    os.environ["COLUMNS"] = "72"  # as many as the page shows
    parts = ["", "What `--help` says of each command:"]
    for name, text in COMMANDS.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([name, "--help"])
        if not said.getvalue():
            raise RuntimeError(f"spectralgpt {name} --help says nothing")
        shown = f"```text\n{said.getvalue().strip()}\n```"
        parts += [f"## {name}", f"{text[0].upper()}{text[1:]}.", shown]
    return "\n\n".join(parts)


def _notebook(path: Path) -> str:
    """Return a notebook as a page, with what it gave where `make site` has run it."""
    made = ROOT / "build" / "notebooks" / path.name
    parts = []
    for cell in nbformat.read(made if made.exists() else path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        said = ""
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                png = data["image/png"].replace("\n", "")
                parts.append(f"![What the cell shows](data:image/png;base64,{png})")
            elif output.output_type == "stream" and output.name == "stdout":
                said += _COLOUR.sub("", output.text)
        if said.strip():
            parts.append(f"```text\n{said.rstrip()}\n```")
    return "\n\n".join(parts)
