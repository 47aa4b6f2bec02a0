"""What Lightning's own callbacks and loggers do in our runs."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from spectralgpt.errors import ConfigError
from spectralgpt.training.checkpointing import AverageWeights, read_checkpoint
from spectralgpt.training.fit import full_state_dict
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig, check_machine
from spectralgpt.training.pretraining import pretrain
from tests.training.test_fit import StopAt, timeless
from tests.training.test_pretraining import SMALL

RunTiny = Callable[..., TrainingModule]
# Without a step the first score stays the best.
STILL = OptimizerConfig(base_lr=0.0, warmup_epochs=0)


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").glob("epoch=*"))


def test_lightning_s_own_callbacks_follow_the_held_out_error(tmp_path: Path) -> None:
    best = ModelCheckpoint(monitor="val_masked_error", save_top_k=2)
    stop = EarlyStopping("val_masked_error", patience=9)
    config = replace(SMALL, trainer=replace(SMALL.trainer, epochs=3))
    run = pretrain(config, tmp_path / "run", callbacks=[stop, best])
    scores = [
        float(row["val_masked_error"])
        for row in read_metrics(run / "metrics.csv")
        if row["val_masked_error"]
    ]
    lowest = sorted(range(3), key=scores.__getitem__)[:2]
    assert kept(run) == sorted(f"epoch={n}-step={2 * n + 2}.ckpt" for n in lowest)
    assert best.best_model_score == pytest.approx(min(scores))
    assert stop.best_score == pytest.approx(min(scores))
    for name in kept(run):
        assert read_checkpoint(run / "checkpoints" / name, resumable=True)["loops"]


def test_training_stops_when_scores_get_no_better(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    run_tiny(tmp_path, optimizer=STILL, epochs=9, patience=2, save_top_k=1)
    rows = [row for row in timeless(tmp_path) if row["val_masked_error"]]
    errors = [float(row["val_masked_error"]) for row in rows]
    assert len(errors) == 3
    assert min(errors) == max(errors)
    assert len(kept(tmp_path)) == 1
    # Asked to go on, it has nothing to do.
    table = timeless(tmp_path)
    run_tiny(tmp_path, resume=True, optimizer=STILL, epochs=9, patience=2, save_top_k=1)
    assert timeless(tmp_path) == table
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("batch", [11, 20, 25])
def test_a_resumed_run_has_the_same_average_and_keeps_the_same_epochs(
    tmp_path: Path, run_tiny: RunTiny, batch: int
) -> None:
    asked = {"ema_decay": 0.9, "save_top_k": 1, "patience": 5}
    whole = run_tiny(tmp_path / "whole", **asked)
    with pytest.raises(KeyError, match="killed"):
        run_tiny(tmp_path / "run", callbacks=(StopAt(batch),), **asked)
    resumed = run_tiny(tmp_path / "run", resume=True, **asked)
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")
    assert kept(tmp_path / "run") == kept(tmp_path / "whole")
    one, two = (full_state_dict(each.trainer, each) for each in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


class Follow(AverageWeights):
    """Keeps what the average should be, and the weights that were scored."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.expected = {name: v.clone() for name, v in self.average.items()}
        self.scored: dict[str, torch.Tensor] = {}
        self.step = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            for name, weight in args[0].model.named_parameters():
                before = self.expected[name]
                self.expected[name] = decay * before + (1 - decay) * weight.detach()

    def on_validation_batch_end(self, *args: Any) -> None:
        self.scored = {n: w.clone() for n, w in args[1].model.named_parameters()}


def test_the_average_is_what_is_scored_and_exported(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    follow = Follow(0.9)
    module = run_tiny(tmp_path, callbacks=(follow,))
    exported = full_state_dict(module.trainer, module)
    live = dict(module.model.named_parameters())
    moved = [name for name in live if not torch.equal(exported[name], live[name])]
    assert "encoder.blocks.0.attn.qkv.weight" in moved
    for name, expected in follow.expected.items():
        torch.testing.assert_close(exported[name], expected)
        assert torch.equal(follow.scored[name], exported[name])
    # What is trained goes on as without an average.
    plain = run_tiny(tmp_path / "plain")
    assert all(
        torch.equal(live[name], each) for name, each in plain.model.named_parameters()
    )


def test_runs_can_be_followed_in_other_tools(
    tmp_path: Path, run_tiny: RunTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "mlflow"):
        pytest.importorskip(name, reason="spectralgpt[loggers]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    run_tiny(tmp_path, epochs=1, loggers=("csv", "wandb", "mlflow"))
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    (errors,) = (tmp_path / "mlruns").rglob("val_masked_error")
    _, error, step = errors.read_text().split()
    row = timeless(tmp_path)[-1]
    assert (step, float(error)) == (row["step"], float(row["val_masked_error"]))
    assert not (tmp_path / "tensorboard").exists()


def test_a_logger_that_is_not_there_is_found_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"needs wandb: .*spectralgpt\[loggers\]"):
        check_machine(TrainerConfig(loggers=("csv", "wandb")))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="say where it writes"):
        check_machine(TrainerConfig(loggers=("csv", "mlflow")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 1, "validate_every_epochs": 0}, "go by scores of held-out"),
        ({"ema_decay": 1.0}, "at least 0 and below 1"),
        ({"ema_decay": 0.9, "strategy": "fsdp"}, "not go with strategy fsdp"),
        ({"loggers": ("wandb",)}, "name csv"),
    ],
)
def test_settings_that_say_nothing_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerConfig(**settings)
