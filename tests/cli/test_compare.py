import io
import json
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


def test_each_run_says_its_whole_name_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100.0, 130.0, 220.0])
    monkeypatch.setattr(study.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    tell = study.lines_of_runs(lines.append)
    # The first four were there already, and took no time.
    for number in (4, 5, 6):
        tell(f"start-{number}", number, 10)
    assert lines == [
        "run 5/10: start-4",
        "run 6/10, about 0:02:30 left: start-5",
        "run 7/10, about 0:04:00 left: start-6",
    ]


def test_long_names_of_starts_are_shown_whole(tmp_path: Path) -> None:
    from rich.console import Console

    from spectralgpt.cli.results import print_arena, print_study

    start = "pretrained-on-a-million-images-with-" + "a-very-long-name-" * 4
    row = {"mean": 0.5, "std": 0.1, "class": None, "values": [0.5, 0.6]}
    metrics = dict.fromkeys(("overall_accuracy", "mean_iou", "f1", "kappa"), row)
    (tmp_path / "study.json").write_text(json.dumps({"0.1": {start: metrics}}))
    by_start = {start: [[0.5, 0.6], [0.5, 0.7]]}
    scores = {"scores": {"cover": {"accuracy": by_start}}}
    (tmp_path / "arena.json").write_text(json.dumps(scores))
    for show in (print_study, print_arena):
        console = Console(width=80, record=True, file=io.StringIO())
        show(tmp_path, console)
        shown = console.export_text()
        cells = [
            line.split("│")[1].strip() for line in shown.splitlines() if "│" in line
        ]
        assert "".join(cells) == start
