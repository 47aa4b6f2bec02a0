"""The command: what it writes and says, and its errors in one line."""

import sys
from pathlib import Path

import pytest

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from tests.exported import loaded


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = loaded("classifier")
    return save_model(tmp_path / "run", model.model, model.preprocessing, model.extra)


def test_an_exported_model_says_what_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt2"
    assert main(["export", str(run), "--output", str(path), "--image-size", "16"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(path)
    assert "greatest difference from the model" in captured.err
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "takes reflectance ['batch', 12, 16, 16]" in shown
    assert "classes field, forest, water" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "model.pth"], "'.pth' is no format of exported models"),
        (["--output", "model"], "use .onnx or .pt2"),
        (["--output", "m.onnx", "--format", "torch-export"], "the ending of onnx"),
        (["--output", "."], "is a folder"),
        (["--output", "m.pt2", "--image-size", "33"], "33"),
        (["--output", "m.pt2", "--sensor", "enmap"], "not trained on sensor"),
        (["--output", "m.pt2", "--tolerance", "0"], "above 0"),
        (["--output", "m.pt2", "--tolerance", "1e-15"], "was not kept"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [run]


def test_a_truncated_checkpoint_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["export", str(run), "--output", str(tmp_path / "m.pt2")]) == 1
    assert "truncated" in capsys.readouterr().err
    assert not (tmp_path / "m.pt2").exists()


def test_a_file_is_not_replaced_unasked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.pt2"
    path.write_text("mine")
    assert main(["export", str(run), "--output", str(path)]) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["export", str(run), "--output", str(path), "--overwrite"]) == 0


def test_missing_packages_are_named_with_the_extra(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(run), "--output", str(tmp_path / "m.onnx")]) == 1
    error = capsys.readouterr().err
    assert error == "error: this needs onnxscript: pip install 'spectralgpt[export]'\n"
