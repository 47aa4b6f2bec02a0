from pathlib import Path

import pytest
import yaml

from spectralgpt.cli.main import main
from spectralgpt.training import study
from spectralgpt.training.study import StudyConfig

SETTINGS = {
    "task": "classification",
    "finetune": {"data": {"root": "places", "layout": "csv"}, "image_size": 32},
    "starts": {"random": {"model": "tiny"}},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


def compare(file: Path, *options: str) -> int:
    output = str(file.parent / "out")
    return main(["compare", "--config", str(file), "--output", output, *options])


def test_one_setting_is_changed_and_the_others_stay(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[StudyConfig] = []

    def run(config: StudyConfig, *_: object) -> Path:
        asked.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run_study", run)
    changes = ("finetune.data.label_share=0.1", "starts.random.scaling=z-score")
    compare(file, "--set", changes[0], "--set", changes[1], "--seeds", "[3]")
    (config,) = asked
    data = {"root": "places", "layout": "csv", "label_share": 0.1}
    assert config.finetune == {"data": data, "image_size": 32}
    assert config.starts == {"random": {"model": "tiny", "scaling": "z-score"}}
    assert config.seeds == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "finetune.data"), "write KEY=VALUE"),
        (("--set", "finetune.head.width=3"), "sections that the file has"),
        (("--set", "sseds=[1]"), "it has task"),
        (("--set", "finetune.data.root=[1"), "not valid YAML"),
        (("--finetune.data.label_share", "0.1"), "--set SECTION.KEY=VALUE"),
    ],
)
def test_a_change_that_cannot_be_made_is_one_line(
    file: Path,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare(file, *options) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (file.parent / "out").exists()
