"""Sections of a configuration may come from files of their own."""

import logging
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser, Namespace

from spectralgpt.checkpoints import save_model
from spectralgpt.cli import finetune
from spectralgpt.cli.main import main
from spectralgpt.cli.options import CommandParser, _spell_lists, file_of, plain_values
from spectralgpt.errors import ConfigError
from tests.raster_files import constant, write_tiff
from tests.tiny import tiny_contract, tiny_model


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    finetune.add_arguments(parser)
    return parser


def words(tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "data.yaml").write_text("root: survey\nsensor: camera.yaml\n")
    (tmp_path / "trainer.yaml").write_text("epochs: 3\nworkers: 0\n")
    return [
        *("segmentation", "--model", "tiny", "--output", "run"),
        *("--data", str(tmp_path / "data.yaml")),
        *("--trainer", str(tmp_path / "trainer.yaml"), *more),
    ]


def test_files_of_sections_leave_settings_alone(
    parser: ArgumentParser, tmp_path: Path
) -> None:
    options = parser.parse_args(words(tmp_path))["segmentation"]
    values = plain_values(options)
    assert values["trainer"]["epochs"] == 3
    assert values["data"]["root"] == "survey"
    assert "output" not in values
    assert not any("__" in key for section in values.values()
                   if isinstance(section, dict) for key in section)  # fmt: skip
    assert file_of(options.data.as_dict()) == tmp_path / "data.yaml"
    assert file_of(values["data"]) is None


def test_paths_in_a_data_file_lie_beside_it_unless_overridden(
    parser: ArgumentParser, tmp_path: Path
) -> None:
    for more, root in (
        ((), str(tmp_path / "survey")),
        (("--data.root", "elsewhere"), "elsewhere"),
    ):
        options = parser.parse_args(words(tmp_path, *more))["segmentation"]
        values = finetune._data_values(options)
        assert values["root"] == root
        assert values["sensor"] == str(tmp_path / "camera.yaml")


BOMB = "\n".join(
    ["a0: &a [x, x]"] + [f"a{i}: &a [{', '.join(['*a'] * 9)}]" for i in range(1, 30)]
)


@pytest.mark.parametrize(
    "text",
    [BOMB, "seed: " + "9" * 5000, "seed: 2024-13-45", "model: " + "[" * 3000],
    ids=["aliases", "digits", "month", "depth"],
)
@pytest.mark.parametrize("option", ["--config", "--trainer"])
def test_hostile_configurations_are_one_line(
    tmp_path: Path, text: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    began = time.monotonic()
    status = main(["pretrain", "--output", str(tmp_path / "run"), option, str(path)])
    assert status in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert time.monotonic() - began < 10
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "spelled"),
    [
        (["--bands", "B1,-,B2"], ['--bands=["B1", "-", "B2"]']),
        (["--bands", "B1 B2"], ['--bands=["B1", "B2"]']),
        (["--bands=B1, B2", "x.tif"], ['--bands=["B1", "B2"]', "x.tif"]),
        (["--bands", "[B1,B2]"], ["--bands=[B1,B2]"]),
        (["--data.bands", "null"], ["--data.bands=null"]),
        (["--use_bands", "B1"], ['--use_bands=["B1"]']),
        (["--data.nodata", "-9999,1"], ["--data.nodata=[-9999, 1]"]),
        (["--nodata", "auto"], ["--nodata=auto"]),
        (["--all_bands", "x.tif"], ["--all_bands", "x.tif"]),
    ],
)
def test_lists_may_be_written_as_people_do(
    words: list[str], spelled: list[str]
) -> None:
    assert _spell_lists(words) == spelled


def test_bands_and_nodata_reach_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = constant([1500, 1600, 1700], dtype="int16")
    pixels[:, :4] = -9999
    path = write_tiff(tmp_path / "a.tif", pixels)
    words = ["--sensor", "sentinel-2-l2a", "--bands", "B02,-,B04", "--offset", "0"]
    assert main(["info", str(path), *words, "--nodata", "-9999"]) == 0
    shown = capsys.readouterr().out
    assert "nodata: 25.0% of the pixels" in shown
    assert "2 bands" in shown


def test_a_check_tells_of_undeclared_fill_unless_it_is_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    bands = ["B02", "B03", "B04", "B08"]
    for number in range(12):
        pixels = rng.integers(300, 3000, (4, 64, 64)).astype("int16")
        pixels[:, :8] = 1
        path = tmp_path / "set" / f"class_{number % 2}" / f"{number}.tif"
        place = (500_000.0, 4_000_000.0 + 5_000 * number)
        write_tiff(path, pixels, descriptions=bands, corner=place)
    words = ["data", "check", "folder", str(tmp_path / "set")]
    words += ["--sensor", "sentinel-2-l2a", "--offset", "0"]
    assert main([*words, "--output", str(tmp_path / "one")]) == 1
    assert "fill that nobody declared: 12: " in capsys.readouterr().out
    words += ["--nodata", "1", "--quantification", "20000"]
    assert main([*words, "--output", str(tmp_path / "two")]) == 0
    assert "no faults" in capsys.readouterr().out


def parsed(command: str, *words: str) -> Namespace:
    module = import_module(f"spectralgpt.cli.{command}")
    parser = CommandParser(exit_on_error=False)
    module.add_arguments(parser)
    parser.add_config()
    return parser.parse_args(words)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "tiny", "-o", "o", "--batch-size", "3", "--test-flips"],
        ["-mtiny", "-o=o", "--batch_size=3", "--test-flips=true"],
        ["--model", "tiny", "--output", "o", "--batch-size=3", "--test_flips", "true"],
    ],
)
def test_options_are_taken_in_all_spellings(words: list[str]) -> None:
    found = parsed("predict", *words, "a-b_c.tif")
    assert (found.model, found.output, found.batch_size) == ("tiny", Path("o"), 3)
    assert found.test_flips is True
    assert found.inputs == [Path("a-b_c.tif")]


def test_what_is_true_by_default_is_put_off_by_no() -> None:
    words = ["a.tif", "-m", "tiny", "-o", "o"]
    assert parsed("embed", *words).reflectance is True
    assert parsed("embed", *words, "--no-reflectance").reflectance is False
    assert parsed("embed", "--no-reflectance", *words).inputs == [Path("a.tif")]
    nested = ["segmentation", "-m", "tiny", "-o", "o", "--data.root", "d"]
    nested += ["--trainer.compile", "--no-augmentation.flip", "--pixel-detail"]
    found = parsed("finetune", *nested).segmentation
    assert found.trainer.compile is True
    assert found.augmentation.flip is False
    assert found.pixel_detail is True


def test_every_command_takes_its_options_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("model: tiny\noutput: o\nbatch_size: 3\ncell_px: 4\n")
    found = parsed("embed", "a.tif", "--config", str(path), "--cell-px", "2")
    assert (found.model, found.batch_size, found.cell_px) == ("tiny", 3, 2)
    found = parsed("batch", "embed", "a.tif", "--config", str(path)).embed
    assert (found.output, found.cell_px) == (Path("o"), 4)
    path.write_text("model: tiny\nbatch-sise: 3\n")
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        parsed("embed", "a.tif", "--config", str(path))


def test_quiet_says_nothing_but_errors_and_what_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    pixels = np.random.default_rng(0).integers(300, 3000, (12, 32, 32))
    names = tiny_contract().band_names
    path = write_tiff(tmp_path / "a.tif", pixels.astype("uint16"), descriptions=names)
    words = [str(path), "-m", str(source), "--offset", "0", "--device", "cpu"]
    assert main(["embed", *words, "-o", str(tmp_path / "loud")]) == 0
    assert "embeddings of 1 files" in capsys.readouterr().err
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        assert main(["embed", *words, "-o", str(tmp_path / "out"), "-q"]) == 0
    finally:
        logging.getLogger().setLevel(level)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out == f"{tmp_path / 'out' / 'embeddings.parquet'}\n"


@pytest.mark.parametrize("first", [True, False])
def test_options_say_more_than_files_wherever_they_stand(
    tmp_path: Path, first: bool
) -> None:
    whole, part = tmp_path / "all.yaml", tmp_path / "trainer.yaml"
    whole.write_text("trainer: {epochs: 9, batch_size: 4}\noptimizer: {base_lr: 0.5}\n")
    part.write_text("epochs: 8\nworkers: 0\n")
    single = ["--trainer.epochs", "3", "--optimizer.beta2=0.9"]
    files = [f"--trainer={part}", "--config", str(whole), "--model", "tiny"]
    parser = CommandParser(exit_on_error=False)
    finetune.add_arguments(parser)
    more = [*single, *files] if first else [*files, *single]
    words = ["classification", "--output", "o", "--data.root", "d", *more]
    found = parser.parse_args(words)["classification"]
    trainer = found.trainer
    # Of the option, of the section's file, and of the file of all.
    assert (trainer.epochs, trainer.workers, trainer.batch_size) == (3, 0, 4)
    assert (found.optimizer.base_lr, found.optimizer.beta2) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pretrain --output o --trainer.epochs x", "--trainer.epochs must be a whole"),
        (
            "embed a.tif --model tiny --output o --cell-px 0",
            "--cell-px must be a whole number above 0, found 0",
        ),
        ("pretrain --output o --trainer.devices x", "a whole number or auto, found x"),
        (
            "pretrain --output o --model.sise x",
            "--model.sise; did you mean '--model.size'?",
        ),
        ("pretrain", "--output: required and not given"),
        ("finetune segmentation --model tiny --output o", "--data.root: required"),
        ("finetune change --model tiny --head x", "--head must be upernet or"),
        ("finetune change --model.size x", "--model.size: no such option"),
        ("data check", "error: target: required and not given"),
        ("predict a.tif", "error: --model, --output: required and not given"),
        ("predict --batch-sise 3", "--batch-sise; did you mean '--batch-size'?"),
        ("batch embed --batch_sise 3", "--batch-sise; did you mean '--batch-size'?"),
        ("embed a.tif -m tiny -o o --batch-size 0", "--batch-size must be"),
        (
            "embed a.tif -m tiny -o o --batch-size x",
            "--batch-size must be a whole number above 0, found x",
        ),
        ("info a b", "more words than the command takes: b"),
    ],
)
def test_a_wrong_option_is_said_in_words(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert says in said
    assert not any(word in said for word in ("Parser key", "typing", "<class"))
