"""What a run finds in its folder: a run before, the same one, or things of others."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectralgpt.errors import ConfigError
from spectralgpt.training.pretrain_config import DataConfig, ModelConfig, PretrainConfig
from spectralgpt.training.run_folder import RunFolder, plain_config

CONFIG = PretrainConfig(data=DataConfig(root=Path("images"), mixture=({"name": "a"},)))
PLAIN = plain_config(CONFIG)
RESULTS = ("metrics.csv", "metrics.json", "table.csv", "report.html", "confusion.png")


def begin(root: Path) -> RunFolder:
    folder = RunFolder(root)
    folder.prepare(PLAIN, overwrite=False, resume=False)
    folder.last.parent.mkdir()
    folder.last.write_text("x")
    return folder


def differing(**changes: Any) -> dict[str, Any]:
    return plain_config(replace(CONFIG, **changes))


def test_existing_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    for name in (*RESULTS, "notes.txt"):
        (folder.root / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume.*--overw"):
        folder.check(PLAIN, overwrite=False, resume=False)
    with pytest.raises(ConfigError, match="not both"):
        folder.check(PLAIN, overwrite=True, resume=True)
    folder.check(PLAIN, overwrite=False, resume=True)
    folder.prepare(PLAIN, overwrite=False, resume=True)
    assert folder.last.exists()
    assert (folder.root / "metrics.json").exists()
    # A new run begins without the results of the old one.
    other = differing(seed=7)
    folder.check(other, overwrite=True, resume=False)
    folder.prepare(other, overwrite=True, resume=False)
    left = sorted(file.name for file in folder.root.iterdir())
    assert left == ["config.yaml", "notes.txt"]
    assert yaml.safe_load(folder.config.read_text())["seed"] == 7


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (differing(seed=1), r"seed 0 \(now 1\)"),
        (
            differing(optimizer=replace(CONFIG.optimizer, base_lr=0.5)),
            r"optimizer\.base_lr .* \(now 0\.5",
        ),
        (differing(model=ModelConfig(size="tiny")), r"model\.size 'base' \(now 'tiny'"),
        (
            differing(data=replace(CONFIG.data, mixture=({"name": "b"},))),
            r"data\.mixture\.1\.name 'a' \(now 'b'\)",
        ),
        (
            differing(data=replace(CONFIG.data, root=Path("others"))),
            r"data\.root 'images' \(now 'others'\)",
        ),
    ],
)
def test_resume_with_other_settings_names_them_and_writes_nothing(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    folder = begin(tmp_path / "run")
    before = folder.config.read_bytes()
    with pytest.raises(ConfigError, match=f"begun with other settings: {says}"):
        folder.check(config, overwrite=False, resume=True)
    assert folder.config.read_bytes() == before


def test_resume_takes_other_machines_and_writes_what_is_used(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    trainer = replace(CONFIG.trainer, workers=5, devices=2, batch_size=8)
    config = differing(trainer=trainer)
    folder.check(config, overwrite=False, resume=True)
    folder.prepare(config, overwrite=False, resume=True)
    assert yaml.safe_load(folder.config.read_text()) == config


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "theirs", [{}, {"config.yaml": "model: resnet\ntrainer: {max_epochs: 3}\n"}]
)
def test_what_other_programs_made_is_never_removed(
    tmp_path: Path, overwrite: bool, theirs: dict[str, str]
) -> None:
    names = [f"{n}/mine" for n in ("figures", "checkpoints", "tensorboard")]
    files = {**dict.fromkeys(names, "years of work"), **theirs}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="holds no run of this package"):
        RunFolder(tmp_path).check(PLAIN, overwrite=overwrite, resume=False)
    assert {name: (tmp_path / name).read_text() for name in files} == files


@pytest.mark.parametrize("start", ["", "checkpoints/model", "checkpoints/last.ckpt"])
def test_a_run_that_is_begun_with_is_not_overwritten(
    tmp_path: Path, start: str
) -> None:
    folder = begin(tmp_path / "run")
    folder.model.mkdir()
    config = differing(model=ModelConfig(start_from=str(folder.root / start)))
    with pytest.raises(ConfigError, match=r"model\.start_from .* lies in .*run"):
        folder.check(config, overwrite=True, resume=False)
    # What lies beside a run in its folder is none of its results.
    images = folder.root / "images"
    images.mkdir()
    config = differing(data=DataConfig(root=images))
    folder.check(config, overwrite=True, resume=False)


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    folder.model.mkdir()
    left = [
        folder.last.with_name(f".last.ckpt.{'0a' * 16}.partial"),
        folder.model / f".model.safetensors.{'0a' * 16}.partial",
    ]
    for path in left:
        path.write_text("half")
    mine = folder.root / ".mine.partial"
    mine.write_text("mine")
    folder.prepare(PLAIN, overwrite=False, resume=True)
    assert not any(path.exists() for path in left)
    assert mine.exists()


def test_resume_without_a_checkpoint_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare(PLAIN, overwrite=False, resume=False)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        folder.prepare(PLAIN, overwrite=False, resume=True)
    assert caplog.messages == [f"no checkpoint in {folder.root}, starting anew"]
    stage = RunFolder(folder.root / "stage-1-a")
    stage.last.parent.mkdir(parents=True)
    stage.last.write_text("x")
    folder.prepare(PLAIN, overwrite=False, resume=True)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_output_that_cannot_be_made_is_explained(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=f"cannot make the output folder .*{name}: "):
        RunFolder(tmp_path / name).prepare(PLAIN, overwrite=True, resume=False)
    assert (tmp_path / "file").read_text() == "mine"
