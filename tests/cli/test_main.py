import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import spectralgpt
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.cli.main import COMMANDS, main
from tests.cli.test_pretrain import SMALL
from tests.tiny import tiny_contract, tiny_model


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_no_command_is_misuse() -> None:
    assert main([]) == 2
    assert main(["-q"]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-q", "--version"]) == 0
    assert capsys.readouterr().out == f"spectralgpt {spectralgpt.__version__}\n"


def test_unknown_command_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pretrian"]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"spectralgpt {name}" in printed
    assert not re.search(r"<(class|function)|Union\[|Literal\[|--[a-z.]+_", printed)


def test_our_errors_are_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", "nowhere"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no model at nowhere")
    assert error.count("\n") == 1


def test_what_a_name_holds_does_not_move_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", "a\x1b[2Jb\u202e"]) == 1
    assert "no model at a\\x1b[2Jb\\u202e:" in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    for words in (["info", "nowhere", "--debug"], ["-v", "--debug", "info", "nowhere"]):
        with pytest.raises(spectralgpt.errors.CheckpointError):
            main(words)


def test_convert_goes_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_model(tmp_path / "ours", tiny_model(), tiny_contract())
    theirs = tmp_path / "theirs"
    words = ["convert", str(source), "--to", "published", "--output", str(theirs)]
    assert main(words) == 0
    made = Path(capsys.readouterr().out.splitlines()[-1])
    assert made == theirs / "SpectralGPT.pth"
    assert main(["convert", str(made), "--output", str(tmp_path / "back")]) == 0
    back = load_model(tmp_path / "back").model.state_dict()
    for name, value in tiny_model().state_dict().items():
        assert back[name].equal(value)


def test_convert_does_not_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_model(tmp_path / "ours", tiny_model(), tiny_contract())
    assert main(["convert", str(source), "--output", str(source)]) == 1
    assert "pass --overwrite" in capsys.readouterr().err


def test_info_of_a_checkpoint_names_its_bands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_model(tmp_path / "ours", tiny_model(), tiny_contract())
    assert main(["info", str(source)]) == 0
    printed = capsys.readouterr().out
    assert "B8A" in printed
    assert "scaling image-minmax" in printed


def test_info_of_a_sensor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "landsat-8-9-l2"]) == 0
    assert "865" in capsys.readouterr().out


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "pretrain_tiny" in capsys.readouterr().out
    assert main(["recipes", "pretrain_tiny"]) == 0
    assert capsys.readouterr().out.startswith("#")
    assert main(["recipes", "pretrain_tinny"]) == 1
    assert "Did you mean 'pretrain_tiny'?" in capsys.readouterr().err


def test_importing_the_package_is_light() -> None:
    heavy = ("lightning", "torchgeo", "matplotlib", "sklearn", "geopandas", "rasterio")
    code = f"""
import sys, spectralgpt, spectralgpt.cli.main
loaded = [name for name in {heavy!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("below", ["", "sub"])
@pytest.mark.parametrize("command", ["convert", "simulate"])
def test_output_that_is_a_file_is_explained(
    tmp_path: Path, command: str, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    words = {"convert": ["convert", "tiny"], "simulate": ["simulate", "--images", "60"]}
    output = tmp_path / "file" / below
    assert main([*words[command], "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Errno" not in error
    assert str(tmp_path / "file") in error
    assert (tmp_path / "file").read_text() == "mine"


QUICK = [
    ["embed", "gone.tif", "--model", "tiny", "--output", "o"],
    ["embed", "here.tif", "--model", "gone", "--output", "o"],
    ["embed", "here.tif", "--model", "tiny", "--output", "o", "--sensor", "sentinel"],
    ["embed", "here.tif", "--model", "tiny", "--output", "o", "--bogus"],
    ["predict", "gone.tif", "--model", "gone", "--output", "o"],
    ["predict", "--before", "gone.tif", "--model", "tiny", "--output", "o"],
    ["reconstruct", "gone.tif", "--model", "tiny", "--output", "o"],
    ["batch", "predict", "gone", "--model", "gone", "--output", "o"],
    ["export", "gone", "--output", "o.onnx"],
    ["convert", "gone.pth", "--output", "o"],
    ["similar", "gone.tif", "--point", "1,2", "--output", "o"],
    ["cluster", "gone.tif", "--output", "o"],
    ["view", "gone.tif"],
    ["pretrain", "--config", "gone", "--output", "o"],
    ["pretrain", "--config", "wrong.yaml", "--output", "o"],
    ["pretrain", "--data.root", "gone", "--output", "o"],
    ["pretrain", "--model.start_from", "gone", "--output=o"],
    ["pretrain", "--output", "run"],
    ["finetune", "change", "--model", "tiny", "--output", "run"],
    ["finetune", "classification", "--model", "gone", "--output", "o"],
    ["finetune", "segmentation", "--model", "tiny", "--output", "o", "--config", "no"],
    ["evaluate", "--model", "gone", "--data.root", ".", "--output", "o"],
    ["evaluate", "--model", "tiny", "--masks", "gone.yaml", "--output", "o"],
    ["evaluate", "--model", "tiny", "--data.root", ".", "--output", "scored"],
    ["evaluate", "--model", "tiny", "--data.root", ".", "--output", "here.tif"],
    ["compare", "--config", "gone", "--output", "o"],
    ["benchmark", "--model", "tiny", "--json", "here.tif"],
    ["data", "label", "--scenes", "a.tif", "b.tif", "--labels", "x", "--output", "o"],
    ["demo", "--output", "shown"],
    ["demo", "--output", "used"],
]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_errors_that_need_no_model_are_found_before_torch_is_imported(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "here.tif").write_bytes(b"")
    (tmp_path / "wrong.yaml").write_text("model: [")
    for name in (
        "run/config.yaml",
        "scored/metrics.json",
        "shown/report.html",
        "used/pretraining/config.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(yaml.safe_dump(SMALL | {"seed": 0}))
    code = (
        "import sys\nfrom spectralgpt.cli.main import main\n"
        f"status = main({words!r})\n"
        "heavy = {'torch', 'torchvision', 'lightning', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode in (1, 2), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")


def test_size_as_a_model_says_that_its_weights_are_random(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from spectralgpt.checkpoints import load_model

    load_model("tiny")
    assert "'tiny' has random weights" in caplog.text


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_a_pipe_that_nobody_reads_is_no_error(
    words: list[str], unbuffered: str
) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "spectralgpt", *words],
            stdout=writes,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            timeout=100,
        )
    finally:
        os.close(writes)
    assert done.stderr == b""
    assert done.returncode == 0
