"""Outputs that cannot be written: one line with the path and what to do."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.models.heads import SegmentationModel
from spectralgpt.rasters import read_numbers
from tests.small_disks import small_disk
from tests.tiny import tiny_contract, tiny_model
from tests.toy import chip_pixels, write_chip

SIDE = 300
NAMES = ["field", "forest"]
COMMANDS = {
    "predict": ("predict", "--probabilities", "--polygons"),
    "embed": ("embed", "--format", "geotiff", "--cell_px", "2"),
    "table": ("embed",),
    "batch": ("batch", "predict", "--probabilities", "--pause_s", "0"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dense = SegmentationModel(tiny_model().encoder, len(NAMES), head="linear")
    extra = {"class_names": NAMES, "task": "segmentation", "window_px": 32}
    return save_model(tmp_path_factory.mktemp("m"), dense, tiny_contract(), extra)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    pixels = chip_pixels("forest", SIDE, np.random.default_rng(0))
    return write_chip(folder / "scene.tif", pixels)


def run(words: tuple[str, ...], scene: Path, model: Path, output: Path) -> int:
    stated = ("--offset", "0", "--device", "cpu")
    places = (scene, "--model", model, "--output", output)
    return main([*map(str, (*words, *places, *stated))])


def rasters_in(folder: Path) -> dict[str, np.ndarray]:
    found = [
        path
        for path in folder.rglob("*.tif")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return {str(p.relative_to(folder)): read_numbers(p) for p in found}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_that_is_not_whole(
    name: str,
    scene: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = COMMANDS[name]
    assert run(words, scene, model, tmp_path / "whole") == 0
    wanted = rasters_in(tmp_path / "whole")
    capsys.readouterr()
    failures = 0
    for kibibytes in (16, 256, 800, 1200):
        with small_disk(tmp_path / "disk", kibibytes) as disk:
            status = run(words, scene, model, disk / "out")
            lines = capsys.readouterr().err.splitlines()
            if status:
                failures += 1
                # A job goes on with other scenes, and says of each what was wrong.
                line = lines[-2 if "scenes failed" in lines[-1] else -1]
                assert re.search(r"^(error|failed): .*disk/out.*[Mm]ake room", line)
                assert all(each[0] != " " for each in lines), "a traceback"
            else:
                assert set(rasters_in(disk / "out")) == set(wanted)
            for place, numbers in rasters_in(disk / "out").items():
                np.testing.assert_array_equal(numbers, wanted[place])
    assert failures


@pytest.mark.parametrize("name", [*COMMANDS, "simulate"])
def test_an_output_that_is_no_folder_or_may_not_be_written_is_named(
    name: str,
    scene: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    places = [tmp_path / "file", tmp_path / "file" / "out", closed / "out"]
    # Root may write everywhere.
    for output in places if os.geteuid() else places[:2]:
        if name == "simulate":
            words = ("simulate", "--output", str(output), "--images", "30")
            status = main([*words, "--image_size", "32"])
        else:
            status = run(COMMANDS[name], scene, model, output)
        printed = capsys.readouterr().err
        assert status == 1
        *_, last = printed.splitlines()
        assert last.startswith("error: ")
        assert str(tmp_path / "file") in last or str(closed) in last
        assert re.search("([Cc]hoose|[Nn]ame) another", last), last
        assert "Traceback" not in printed
    assert (tmp_path / "file").read_text() == "no folder"
    assert not list(closed.iterdir())
