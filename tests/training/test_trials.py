"""The learning-rate finder; what trials of costs give is tested with the arena."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback

from spectralgpt.errors import ConfigError, TrainingError
from spectralgpt.files import read_table
from spectralgpt.training import trials
from spectralgpt.training.finetuning import finetune
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.optim import OptimizerConfig
from spectralgpt.training.pretrain_config import ModelConfig, PretrainConfig
from spectralgpt.training.pretraining import pretrain
from spectralgpt.training.trials import RATES, RATES_FIGURE, RATES_TABLE, find_rate
from tests.toy import write_archive
from tests.training.test_finetuning import config as finetune_config
from tests.training.test_fit import timeless
from tests.training.test_pretraining import SMALL

LONG = replace(SMALL, trainer=replace(SMALL.trainer, batch_size=16))


def column(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in read_table(folder / RATES_TABLE)[1]]


def curve(seed: int, fall: float, centre: int = 50) -> list[float]:
    """A loss of 1 and its chance, that falls around a step, diverges and comes back."""
    steps = np.arange(RATES)
    losses = 1.0 - fall / (1 + np.exp((centre - steps) / 4))
    losses[80:90] += 3.0 * fall
    return list(losses + 0.05 * np.random.default_rng(seed).standard_normal(RATES))


@pytest.mark.parametrize("seed", range(20))
def test_the_fall_is_found_not_the_way_back_from_a_divergence(seed: int) -> None:
    for centre in (35, 50, 65):
        losses = curve(seed, 0.8, centre)
        found = trials._steepest(losses, trials._smooth(losses))
        assert found is not None
        assert centre - 5 <= found <= centre + 15  # Smoothing lags.


@pytest.mark.parametrize("seed", range(20))
def test_chance_is_no_fall(seed: int) -> None:
    noise = curve(seed, 0.0)
    rising = [each + 0.01 * step for step, each in enumerate(noise)]
    for losses in (noise, rising, [1.0] * RATES):
        assert trials._steepest(losses, trials._smooth(losses)) is None


@pytest.mark.slow
def test_the_suggestion_learns_where_much_less_or_more_does_not(tmp_path: Path) -> None:
    base_lr = find_rate(pretrain, LONG, tmp_path / "a")

    def last_loss(rate: float) -> float:
        optimizer = replace(SMALL.optimizer, base_lr=rate)
        data = replace(SMALL.data, samples_per_epoch=None)
        plan = replace(LONG, optimizer=optimizer, data=data, steps=60)
        run = pretrain(plan, tmp_path / f"run-{rate}")
        rows = read_metrics(run / "metrics.csv")
        return float(np.mean([float(row["loss"]) for row in rows[-10:]]))

    low, found, high = (last_loss(base_lr * by) for by in (1e-3, 1.0, 1e4))
    assert found < 0.5 * low
    assert found < 0.5 * high


@pytest.mark.slow
def test_a_trial_leaves_nothing_but_its_table_and_figure(tmp_path: Path) -> None:
    plain = pretrain(SMALL, tmp_path / "plain")
    find_rate(pretrain, SMALL, tmp_path / "run")
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == [RATES_TABLE, RATES_FIGURE]
    other = OptimizerConfig(base_lr=1.0, warmup_epochs=0.5)
    find_rate(pretrain, replace(SMALL, optimizer=other), tmp_path / "again")
    # Neither the run's own rate nor its warm-up counts, and chance is the seed's.
    tables = [(tmp_path / name / RATES_TABLE).read_text() for name in ("run", "again")]
    assert tables[0] == tables[1]
    assert timeless(pretrain(SMALL, tmp_path / "run")) == timeless(plain)
    first = read_metrics(plain / "metrics.csv")[0]["loss"]
    assert column(tmp_path / "run", "loss")[0] == float(first)


@pytest.mark.slow
def test_each_step_has_one_rate_and_lower_layers_their_share(
    tmp_path: Path, run_tiny: Callable[..., TrainingModule]
) -> None:
    made: dict[int, list[tuple[float, float]]] = {}

    class Groups(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
            groups = trainer.optimizers[0].param_groups
            rates = [(each["lr"], each["lr_scale"]) for each in groups]
            made.setdefault(trainer.global_step, rates)

    def train(config: Any, folder: Path, callbacks: list[Callback]) -> Path:
        optimizer = OptimizerConfig(layer_decay=0.5, warmup_epochs=1)
        more = (Groups(), *callbacks)
        run_tiny(folder, callbacks=more, optimizer=optimizer, epochs=30)
        return folder

    # As `run_tiny` has it: two micro-batches of two images a step.
    trainer = replace(SMALL.trainer, batch_size=2, accumulate=2)
    find_rate(train, replace(SMALL, trainer=trainer), tmp_path / "out")
    rates = column(tmp_path / "out", "learning_rate")
    for step, rate in enumerate(rates, start=1):
        assert [lr for lr, _ in made[step]] == [rate * share for _, share in made[step]]
    assert len({share for _, share in made[1]}) > 2
    assert np.allclose(np.diff(np.log(rates)), np.log(1e7) / (RATES - 1))
    base = column(tmp_path / "out", "base_lr")
    assert np.allclose(np.array(rates) / base, 4 / 256)


@pytest.mark.parametrize(("steps", "says"), [(3, "not finite"), (30, "suggested: f")])
def test_a_loss_that_is_not_finite_has_diverged(
    tmp_path: Path, steps: int, says: str
) -> None:
    made = steps

    def train(config: Any, folder: Path, callbacks: list[Any]) -> Path:
        callbacks[0].losses = curve(0, 0.8)[:made]
        raise TrainingError("not finite")

    # Of the first few steps no rate is to blame; then none has been found so far.
    with pytest.raises(TrainingError, match=says):
        find_rate(train, SMALL, tmp_path)
    made = 70
    assert 0 < find_rate(train, SMALL, tmp_path, overwrite=True) < 1


def test_stages_and_queues_are_refused(tmp_path: Path) -> None:
    staged = replace(SMALL, stages=({"name": "one", "steps": 2},))
    moco = PretrainConfig(
        model=ModelConfig(size="tiny", embed_dim=16, depth=1, num_heads=2),
        data=SMALL.data,
        optimizer=SMALL.optimizer,
        trainer=SMALL.trainer,
        objective="moco",
        settings={"version": "v2", "queue_size": 8, "dim": 8},
    )
    for plan, says in ((staged, "leave out stages"), (moco, "with a queue rises")):
        with pytest.raises(ConfigError, match=says):
            find_rate(pretrain, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_fine_tuning_finds_its_rate(pretrained: Path, tmp_path: Path) -> None:
    plan = finetune_config(write_archive(tmp_path / "toy", per_class=10), pretrained)
    base_lr = find_rate(finetune, plan, tmp_path / "out")
    found = column(tmp_path / "out", "smoothed_loss")
    rates = column(tmp_path / "out", "base_lr")
    assert rates[0] < base_lr < rates[int(np.argmin(found))]
