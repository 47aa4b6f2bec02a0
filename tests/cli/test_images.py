from dataclasses import replace
from pathlib import Path

import pytest

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.images import prepare_output
from spectralgpt.cli.main import main
from spectralgpt.cli.results import print_outcome
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.scenes.inputs import Outcome
from spectralgpt.scenes.loading import load_on_device
from tests.tiny import tiny_contract, tiny_model


@pytest.mark.parametrize(
    ("sensor", "first", "bands"),
    [
        (None, "sentinel-2-l1c", 12),
        ("landsat-8-9-l2", "landsat-8-9-l2", 7),
        ("enmap-l2a", "sentinel-2-l1c", 12),
    ],
)
def test_model_of_several_sensors_is_loaded_for_that_of_the_images(
    tmp_path: Path, sensor: str | None, first: str, bands: int
) -> None:
    landsat = sensor_preprocessing("landsat-8-9-l2", image_size=64)
    contract = replace(tiny_contract(), others=(landsat,))
    save_model(tmp_path, tiny_model(), contract)
    loaded = load_on_device(str(tmp_path), "cpu", sensor)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.sensor == first
    assert loaded.encoder.num_bands == bands


def test_output_is_found_to_be_possible_and_not_made(tmp_path: Path) -> None:
    prepare_output(tmp_path / "a" / "b", "x.csv", overwrite=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.csv").write_text("kept")
    prepare_output(tmp_path, "x.csv", overwrite=True)
    with pytest.raises(ConfigError, match=r"x\.csv is there already: pass --overw"):
        prepare_output(tmp_path, "x.csv", overwrite=False)
    for folder in (tmp_path / "x.csv", tmp_path / "x.csv" / "b"):
        with pytest.raises(ConfigError, match=f"cannot make the output .*{folder}: "):
            prepare_output(folder, "x.csv", overwrite=False)


@pytest.mark.parametrize("size", ["0", "-3"])
@pytest.mark.parametrize("command", ["embed", "predict", "evaluate"])
def test_batches_of_nothing_are_misuse(
    command: str, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, "--model", "tiny", "--output", "x", "--batch-size", size]
    assert main([*words, *(["a.tif"] if command != "evaluate" else [])]) == 2
    error = capsys.readouterr().err
    assert f"--batch-size must be a whole number above 0, found {size}" in error
    assert error.count("\n") == 1


def test_files_that_cannot_be_used_are_all_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = [(Path(f"{n}.tif"), f"{n}.tif is bad, very") for n in range(12)]
    made = Outcome(tmp_path / "table.csv", 3, failures)
    assert print_outcome(made, "rows") == made.path
    told = capsys.readouterr().err
    assert told.count("skipped: ") == 10
    assert "and 2 more" in told
    assert "12 files were skipped" in told
    lines = (tmp_path / "skipped.csv").read_text().splitlines()
    assert lines[0] == "path,reason"
    assert lines[12] == '11.tif,"11.tif is bad, very"'
    print_outcome(Outcome(made.path, 3, []), "rows")
    assert not (tmp_path / "skipped.csv").exists()
