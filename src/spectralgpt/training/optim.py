"""How a run learns: its length, batches and machines, its optimizer and schedule.

Pure functions of models and numbers: nothing here knows about the training loop. The
schedule is a function of the fractional epoch alone, so a resumed run needs no
scheduler state.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from spectralgpt.config import check_range
from spectralgpt.errors import ConfigError, require

# lr = base_lr * effective batch / 256: the linear scaling rule of the published code.
_BASE_BATCH_SIZE = 256

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]

PRECISIONS: dict[str, Any] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or LARS, and its schedule.

    Args:
        algorithm: adamw; or lars, whose steps are in proportion to the weights, for
            large batches of contrastive objectives.
        base_lr: learning rate for an effective batch of 256 images; the rate used is
            base_lr * (batch_size * accumulate * devices * num_nodes) / 256.
        min_lr: learning rate at the end of the cosine, not scaled by the batch.
        warmup_epochs: epochs of linear growth from 0 to the full rate; fractions too.
        weight_decay: decoupled weight decay; never applied to biases and norms.
        beta1: decay of AdamW's first moment, or of that of LARS, 0..1.
        beta2: decay of AdamW's second moment, 0..1; LARS has none.
        layer_decay: factor of the learning rate from one encoder layer to the one below
            it, 0..1; null gives every layer the same rate. For fine-tuning.
        clip_grad_norm: largest norm of the gradient over all parameters; null clips
            nothing.
    """

    algorithm: Literal["adamw", "lars"] = "adamw"
    base_lr: float = 1e-4
    min_lr: float = 0.0
    warmup_epochs: float = 20.0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    layer_decay: float | None = None
    clip_grad_norm: float | None = None

    def rate(self, effective_batch: int) -> float:
        """Return the learning rate for a batch of so many images."""
        return self.base_lr * effective_batch / _BASE_BATCH_SIZE

    def __post_init__(self) -> None:
        """Check the ranges."""
        section = "optimizer."
        rates = ("base_lr", "min_lr", "warmup_epochs", "weight_decay")
        check_range("at least 0", self, *rates, section=section)
        check_range("at least 0 and below 1", self, "beta1", "beta2", section=section)
        check_range("above 0 and at most 1", self, "layer_decay", section=section)
        check_range("above 0", self, "clip_grad_norm", section=section)


@dataclass(frozen=True)
class TrainerConfig:
    """Length of the run, its batches and its machines.

    Args:
        epochs: passes over samples_per_epoch draws.
        batch_size: images of one process in one micro-batch.
        accumulate: micro-batches whose gradients make one optimizer step.
        precision: fp32, bf16 or fp16 arithmetic; weights stay fp32.
        accelerator: auto, cpu, gpu or mps.
        devices: processes on each node, one a device; auto takes what is there.
        num_nodes: machines.
        strategy: auto, ddp (each process holds the model) or fsdp (parameters,
            gradients and optimizer state are sharded over the processes).
        recompute_activations: keep only what goes into each transformer block, and run
            the block once more in the backward pass: less memory, more time.
        compile: compile each transformer block with torch.compile, where that works;
            for GPUs: on processors it is slower.
        workers: loader processes of each training process; 0 loads in the process.
        log_every_steps: optimizer steps between rows of metrics.csv.
        checkpoint_every_steps: optimizer steps between writes of last.ckpt inside an
            epoch; 0 writes at the end of each epoch only.
        export_every_epochs: epochs between exports of checkpoints/model; 0 exports at
            the end only.
        validate_every_epochs: epochs between scores of the held-out images; 0 scores at
            the end only.
        patience: scores of the held-out images, one after the other and none better
            than the best, after which training stops; 0 never stops it.
        save_top_k: epochs with the best scores whose whole state is kept, beside
            last.ckpt; 0 for none.
        ema_decay: share that a moving average of the weights keeps at each step, such
            as 0.999 (less in the first steps); the average is what is scored and
            exported. 0 for none.
        loggers: where metrics go: csv, which the report is made of, tensorboard,
            wandb, mlflow.
    """

    epochs: int = 200
    batch_size: int = 16
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    recompute_activations: bool = False
    compile: bool = False
    workers: int = 2
    log_every_steps: int = 1
    checkpoint_every_steps: int = 100
    export_every_epochs: int = 1
    validate_every_epochs: int = 1
    patience: int = 0
    save_top_k: int = 0
    ema_decay: float = 0.0
    loggers: tuple[LoggerName, ...] = ("csv", "tensorboard")

    def __post_init__(self) -> None:
        """Check the ranges, and that the precision fits the device."""
        counts = ("epochs", "batch_size", "accumulate", "num_nodes", "log_every_steps")
        check_range("at least 1", self, *counts, section="trainer.")
        every = ("checkpoint_every_steps", "export_every_epochs")
        others = (*every, "validate_every_epochs", "workers", "patience", "save_top_k")
        check_range("at least 0", self, *others, section="trainer.")
        self._check_choices()
        if self.devices != "auto":
            check_range("at least 1", self, "devices", section="trainer.")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"trainer.precision is {self.precision!r}; use one of "
                f"{', '.join(PRECISIONS)}."
            )
        if self.precision == "fp16" and not self.on_gpu:
            raise ConfigError(
                "trainer.precision fp16 needs a GPU (found: none in use). Use bf16 or "
                "fp32 on this machine."
            )
        if self.precision == "fp16" and self.strategy == "fsdp":
            raise ConfigError(
                "trainer.precision fp16 does not go with strategy fsdp. Use bf16."
            )

    def _check_choices(self) -> None:
        """Check what scores are for, the average and the loggers."""
        if (self.patience or self.save_top_k) and not self.validate_every_epochs:
            raise ConfigError(
                "trainer.patience and save_top_k go by scores of held-out images: set "
                "trainer.validate_every_epochs above 0."
            )
        check_range("at least 0 and below 1", self, "ema_decay", section="trainer.")
        if self.ema_decay and self.strategy == "fsdp":
            raise ConfigError(
                "trainer.ema_decay does not go with strategy fsdp. Use ddp, or 0."
            )
        if "csv" not in self.loggers or len(set(self.loggers)) < len(self.loggers):
            raise ConfigError(
                f"trainer.loggers is {list(self.loggers)}: name csv, which the report "
                "is made of, and each once."
            )

    @property
    def on_gpu(self) -> bool:
        """Whether the accelerator is one that does half precision."""
        if self.accelerator == "auto":
            return torch.cuda.is_available() or torch.backends.mps.is_available()
        return self.accelerator != "cpu"

    @property
    def processes(self) -> int:
        """Training processes over all nodes."""
        on_node = 1
        if self.devices != "auto":
            on_node = self.devices
        elif self.accelerator in ("auto", "gpu") and torch.cuda.is_available():
            on_node = torch.cuda.device_count()
        return on_node * self.num_nodes

    @property
    def effective_batch(self) -> int:
        """Samples in one optimizer step, over all processes."""
        return self.batch_size * self.accumulate * self.processes


def check_machine(config: TrainerConfig) -> None:
    """Refuse devices and loggers that this machine does not have.

    Not part of the configuration's own checks: it may be read on another machine.

    Raises:
        ConfigError: there is no such accelerator, or there are fewer devices; a package
            is not installed, or it is not said where it writes.
    """
    require(*config.loggers)
    if "mlflow" in config.loggers and "MLFLOW_TRACKING_URI" not in os.environ:
        raise ConfigError(
            "trainer.loggers has mlflow: say where it writes by MLFLOW_TRACKING_URI, "
            "such as http://localhost:5000."
        )
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    wanted = {"gpu": ("cuda", "mps"), "mps": ("mps",)}.get(config.accelerator, ())
    found = max((counts[kind] for kind in wanted), default=0)
    if wanted and not found:
        raise ConfigError(
            f"trainer.accelerator is {config.accelerator!r}, and this machine has "
            "none that torch can use. Set it to auto or cpu."
        )
    # With auto, Lightning takes a GPU wherever there is one.
    on_gpu = wanted or (config.accelerator == "auto" and any(counts.values()))
    found = found or max(counts.values())
    if on_gpu and config.devices != "auto" and config.devices > found:
        raise ConfigError(
            f"trainer.devices is {config.devices}, and this machine has {found}. "
            "Lower it, or set trainer.accelerator to cpu."
        )


def learning_rate_at(
    epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: float
) -> float:
    """Give the learning rate at a fractional epoch.

    Args:
        epoch: epochs done, fractional, 0..epochs.
        lr: rate at the end of the warm-up.
        min_lr: rate at the end of training.
        warmup_epochs: length of the linear warm-up from 0.
        epochs: length of the whole training.

    Source: METHOD, progressive pretraining: linear warm-up, then a half-cycle cosine.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-12)
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float | None
) -> list[dict[str, Any]]:
    """Split trainable parameters by weight decay and, if asked, by layer.

    Biases and norms are not decayed; position tables and the mask token are, as in the
    published pretraining. With a layer decay lower layers learn more slowly: the token
    embedding and the position tables are layer 0, block i is layer i + 1, and the final
    norm and the head keep the full rate; position tables are then not decayed.

    Source: golden table of the published fine-tuning. There the separable position
        tables fall through to the full rate by mistake; here they are layer 0.
    """
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    blocks = [int(found[1]) for n, _ in trainable if (found := _BLOCK.search(n))]
    depth = 1 + max(blocks, default=-1)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trainable:
        rate, decay = 1.0, weight_decay
        if layer_decay is not None:
            rate = layer_decay ** (depth + 1 - _layer_of(name, depth))
            decay = 0.0 if ".positions." in f".{name}" else weight_decay
        if parameter.ndim <= 1 or name.endswith(".bias"):
            decay = 0.0
        settings = {"lr_scale": rate, "weight_decay": decay}
        group = groups.setdefault((rate, decay), {"params": [], **settings})
        group["params"].append(parameter)
    return list(groups.values())


def _layer_of(name: str, depth: int) -> int:
    block = _BLOCK.search(name)
    if block is not None:
        return int(block[1]) + 1
    in_encoder = name.startswith("encoder.") and not name.startswith("encoder.norm.")
    return 0 if in_encoder else depth + 1


class Lars(torch.optim.Optimizer):
    """Gradient descent with momentum, each matrix in proportion to its own size.

    Vectors, such as biases and norms, are neither scaled nor decayed.

    Args:
        params: groups with `weight_decay`.
        lr: learning rate.
        momentum: decay of the mean of steps, 0..1.
        trust: length of a step at rate 1, as a share of the matrix's.

    Source: You et al. 2017, arXiv:1708.03888, as in Chen et al. 2021, arXiv:2104.02057.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step; the closure, if there is one, gives the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        step = parameter.grad
        assert step is not None
        if parameter.ndim > 1:
            step = step + group["weight_decay"] * parameter
            own, wanted = parameter.norm(), step.norm()
            share = group["trust"] * own / wanted
            step = step * torch.where((own > 0) & (wanted > 0), share, 1.0)
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].mul_(group["momentum"]).add_(step)
        parameter.sub_(group["lr"] * state["mean"])


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, fused: bool = True
) -> torch.optim.Optimizer:
    """Build AdamW, or LARS, over the model's trainable parameters.

    The rate is set at each step.

    Args:
        model: what is trained, where it is trained.
        config: rates and decays.
        fused: AdamW updates each weight in one pass over memory. With scaled gradients
            (fp16) such an update would undo their scale itself, after they are clipped.
    """
    groups = _parameter_groups(model, config.weight_decay, config.layer_decay)
    if config.algorithm == "lars":
        return Lars(groups, lr=0.0, momentum=config.beta1)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=fused)
