"""Every example in the README and in docs/ runs as it stands, in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import read_examples

PROJECT = Path(__file__).resolve().parent.parent
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
    [*DOCUMENTS, PROJECT / "ARCHITECTURE.md", PROJECT / "CONTRIBUTING.md"],
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
