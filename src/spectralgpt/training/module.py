"""What Lightning trains: a task, its optimizer, and its blocks as they are run."""

import logging
import math
import signal
import threading
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from spectralgpt.errors import CheckpointError, ConfigError, TrainingError
from spectralgpt.models.blocks import BlockStack, build_blocks
from spectralgpt.models.objective import Objective
from spectralgpt.tasks import READ, Batch, Gather, Task, own_sums
from spectralgpt.training.loading import EpochBatchSampler
from spectralgpt.training.optim import (
    OptimizerConfig,
    TrainerConfig,
    build_optimizer,
    learning_rate_at,
)

PROGRESS = "spectralgpt"
DATA = "sample of images and labels"
"""Entries of a checkpoint, and of its progress."""
_WHAT_TO_DO = (
    "Lower optimizer.base_lr, train in bf16 or fp32, or set optimizer.clip_grad_norm."
)
_KEPT = "The last checkpoint is from before, and was kept."
_log = logging.getLogger(__name__)


class TrainingModule(LightningModule):
    """Run a task's steps: learning rate, loss terms, and where the run is.

    Args:
        task: loss and metrics; its model's parameters become this module's.
        optimizer: AdamW or LARS, and its schedule.
        settings: length of the whole training, batches, steps between logged rows.
        batches: the training batches, put back to the right place on resume.
        data: tells the data from others, see `spectralgpt.data.identity.sample_data`.
    """

    def __init__(
        self,
        task: Task,
        optimizer: OptimizerConfig,
        settings: TrainerConfig,
        batches: EpochBatchSampler,
        data: str = "",
    ) -> None:
        super().__init__()
        self.model = task.model
        self.task = task
        self.optimizer_config = optimizer
        self.settings = settings
        self.epochs = settings.epochs
        self.effective_batch = settings.effective_batch
        self.batches = batches
        self.log_every_steps = settings.log_every_steps
        self.data = data
        self.lr = optimizer.rate(self.effective_batch)
        self.last_terms: dict[str, float] = {}
        self._micro_terms: list[dict[str, Tensor]] = []
        self._step_sums: Tensor | None = None
        self._last_step_time: float | None = None
        self._on_terminate = signal.getsignal(signal.SIGTERM)
        for stack in _stacks(self):
            stack.recomputes = settings.recompute_activations

    def on_fit_start(self) -> None:
        """Compile the blocks of what is trained, once it is where it is trained."""
        if self.settings.compile:
            _compile_blocks(self, self.device)

    def on_train_start(self) -> None:
        """Leave SIGTERM to whoever had it before the Trainer.

        That waits for a step's end, and ends the process as if all were done. A run
        that had stopped early before it was killed stops again.
        """
        if any(
            each.wait_count >= each.patience
            for each in self.trainer.early_stopping_callbacks
            if isinstance(each, EarlyStopping)
        ):
            self.trainer.should_stop = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)

    def setup(self, stage: str) -> None:
        """Take this process's slice of the batches, now that processes are known.

        Raises:
            ConfigError: another number of processes was started than configured.
        """
        if self.trainer.world_size != self.batches.world_size:
            raise ConfigError(
                f"{self.trainer.world_size} processes were started, the configuration "
                f"says {self.batches.world_size}. Make trainer.devices and "
                "trainer.num_nodes agree with the launcher."
            )
        self.batches.rank = self.trainer.global_rank

    def configure_model(self) -> None:
        """Shard the model over the processes, if the strategy asks for it."""
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None:
            _shard(self.model, mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer; its rate is set at each step."""
        scaled = self.trainer.precision == "16-mixed"
        return build_optimizer(self.model, self.optimizer_config, fused=not scaled)

    def on_train_epoch_start(self) -> None:
        """Point the sampler at this epoch; a no-op in the epoch that is resumed."""
        self.batches.start_at(self.current_epoch, 0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate for the step that this batch opens, and begin it."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.set_rate(self.rate_at(batch_idx))
            if isinstance(self.model, Objective):
                self.model.begin_step(self._epoch_at(batch_idx) / self.epochs)

    def set_rate(self, rate: float) -> None:
        """Give the optimizer a learning rate; lower layers take their share of it."""
        for group in self._raw_optimizer().param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)

    def rate_at(self, batch_idx: int) -> float:
        """Give the learning rate at a batch of the current epoch."""
        config = self.optimizer_config
        return learning_rate_at(
            self._epoch_at(batch_idx),
            lr=self.lr,
            min_lr=config.min_lr,
            warmup_epochs=config.warmup_epochs,
            epochs=self.epochs,
        )

    def _epoch_at(self, batch_idx: int) -> float:
        """Return the epochs done at a batch of the current epoch."""
        return self.current_epoch + batch_idx / len(self.batches)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a micro-batch, but for what tasks read.

        Those that follow it in its step stay where they are, too.
        """
        own = {k: v for k, v in batch.items() if k not in ("step", *READ)}
        return batch | super().transfer_batch_to_device(own, device, dataloader_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the 0-d loss of one micro-batch, averaged over its whole step."""
        step = batch.pop("step", None)
        if step is not None:
            self._step_sums = self._over_processes(self._sum_up(step))
        terms = self.task.loss(batch, self._gather())
        self._micro_terms.append({name: t.detach() for name, t in terms.items()})
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the terms over the step's micro-batches and processes, and log them.

        Raises:
            TrainingError: the loss or the gradients are not finite; the step is not
                made. All processes find the same.
        """
        step = self.global_step + 1
        self.last_terms = self._mean_terms()
        # For callbacks: the rows below go to the logs, at the run's own steps.
        self.log_dict(self.last_terms, logger=False)
        if not math.isfinite(self.last_terms["loss"]):
            raise TrainingError(self._not_finite(step, "the loss is"))
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if bool(norm.isfinite()):
            clip = self.optimizer_config.clip_grad_norm
            if clip is not None:
                nn.utils.clip_grads_with_norm_(self.model.parameters(), clip, norm)
        elif not self._is_retried():
            raise TrainingError(self._not_finite(step, "the gradients are"))
        speed = self._measure_speed()
        if step % self.log_every_steps == 0 or step == 1:
            done = (self.trainer.fit_loop.batch_idx + 1) / len(self.batches)
            self.log_row(
                step,
                {
                    "epoch": self.current_epoch + done,
                    **self.last_terms,
                    "lr": optimizer.param_groups[-1]["lr"],
                    **speed,
                },
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, and free the gradients before the next forward pass.

        Lightning frees them after it, when activations are at their most.
        """
        super().optimizer_step(*args, **kwargs)
        self._raw_optimizer().zero_grad()

    def _is_retried(self) -> bool:
        """Tell whether fp16 leaves this step out and takes the next at half the scale.

        At a scale of 1 there is nothing left to halve: the gradients themselves are
        not finite.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler is not None and scaler.get_scale() > 1

    def check_state(self) -> None:
        """Refuse to keep weights or optimizer state that are not finite.

        Every process must call this, and all find the same.

        Raises:
            TrainingError: names what is not finite.
        """
        tensors = dict(self.model.state_dict())
        for index, state in enumerate(self._raw_optimizer().state.values()):
            tensors |= {f"optimizer {index} {name}": v for name, v in state.items()}
        # A process may hold no row of a sharded tensor.
        parts = {
            name: v.to_local() if isinstance(v, DTensor) else v
            for name, v in tensors.items()
            if isinstance(v, Tensor)
        }
        norms = {
            name: torch.linalg.vector_norm(part.float(), torch.inf)
            for name, part in parts.items()
            if part.is_floating_point() and part.numel()
        }
        device = self.device
        found = torch.stack([norm.to(device) for norm in norms.values()])
        total = self.trainer.strategy.reduce(found.sum(), reduce_op="mean")
        if not bool(total.isfinite()):
            bad = [name for name, norm in norms.items() if not bool(norm.isfinite())]
            raise TrainingError(
                f"after step {self.global_step} {', '.join(bad[:4]) or 'weights'} and "
                f"{max(0, len(bad) - 4)} more hold values that are not finite: the "
                f"training diverged. {_WHAT_TO_DO} {_KEPT}"
            )

    def _measure_speed(self) -> dict[str, float]:
        now, before = time.monotonic(), self._last_step_time
        self._last_step_time = now
        if before is None:
            return {}
        return {"images_per_s": self.effective_batch / max(now - before, 1e-9)}

    def log_row(self, step: int, values: dict[str, float]) -> None:
        """Write values to every log of the run."""
        if self.trainer.is_global_zero:
            for logger in self.trainer.loggers:
                logger.log_metrics(values, step)

    def _gather(self) -> Gather:
        """Return what gives a loss the sums of its whole step."""
        if self.batches.accumulate == 1:
            several = self.batches.world_size > 1
            return self._over_processes if several else own_sums
        whole = self._step_sums
        assert whole is not None
        return lambda own: whole

    def _sum_up(self, step: list[Batch]) -> Tensor:
        moved = (self.transfer_batch_to_device(b, self.device, 0) for b in step)
        with torch.no_grad():
            return torch.stack([self.task.sums(batch) for batch in moved]).sum(dim=0)

    def _over_processes(self, sums: Tensor) -> Tensor:
        # Lightning sums in place.
        gathered = self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        assert isinstance(gathered, Tensor)
        return gathered

    def _mean_terms(self) -> dict[str, float]:
        """Average each term over the micro-batches that gave it.

        All processes have the same terms: at a step their batches are of one kind.
        """
        by_name: dict[str, list[Tensor]] = {}
        for terms in self._micro_terms:
            for name, term in terms.items():
                by_name.setdefault(name, []).append(term.float())
        self._micro_terms = []
        stacked = torch.stack([torch.stack(found).mean() for found in by_name.values()])
        mean = self.trainer.strategy.reduce(stacked, reduce_op="mean")
        return dict(zip(by_name, mean.tolist(), strict=True))

    def _not_finite(self, step: int, what: str) -> str:
        terms = ", ".join(f"{name} {value}" for name, value in self.last_terms.items())
        return (
            f"{what} not finite at step {step} (epoch {self.current_epoch}, {terms}). "
            f"{_WHAT_TO_DO} {_KEPT}"
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one held-out batch."""
        self.task.validate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the held-out metrics at the step and epoch they belong to.

        Raises:
            TrainingError: the held-out loss is not finite.
        """
        values = {f"val_{name}": value for name, value in self.task.metrics().items()}
        if not math.isfinite(values.get("val_loss", 0.0)):
            self.last_terms |= values
            raise TrainingError(
                self._not_finite(self.global_step, "the held-out loss is")
            )
        # Callbacks find the first, which is the one that leads, under one name.
        score = next(iter(values.values()))
        self.log_dict({"val_score": score, **values}, logger=False, batch_size=1)
        self.log_row(self.global_step, {"epoch": self.current_epoch + 1.0, **values})
        # The time spent here is not training's.
        self._last_step_time = None
        self.last_terms = {**self.last_terms, **values}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note where in which epoch the run is, in a form of our own."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        # `processed` counts this batch already when the checkpoint follows a batch.
        done = int(progress.state_dict()["current"]["processed"])
        epoch = self.trainer.current_epoch
        if done >= len(self.batches):
            epoch, done = epoch + 1, 0
        checkpoint[PROGRESS] = {"epoch": epoch, "batch": done, **self._layout()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Start the sampler where the checkpoint was written.

        Raises:
            CheckpointError: the run was split into other batches, or had other data.
        """
        progress = checkpoint.get(PROGRESS, {})
        for name, value in self._layout().items():
            if progress.get(name) != value and not (name == DATA and not value):
                raise CheckpointError(
                    f"the run cannot be resumed with {name} {value}: its checkpoint "
                    f"was written with {progress.get(name)}. Resume with the settings "
                    "it was started with."
                )
        self.batches.start_at(progress["epoch"], progress["batch"])

    def _layout(self) -> dict[str, Any]:
        return {
            "effective_batch": self.effective_batch,
            "batches_per_epoch": len(self.batches),
            "epochs": self.epochs,
            "seed": self.batches.seed,
            "images": self.batches.num_items,
            DATA: self.data,
        }

    def _raw_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer


def _shard(model: nn.Module, mesh: Any) -> None:
    """Shard each transformer block, then what is left, over the processes of `mesh`."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(model, FSDPModule):
        return
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _compile_blocks(model: nn.Module, device: torch.device) -> bool:
    """Compile each block, at its first use; False, and logged, where that fails."""
    with torch.random.fork_rng(devices=[]):  # The run draws what it would draw without.
        (trial,) = build_blocks(embed_dim=32, depth=1, num_heads=1).to(device)
    try:
        trial.compile()
        trial(torch.zeros(1, 4, 32, device=device)).sum().backward()
    # Compilers, their tools and the system under them raise whatever they like.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        _log.warning(
            "trainer.compile: torch.compile does not work here (%s); blocks are run "
            "without it.",
            reason[0],
        )
        return False
    for stack in _stacks(model):
        for block in stack:
            block.compile()
    return True


def _stacks(model: nn.Module) -> list[BlockStack]:
    return [each for each in model.modules() if isinstance(each, BlockStack)]
