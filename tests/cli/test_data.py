import json
from pathlib import Path

import pytest

from spectralgpt.cli.main import main
from spectralgpt.data.archives.registry import list_archives
from tests.fmow import name_of, write_fmow


def test_list_names_every_archive(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in list_archives())
    assert main(["data", "list", "hyspecnet-11k"]) == 0
    assert "splits/easy|hard" in capsys.readouterr().out
    assert main(["data", "list", "hyspecnet"]) == 1
    assert "did you mean 'hyspecnet-11k'?" in capsys.readouterr().err


def test_check_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_fmow(tmp_path / "data")
    words = ["data", "check", "fmow-sentinel2", str(tmp_path / "data")]
    words += ["--output", str(tmp_path / "out"), "--workers", "3"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "36 images, 36 read" in printed
    assert "images by split: test: 12; train: 12; val: 12" in printed
    assert "no faults" in printed
    assert (tmp_path / "out" / "chips.png").stat().st_size > 10_000
    drawn = json.loads((tmp_path / "out" / "check.json").read_text())["drawn"]
    assert len(drawn) == 24
    assert set(drawn) <= {name_of(row) for row in rows}
    assert f"chips.png shows {drawn[0]}, {drawn[1]}, " in printed
    for row in rows[:5]:
        (tmp_path / "data" / "fmow-sentinel" / name_of(row)).unlink()
    path = tmp_path / "data" / "fmow-sentinel" / name_of(rows[7])
    path.write_bytes(path.read_bytes()[:500])
    before = (tmp_path / "out" / "check.json").read_text()
    assert main([*words, "--limit", "30"]) == 1
    assert "is there already: pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "check.json").read_text() == before
    assert main([*words, "--limit", "30", "--overwrite"]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    (missing,) = [line for line in lines if line.startswith("label without image: 5: ")]
    assert name_of(rows[0]) in missing
    assert "and 2 more" in missing
    assert (
        sum(line.startswith("truncated or unreadable file: 1") for line in lines) == 1
    )
    assert captured.err.strip().startswith("error: faults in ")
    assert " 6. " in captured.err
    table = json.loads((tmp_path / "out" / "check.json").read_text())
    assert len(table["faults"]["label without image"]) == 5
    assert table["images_checked"] == 30
    assert len(table["reflectance"]["mean"]) == 13


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "eurosat", "."], "did you mean 'eurosat-ms'?"),
        (["check", "eurosat-ms", "nowhere"], "There is no folder nowhere"),
        (["check", "none.yaml"], "none.yaml does not exist"),
        (["check", "folder", "."], "holds no images in the layout of folder"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
    assert list(tmp_path.iterdir()) == []


def test_sub_commands_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "--help"])
    assert stopped.value.code == 0
    assert "--limit" in capsys.readouterr().out
    assert main(["data", "chek"]) == 2
