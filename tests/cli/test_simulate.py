from pathlib import Path

import pytest

from spectralgpt.cli.main import main
from spectralgpt.data.sources import find_items, read_source


def test_simulate_makes_a_folder_of_classes_and_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "archive"
    words = ["simulate", "--output", str(output), "--tasks", "classification, scenes"]
    words += ["--images", "30", "--image-size", "16", "--seed", "3"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    folders = sorted(p.name for p in (output / "classification" / "train").iterdir())
    assert len(folders) == 10
    assert folders[0] == "AnnualCrop"
    assert len(list((output / "classification").rglob("*.tif"))) == 30
    assert len(list((output / "scenes").rglob("*.tif"))) == 30
    described = find_items([read_source(output / "classification.yaml")], output)
    assert len(described) == 10
    assert all("train" in item.name for item in described)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "detection"], "tasks must be some of"),
        (["--sensor", "sentinel-2"], "unknown sensor 'sentinel-2'"),
    ],
)
def test_simulate_explains_mistakes_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert main(["simulate", "--output", str(tmp_path / "new"), *words]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_simulate_does_not_overwrite_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("x")
    assert main(["simulate", "--output", str(tmp_path)]) == 1
    assert "exists" in capsys.readouterr().err
