import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from spectralgpt.errors import CheckpointError, ConfigError, TrainingError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.training.checkpointing import read_checkpoint
from spectralgpt.training.fit import RunFolder, check_checkpoint
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.optim import (
    OptimizerConfig,
    TrainerConfig,
    check_machine,
    learning_rate_at,
)

RunTiny = Callable[..., TrainingModule]


class StopAt(Callback):
    """Raise where a run might be killed: before that batch's checkpoint is written."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.seen = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen += 1
        if self.seen == self.batch:
            raise KeyError("killed")


def timeless(root: Path) -> list[dict[str, str]]:
    """All that is logged, but for the speed."""
    rows = read_metrics(root / "metrics.csv")
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in rows]


def losses(root: Path) -> list[tuple[str, str]]:
    rows = read_metrics(root / "metrics.csv")
    return [(row["step"], row["loss"]) for row in rows]


@pytest.fixture(scope="module")
def whole_run(
    tmp_path_factory: pytest.TempPathFactory, run_tiny: RunTiny
) -> tuple[Path, TrainingModule]:
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    return root, run_tiny(root)


# Batches of an epoch of 10, two a step: inside the first step, between steps, in the
# middle of a step, at an epoch's end, right after it, and in the last epoch.
@pytest.mark.parametrize("batch", [1, 5, 10, 11, 20, 28])
@pytest.mark.parametrize("every", [1, 3, 0])
def test_resumed_run_equals_uninterrupted_run(
    tmp_path: Path,
    run_tiny: RunTiny,
    whole_run: tuple[Path, TrainingModule],
    batch: int,
    every: int,
) -> None:
    root, whole = whole_run
    with pytest.raises(KeyError, match="killed"):
        run_tiny(
            tmp_path / "run",
            callbacks=(StopAt(batch),),
            checkpoint_every_steps=every,
        )
    resumed = run_tiny(tmp_path / "run", resume=True, checkpoint_every_steps=every)
    assert timeless(tmp_path / "run") == timeless(root)
    assert len(losses(tmp_path / "run")) == 15
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_resuming_a_finished_run_changes_nothing(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    run_tiny(tmp_path)
    table = (tmp_path / "metrics.csv").read_text()
    run_tiny(tmp_path, resume=True)
    assert (tmp_path / "metrics.csv").read_text() == table


def test_resume_with_another_batch_is_refused_by_name(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    with pytest.raises(KeyError, match="killed"):
        run_tiny(tmp_path, callbacks=(StopAt(5),))
    with pytest.raises(CheckpointError, match=r"effective_batch 2: .* with 4"):
        run_tiny(tmp_path, resume=True, accumulate=1)


def test_resume_refuses_a_truncated_checkpoint(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    with pytest.raises(KeyError, match="killed"):
        run_tiny(tmp_path, callbacks=(StopAt(5),))
    last = RunFolder(tmp_path).last
    last.write_bytes(last.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        run_tiny(tmp_path, resume=True)


def test_resume_refuses_weights_of_another_model(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    run_tiny(tmp_path)

    class Other:
        """A module whose model is wider."""

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.names = list(checkpoint["state_dict"])

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {self.names[0]: torch.zeros(7, 7, 7)}

    with pytest.raises(CheckpointError, match=r"asks for \(7, 7, 7\)"):
        check_checkpoint(Other(), RunFolder(tmp_path))  # type: ignore[arg-type]


def test_accumulated_step_equals_one_big_batch(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    run_tiny(tmp_path / "small", batch_size=1, accumulate=4)
    run_tiny(tmp_path / "big", batch_size=4, accumulate=1)
    small, big = losses(tmp_path / "small"), losses(tmp_path / "big")
    assert [step for step, _ in small] == [step for step, _ in big]
    found = [float(loss) for _, loss in small]
    assert found == pytest.approx([float(loss) for _, loss in big], rel=1e-5)
    assert found[-1] < found[0]


def test_bf16_run_follows_the_fp32_run(tmp_path: Path, run_tiny: RunTiny) -> None:
    run_tiny(tmp_path / "bf16", precision="bf16")
    run_tiny(tmp_path / "fp32")
    half = [float(loss) for _, loss in losses(tmp_path / "bf16")]
    full = [float(loss) for _, loss in losses(tmp_path / "fp32")]
    assert half == pytest.approx(full, rel=0.02)
    assert half != full
    weights = read_checkpoint(RunFolder(tmp_path / "bf16").last)["state_dict"]
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_loss_that_is_not_finite_stops_the_run_before_the_step(
    tmp_path: Path, run_tiny: RunTiny, tiny_model: Callable[[], MaskedAutoencoder]
) -> None:
    class Poison(Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int
        ) -> None:
            if trainer.global_step == 6:
                batch["images"][0, 0, 0, 0] = float("nan")

    model = tiny_model()
    with pytest.raises(TrainingError, match=r"not finite at step 7 \(epoch 1, .*nan"):
        run_tiny(tmp_path, callbacks=(Poison(),), model=model)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    last = read_checkpoint(RunFolder(tmp_path).last)
    assert last["global_step"] == 6
    assert all(bool(v.isfinite().all()) for v in last["state_dict"].values())
    assert [step for step, _ in losses(tmp_path)][-1] == "6"


class SpoilGradient(Callback):
    """Put NaN into one gradient of one step, whose loss is finite."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == self.step:
            pl_module.model.encoder.norm.weight.grad[0] = float("nan")


def test_gradient_that_is_not_finite_stops_the_run_before_the_step(
    tmp_path: Path, run_tiny: RunTiny, tiny_model: Callable[[], MaskedAutoencoder]
) -> None:
    model = tiny_model()
    with pytest.raises(
        TrainingError, match=r"gradients are not finite at step 7 .*Lower"
    ):
        run_tiny(tmp_path, callbacks=(SpoilGradient(6),), model=model)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert read_checkpoint(RunFolder(tmp_path).last)["global_step"] == 6
    # What was kept is whole: the run goes on to the end.
    run_tiny(tmp_path, resume=True)
    assert len(losses(tmp_path)) == 15


class SpoilState(Callback):
    """Put infinity into weights or optimizer state after a step, as an overflow may."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == 7:
            with torch.no_grad():
                if self.what == "weights":
                    pl_module.model.encoder.norm.weight[0] = float("inf")
                else:
                    state = next(iter(trainer.optimizers[0].state.values()))
                    state["exp_avg"].view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("what", "named"), [("weights", r"encoder\.norm\.weight"), ("state", "exp_avg")]
)
def test_state_that_is_not_finite_replaces_no_checkpoint(
    tmp_path: Path, run_tiny: RunTiny, what: str, named: str
) -> None:
    with pytest.raises(TrainingError, match=f"after step 7 .*{named}.* not finite"):
        run_tiny(tmp_path, callbacks=(SpoilState(what),))
    assert read_checkpoint(RunFolder(tmp_path).last)["global_step"] == 6
    run_tiny(tmp_path, resume=True)


@pytest.mark.parametrize("where", ["state_dict", "optimizer_states"])
def test_resume_names_what_is_not_finite(
    tmp_path: Path, run_tiny: RunTiny, where: str
) -> None:
    run_tiny(tmp_path, epochs=1, optimizer=OptimizerConfig(warmup_epochs=0))
    path = RunFolder(tmp_path).last
    checkpoint = torch.load(path, weights_only=True)
    if where == "state_dict":
        checkpoint["state_dict"]["model.encoder.norm.bias"][1] = float("nan")
    else:
        checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].view(-1)[0] = torch.inf
    torch.save(checkpoint, path)
    named = "encoder.norm.bias" if where == "state_dict" else "optimizer 0 exp_avg"
    with pytest.raises(CheckpointError, match=named):
        run_tiny(tmp_path, resume=True)


class HalfScaler:
    """The part of fp16's scaler that the check of gradients asks."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale


@pytest.mark.parametrize(("scale", "stops"), [(65536.0, False), (1.0, True)])
def test_fp16_leaves_out_steps_until_its_scale_is_spent(
    tmp_path: Path,
    run_tiny: RunTiny,
    monkeypatch: pytest.MonkeyPatch,
    scale: float,
    stops: bool,
) -> None:
    from lightning.pytorch.plugins import Precision

    monkeypatch.setattr(Precision, "scaler", HalfScaler(scale), raising=False)
    if stops:
        with pytest.raises(TrainingError, match="gradients are not finite at step 7"):
            run_tiny(tmp_path, callbacks=(SpoilGradient(6),))
        return
    # The scaler would leave the step out; without one, the weights are spoilt by it.
    with pytest.raises(TrainingError, match="after step 7 "):
        run_tiny(tmp_path, callbacks=(SpoilGradient(6),))


def test_learning_rate_follows_the_schedule_at_every_step(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    optimizer = OptimizerConfig(base_lr=0.064, warmup_epochs=1, min_lr=1e-5)
    run_tiny(tmp_path, optimizer=optimizer)
    rates = [float(row["lr"]) for row in read_metrics(tmp_path / "metrics.csv")]
    expected = [
        learning_rate_at(step / 5, lr=0.001, min_lr=1e-5, warmup_epochs=1, epochs=3)
        for step in range(15)
    ]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert max(rates) == pytest.approx(0.001)


def test_clipping_bounds_the_gradient(tmp_path: Path, run_tiny: RunTiny) -> None:
    norms = []

    class Norm(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            def measure(*args: Any) -> None:
                grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
                norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

            trainer.optimizers[0].register_step_post_hook(measure)

    run_tiny(
        tmp_path,
        callbacks=(Norm(),),
        optimizer=OptimizerConfig(warmup_epochs=1, clip_grad_norm=0.01),
        epochs=2,
    )
    assert norms
    assert max(norms) <= 0.01 * 1.001


def test_gradients_are_freed_before_the_next_forward_pass(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    held = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            held.append(any(p.grad is not None for p in pl_module.parameters()))

    run_tiny(tmp_path, callbacks=(Look(),), epochs=1, accumulate=1)
    assert held
    assert not any(held)


def test_held_out_error_is_logged_once_an_epoch(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    run_tiny(tmp_path, validate_every_epochs=2, epochs=4)
    rows = read_metrics(tmp_path / "metrics.csv")
    scored = {row["step"]: float(row["val_masked_error"]) for row in rows
              if row["val_masked_error"]}  # fmt: skip
    assert list(scored) == ["10", "20"]
    assert 0 < scored["20"] < scored["10"]


def test_run_writes_tensorboard_events(tmp_path: Path, run_tiny: RunTiny) -> None:
    run_tiny(tmp_path, epochs=2)
    events = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert sum(file.stat().st_size for file in events) > 500


def test_run_says_nothing_on_the_terminal(
    tmp_path: Path,
    run_tiny: RunTiny,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        run_tiny(tmp_path, epochs=2)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"trainer\.epochs is 0"),
        ({"accumulate": 0}, r"trainer\.accumulate is 0"),
        ({"workers": -1}, r"trainer\.workers is -1"),
        ({"devices": -1}, r"trainer\.devices is -1"),
        ({"devices": 0}, r"trainer\.devices is 0; it must be at least 1"),
        ({"precision": "fp8"}, r"trainer\.precision is 'fp8'"),
        ({"precision": "fp16", "accelerator": "cpu"}, "fp16 needs a GPU"),
        (
            {"precision": "fp16", "accelerator": "gpu", "strategy": "fsdp"},
            "fp16 does not go with strategy fsdp",
        ),
    ],
)
def test_impossible_settings_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerConfig(**settings)


def test_processes_are_counted_over_nodes() -> None:
    assert TrainerConfig(devices=2, num_nodes=3, accelerator="cpu").processes == 6
    assert TrainerConfig(devices="auto", accelerator="cpu").processes == 1


def test_devices_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for accelerator in ("gpu", "mps"):
        with pytest.raises(ConfigError, match=f"accelerator is '{accelerator}', and"):
            check_machine(TrainerConfig(accelerator=accelerator))  # type: ignore[arg-type]
    for fine in ("auto", "cpu"):
        check_machine(TrainerConfig(accelerator=fine, devices=4))  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for accelerator in ("gpu", "auto"):
        check_machine(TrainerConfig(accelerator=accelerator, devices=2))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"devices is 3, and this machine has 2"):
            check_machine(TrainerConfig(accelerator=accelerator, devices=3))  # type: ignore[arg-type]
    check_machine(TrainerConfig(accelerator="cpu", devices=3))
