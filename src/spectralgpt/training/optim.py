"""Parameter groups, learning-rate scaling and the warm-up and cosine schedule.

Pure functions of models and numbers: nothing here knows about the training loop. The
schedule is a function of the fractional epoch alone, so a resumed run needs no
scheduler state.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt.errors import ConfigError

# lr = base_lr * effective batch / 256: the linear scaling rule of the published code.
BASE_BATCH_SIZE = 256

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule.

    Args:
        base_lr: learning rate for an effective batch of 256 images; the rate used is
            base_lr * (batch_size * accumulate * devices * num_nodes) / 256.
        min_lr: learning rate at the end of the cosine, not scaled by the batch.
        warmup_epochs: epochs of linear growth from 0 to the full rate; fractions too.
        weight_decay: decoupled weight decay; never applied to biases and norms.
        beta1: decay of AdamW's first moment, 0..1.
        beta2: decay of AdamW's second moment, 0..1.
        layer_decay: factor of the learning rate from one encoder layer to the one below
            it, 0..1; null gives every layer the same rate. For fine-tuning.
        clip_grad_norm: largest norm of the gradient over all parameters; null clips
            nothing.
    """

    base_lr: float = 1e-4
    min_lr: float = 0.0
    warmup_epochs: float = 20.0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    layer_decay: float | None = None
    clip_grad_norm: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("base_lr", "min_lr", "warmup_epochs", "weight_decay"):
            _check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        for name in ("beta1", "beta2"):
            _check(name, getattr(self, name), "in 0..1", 0 <= getattr(self, name) < 1)
        decay, clip = self.layer_decay, self.clip_grad_norm
        if decay is not None:
            _check("layer_decay", decay, "above 0 and at most 1", 0 < decay <= 1)
        if clip is not None:
            _check("clip_grad_norm", clip, "above 0", clip > 0)


def _check(name: str, value: float, rule: str, holds: bool) -> None:
    if not holds or not math.isfinite(value):
        raise ConfigError(f"optimizer.{name} is {value}; it must be {rule}.")


def scale_learning_rate(base_lr: float, effective_batch: int) -> float:
    """Give the learning rate for a batch of `effective_batch` images."""
    return base_lr * effective_batch / BASE_BATCH_SIZE


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


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group to `lr` times the group's own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into decayed and not decayed (biases and norms).

    Position tables and the mask token are decayed, as in the published pretraining.

    Returns:
        Groups for a torch optimizer, with the names of their parameters under `names`.
    """
    entries = [
        (
            name,
            parameter,
            1.0,
            0.0 if _is_bias_or_norm(name, parameter) else weight_decay,
        )
        for name, parameter in _trainable(model)
    ]
    return _collect(entries)


def layer_decay_groups(
    model: nn.Module, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Give lower layers of a classifier smaller learning rates.

    The token embedding and the position tables are layer 0, block i is layer i + 1, and
    the final norm and the head keep the full rate; a layer's rate is `layer_decay` to
    the power of its distance from the head. Position tables are not decayed.

    Args:
        model: a model whose `encoder` has `blocks`, and anything else above it.
        weight_decay: decoupled weight decay of matrices.
        layer_decay: factor from one layer to the one below.

    Source: golden table of the published fine-tuning. There the separable position
        tables fall through to the full rate by mistake; here they are layer 0.
    """
    names = [name for name, _ in _trainable(model)]
    depth = 1 + max((int(m[1]) for m in map(_BLOCK.search, names) if m), default=-1)
    entries = []
    for name, parameter in _trainable(model):
        scale = layer_decay ** (depth + 1 - _layer_of(name, depth))
        no_decay = _is_bias_or_norm(name, parameter) or _is_position_table(name)
        entries.append((name, parameter, scale, 0.0 if no_decay else weight_decay))
    return _collect(entries)


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, fused: bool = True
) -> torch.optim.AdamW:
    """Build AdamW over the model's trainable parameters; the rate is set each step.

    Args:
        model: what is trained, where it is trained.
        config: rates and decays.
        fused: update each weight in one pass over memory. With scaled gradients
            (fp16) such an update would undo their scale itself, after they are clipped.
    """
    if config.layer_decay is None:
        groups = parameter_groups(model, config.weight_decay)
    else:
        groups = layer_decay_groups(model, config.weight_decay, config.layer_decay)
    # Names are for people and tests; as optimizer state they would bloat checkpoints.
    groups = [{k: v for k, v in group.items() if k != "names"} for group in groups]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=fused)


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def _is_bias_or_norm(name: str, parameter: Tensor) -> bool:
    return parameter.ndim <= 1 or name.endswith(".bias")


def _is_position_table(name: str) -> bool:
    return ".positions." in f".{name}"


def _layer_of(name: str, depth: int) -> int:
    block = _BLOCK.search(name)
    if block is not None:
        return int(block[1]) + 1
    in_encoder = name.startswith("encoder.") and not name.startswith("encoder.norm.")
    return 0 if in_encoder else depth + 1


def _collect(
    entries: Iterable[tuple[str, nn.Parameter, float, float]],
) -> list[dict[str, Any]]:
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter, lr_scale, weight_decay in entries:
        group = groups.setdefault(
            (lr_scale, weight_decay),
            {
                "params": [],
                "names": [],
                "lr_scale": lr_scale,
                "weight_decay": weight_decay,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())
