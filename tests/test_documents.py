"""Every example in the README and in docs/ runs as it stands, in an empty folder."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from spectralgpt.cli.main import COMMANDS
from tests.documents import read_examples

PROJECT = Path(__file__).resolve().parent.parent
CHINESE = PROJECT / "README.zh-CN.md"
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
TIME_LIMIT_S = 900


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_examples_run(document: Path, tmp_path: Path) -> None:
    # The commands of this environment come first, as in an activated one.
    bin_folder = Path(sys.executable).parent
    environment = {
        "PATH": f"{bin_folder}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "COLUMNS": "100",
    }
    for example in read_examples(document):
        if example.file is not None:
            path = tmp_path / example.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(example.code, encoding="utf-8")
        if not example.is_run or example.language == "yaml":
            continue
        command = {
            "bash": ["bash", "-euo", "pipefail", "-c", example.code],
            "python": [sys.executable, "-c", example.code],
        }[example.language]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
        )
        assert done.returncode == 0, f"{example.code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "document",
    [*DOCUMENTS, CHINESE, PROJECT / "ARCHITECTURE.md", PROJECT / "CONTRIBUTING.md"],
    ids=lambda path: path.name,
)
def test_links_and_files_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing = [t for t in targets if not (document.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("script", [".ci/run", "Makefile"])
def test_scripts_name_tests_that_exist(script: str) -> None:
    text = (PROJECT / script).read_text(encoding="utf-8")
    named = set(re.findall(r"\btests/[\w/]+(?:\.py)?", text))
    assert {name for name in named if not (PROJECT / name).exists()} == set()


def test_architecture_draws_the_rows_that_are_enforced() -> None:
    from tests.test_architecture import ROWS

    text = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = re.findall(r"```\ncli\n(.*?)```", text, re.DOTALL)[0].splitlines()
    words = [{word.strip() for word in line.split("|")} for line in drawn]
    assert words == list(reversed(ROWS[:-1]))


def test_readme_is_short_and_names_both_commands() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert "make demo" in text
    assert "make test" in text


def test_the_chinese_readme_has_the_blocks_of_the_readme() -> None:
    # Those of the README are run; comments are in the reader's language.
    blocks = []
    for path in (PROJECT / "README.md", CHINESE):
        found = re.findall(r"```.*?```", path.read_text(encoding="utf-8"), re.DOTALL)
        blocks.append([re.sub(r"\s*#.*", "", block) for block in found])
    assert blocks[1] == blocks[0]


def test_each_readme_links_to_the_other_and_to_the_same_places() -> None:
    texts = [p.read_text(encoding="utf-8") for p in (PROJECT / "README.md", CHINESE)]
    places = [sorted(re.findall(r"\]\(([^)]+)\)", text)) for text in texts]
    places[0].remove(CHINESE.name)
    places[1].remove("README.md")
    assert places[1] == places[0]


def test_a_registry_shows_no_link_that_leads_nowhere() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    shown = (PROJECT / "README.md").read_text(encoding="utf-8")
    hook = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for each in hook["substitutions"]:
        shown = re.sub(each["pattern"], each["replacement"], shown)
    links = re.findall(r"\]\(([^)]*)\)", shown)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


NOTEBOOKS = sorted((PROJECT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_link_to_places(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []
    text = "".join("".join(cell["source"]) for cell in cells)
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert targets
    assert [target for target in targets if not (path.parent / target).exists()] == []
    # The site lists it.
    pages = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"notebooks/{path.stem}.md" in pages


def test_each_command_has_its_functions_in_the_reference() -> None:
    text = (PROJECT / "docs/reference.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*) \|$", text, re.MULTILINE))
    assert sorted(rows) == sorted(COMMANDS)
    for name in re.findall(r"`([\w.]+)`", " ".join(rows.values())):
        module, _, function = f"spectralgpt.{name}".rpartition(".")
        assert callable(getattr(import_module(module), function)), name
        assert "." not in name or f"::: spectralgpt.{name}\n" in text


def test_the_site_lists_every_page() -> None:
    pages = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    names = [path.name for path in DOCUMENTS[1:]]
    assert [name for name in names if name not in pages] == []
