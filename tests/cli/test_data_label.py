from pathlib import Path

import pytest

from spectralgpt.cli.data import ACTIONS
from spectralgpt.cli.main import main
from spectralgpt.data.dense import read_dense, read_dense_config
from tests.label_files import SENSOR, halves, write_labels, write_scene


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command, in a folder with a scene and labels."""
    monkeypatch.chdir(tmp_path)
    write_scene(Path("scenes/town_20200813.tif"))
    write_labels(Path("covers.gpkg"), *halves())
    return [
        *("data", "label", "--scenes", "scenes", "--sensor", SENSOR, "--offset", "0"),
        *("--labels", "covers.gpkg", "--output", "made/town", "--tile_px", "16"),
    ]


def test_the_command_makes_a_set_and_prints_its_folder(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, "--class_column", "cover", "--fractions.train", "0.5"]
    words += ["--fractions.val", "0.25", "--fractions.test", "0.25", "--gap_m", "30"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(Path("made/town"))
    assert lines[0].startswith("train: ")
    assert Path("made/town/overview.png").stat().st_size > 20_000
    assert [path.name for path in Path("made").iterdir()] == ["town"]
    assert not list(Path("made/town").glob(".*"))
    card = Path("made/town/README.md").read_text(encoding="utf-8")
    assert "| town_20200813.tif | 2020-08-13 | EPSG:32632 | 96 x 96 |" in card
    dense = read_dense(read_dense_config("made/town/labels.yaml"))
    assert {chip.split for chip in dense.samples} == {"train", "val", "test"}
    # The card's command does the same again.
    command = card.split("## Made by")[1].split("```")[1].split()
    assert main([*command[1:], "--overwrite"]) == 0
    assert Path("made/town/README.md").read_text(encoding="utf-8") == card


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--class_column", "covr"], "did you mean 'cover'?"),
        ([], "covers.gpkg: which column holds the classes?"),
        (["--class_column", "cover", "--scenes", "no.tif"], "no.tif does not exist"),
        (["--class_column", "cover", "--tile_px", "200"], "no scene holds a tile of"),
        (
            ["--class_column", "cover", "--tile_px", "0"],
            "tile_px is 0; it must be at least 1",
        ),
        (["--class_column", "cover", "--labels", "broken.gpkg"], "cannot be read as"),
        (
            ["--class_column", "cover", "--classes", "c.yaml"],
            "no recipe called 'c.yaml'",
        ),
        (["--class_column", "cover", "--bands", "[B02,B03]"], "has 4 layers"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_left(
    words: list[str],
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("broken.gpkg").write_bytes(b"SQLite format 3\0" + bytes(200))
    before = sorted(Path().rglob("*"))
    assert main([*words, *more]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
    assert sorted(Path().rglob("*")) == before


def test_label_is_among_the_actions() -> None:
    assert set(ACTIONS) == {"list", "check", "label", "pack"}
