"""Sections of a configuration may come from files of their own."""

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from spectralgpt.cli import finetune
from spectralgpt.cli.options import file_of, plain_values


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
        values = finetune.data_values(options)
        assert values["root"] == root
        assert values["sensor"] == str(tmp_path / "camera.yaml")
