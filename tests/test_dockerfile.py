"""What can be told of the container without building it."""

import json
import re
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instructions with their arguments, in order."""
    text = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(first, rest) for first, _, rest in (line.partition(" ") for line in lines)]


def test_all_that_the_package_is_built_of_is_copied(
    steps: list[tuple[str, str]],
) -> None:
    copied = {
        name for first, rest in steps if first == "COPY" for name in rest.split()[:-1]
    }
    assert all((PROJECT / name).exists() for name in copied)
    needed = {"pyproject.toml", "README.md", "src"}
    for name in SETTINGS["project"]["license-files"]:
        needed.add(name.partition("/")[0])
    assert copied == needed
    ignored = (PROJECT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {name[1:] for name in ignored if name[0] == "!"} == needed


def test_extras_and_python_are_those_that_we_have(
    steps: list[tuple[str, str]],
) -> None:
    [extras] = [rest for first, rest in steps if rest.startswith("EXTRAS=")]
    named = set(extras.removeprefix("EXTRAS=").split(","))
    assert named <= set(SETTINGS["project"]["optional-dependencies"])
    assert ("RUN", 'pip install --no-cache-dir ".[$EXTRAS]"') in steps
    assert steps[0][0] == "FROM"
    python = re.fullmatch(r"python:(3\.\d+)-slim", steps[0][1])
    assert python is not None
    classifier = f"Programming Language :: Python :: {python[1]}"
    assert classifier in SETTINGS["project"]["classifiers"]


def test_it_runs_our_command_and_not_as_root(steps: list[tuple[str, str]]) -> None:
    last = dict(steps)
    assert json.loads(last["ENTRYPOINT"]) == list(SETTINGS["project"]["scripts"])
    names = [first for first, _ in steps]
    assert last["USER"] not in ("root", "0")
    assert names.index("USER") > max(i for i, n in enumerate(names) if n == "RUN")
