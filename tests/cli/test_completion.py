"""A shell and an editor complete what the command line takes."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from spectralgpt.cli.main import COMMANDS, main
from spectralgpt.config import read_mapping
from spectralgpt.recipes import find_recipe, list_recipes

TASKS = {
    "classification": ("bigearthnet", "eurosat", "finetune_small", "finetune_frozen"),
    "segmentation": ("finetune_segmentation", "segmunich"),
    "regression": ("finetune_regression",),
    "change": ("finetune_change", "oscd"),
}
PRETRAINING = [name for name in list_recipes() if name.startswith(("pretrain", "demo"))]


def schema_of(*words: str) -> dict[str, Any]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as stopped:
        main([*words, "--print-completion", "jsonschema"])
    assert stopped.value.code in (0, None)
    schema: dict[str, Any] = json.loads(said.getvalue())
    Draft202012Validator.check_schema(schema)
    return schema


def faults(schema: dict[str, Any], values: Any) -> list[str]:
    found = Draft202012Validator(schema).iter_errors(values)
    return [f"{each.json_path}: {each.message}" for each in found]


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    asked = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '$(complete -p spectralgpt | sed "s/.*-F \\([^ ]*\\) .*/\\1/"); '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "--norc", "-c", asked, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = [sys.executable, "-m", "spectralgpt", "--print-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    path = tmp_path_factory.mktemp("shell") / "spectralgpt.bash"
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["pre"], ["predict", "pretrain"]),
        ([""], sorted(COMMANDS)),
        (["--v"], ["--version"]),
        (["probe", "--he"], ["--head", "--help"]),
        (["probe", "--head", ""], ["auto", "forest", "knn", "linear", "ridge"]),
        (["probe", "cells", "--head", "k"], ["knn"]),
        # As bash cuts --head=l.
        (["probe", "--head", "=", "l"], ["linear"]),
        (["probe", "--head", "="], ["auto", "forest", "knn", "linear", "ridge"]),
        (["data", ""], ["check", "label", "list", "pack"]),
        (["data", "-v", "l"], ["label", "list"]),
        (["weights", ""], ["download", "list", "verify"]),
        (["data", "label", "--class-"], ["--class-column"]),
        (["embed", "--batch"], ["--batch-size"]),
        (["pretrain", "--data.crops.h"], ["--data.crops.horizontal-flip"]),
        (["pretrain", "--no-data.crops.h"], ["--no-data.crops.horizontal-flip"]),
        (["finetune", "change", "--trainer.prec"], ["--trainer.precision"]),
        (["finetune", "change", "--trainer.precision", "b"], ["bf16"]),
        (
            ["pretrain", "--config", "pretrain_sim"],
            ["pretrain_simclr", "pretrain_simmim"],
        ),
        (["embed", "--sensor", "sentinel"], ["sentinel-2-l1c", "sentinel-2-l2a"]),
        (["embed", "--model", "spectralgpt"], ["spectralgpt-tiny-s2"]),
        # Files are left to the shell, also where a value is called like a command.
        (["probe", ""], []),
        (["probe", "--output", "pretrain", "--blo"], ["--block-m"]),
        (["embed", "--config", "mine"], []),
        (["pretrain", "--model", "spectral"], []),
    ],
    ids=" ".join,
)
def test_bash_completes(script: Path, words: list[str], offered: list[str]) -> None:
    assert complete(script, "spectralgpt", *words) == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_takes_the_script(script: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spectralgpt", "--print-completion=zsh"]
    made = tmp_path / "spectralgpt.zsh"
    made.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    assert made.read_text().endswith(script.read_text())
    asked = f"source {made}; print $_comps[spectralgpt]"
    done = subprocess.run(
        ["zsh", "-f", "-c", asked],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert "_spectralgpt" in done.stdout, done.stderr


def test_options_of_what_is_not_installed_are_left_out() -> None:
    code = """
import sys
sys.modules["lightning"] = None
from spectralgpt.cli.main import main
sys.exit(main(["--print-completion", "bash"]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = "options of pretrain are left out: this needs lightning: pip install"
    assert told in done.stderr
    assert "demo pretrain finetune" in done.stdout
    assert "'spectralgpt pretrain -')" not in done.stdout
    assert "'spectralgpt embed -')" in done.stdout


@pytest.mark.parametrize("words", [[], ["fish"], ["jsonschema"], ["bash", "more"]])
def test_another_shell_is_misuse(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--print-completion", *words]) == 2
    error = capsys.readouterr().err
    assert "takes bash or zsh" in error
    assert "spectralgpt COMMAND --print-completion jsonschema" in error


@pytest.fixture(scope="module")
def pretrain_schema() -> dict[str, Any]:
    return schema_of("pretrain")


@pytest.mark.parametrize("name", PRETRAINING)
def test_recipes_of_pretraining_fit_its_schema(
    name: str, pretrain_schema: dict[str, Any]
) -> None:
    assert faults(pretrain_schema, read_mapping(find_recipe(name))) == []


@pytest.mark.parametrize("task", TASKS)
def test_recipes_of_a_task_fit_its_schema_alone(task: str) -> None:
    schema = schema_of("finetune", task)
    for name in TASKS[task]:
        assert faults(schema, read_mapping(find_recipe(name))) == []
    assert faults(schema, read_mapping(find_recipe("pretrain_tiny"))) != []


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"modle": {}}, "'modle' was unexpected"),
        ({"model": {"patchsize": 8}}, "'patchsize' was unexpected"),
        ({"trainer": {"epochs": "many"}}, "'many' is not of type 'integer'"),
        ({"model": {"size": "giant"}}, "'giant' is not one of"),
        # Our reader knows no such key.
        ({"$schema": "pretrain.json"}, "'$schema' was unexpected"),
    ],
)
def test_an_editor_sees_what_the_command_would_refuse(
    values: dict[str, Any], fault: str, pretrain_schema: dict[str, Any]
) -> None:
    (found,) = faults(pretrain_schema, values)
    assert fault in found


def test_a_schema_describes_the_keys_and_asks_for_none(
    pretrain_schema: dict[str, Any],
) -> None:
    assert faults(pretrain_schema, {}) == []
    size = pretrain_schema["properties"]["data"]["properties"]["image_size"]
    assert size["type"] == "integer"
    assert size["default"] == 96
    assert "px" in size["description"]
