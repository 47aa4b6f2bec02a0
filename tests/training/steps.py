"""Make a step, or a few, of a task whose samples have unlike numbers of labels.

As a program, so that it can be started in several processes:
`python -m tests.training.steps TASK OUTPUT BATCH_SIZE ACCUMULATE DEVICES`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from spectralgpt import objectives
from spectralgpt.models.heads import ClassificationModel, RegressionModel
from spectralgpt.tasks import Task
from spectralgpt.tasks.classification import ClassificationTask, RegularizationConfig
from spectralgpt.tasks.dense import DenseLossConfig, DenseTask, RegressionTask
from spectralgpt.tasks.pretraining import PretrainingTask
from spectralgpt.training.fit import RunFolder, fit
from spectralgpt.training.loading import EpochBatchSampler, build_loader
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from tests.tiny import tiny_encoder, tiny_model

SIDE, CLASSES, SAMPLES = 16, 3, 8
CONTRASTS: dict[str, dict[str, Any]] = {
    "moco v2": {"version": "v2", "queue_size": 24, "momentum": 0.9},
    "moco v3": {"version": "v3", "hidden_dim": 32, "momentum": 0.9},
    "simclr": {},
}
CONTRAST_STEPS = 4
"""In the last of them a queue wraps."""


class Uneven:
    """Images of noise; the later ones have ever fewer labels and valid pixels."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return SAMPLES

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        fixed = torch.Generator().manual_seed(index)
        image = torch.rand(12, SIDE, SIDE, generator=fixed)
        if self.kind == "pretraining" or self.kind in CONTRASTS:
            valid = torch.ones_like(image, dtype=torch.bool)
            valid[:, : 2 * index] = False
            return {"images": image, "valid": valid}
        if self.kind == "classification":
            return {"image": image, "target": torch.tensor(index % CLASSES)}
        if self.kind == "labels":
            labels = torch.zeros(CLASSES)
            labels[: index % (CLASSES + 1)] = 1
            return {"image": image, "target": labels}
        if self.kind == "numbers":
            numbers = 20 + 5 * torch.rand(SIDE, SIDE, generator=fixed)
            numbers[: 2 * index] = torch.nan
            return {"image": image, "target": numbers}
        target = torch.randint(CLASSES, (SIDE, SIDE), generator=fixed)
        target[: 2 * index] = -1
        target[target == index % CLASSES] = -1  # Classes are spread unevenly, too.
        return {"image": image, "target": target}


def build_task(kind: str) -> Task:
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 1.0, 3.0])
    names = ["a", "b", "c"][:CLASSES]
    if kind == "pretraining":
        return PretrainingTask(tiny_model(SIDE), mask_ratio=0.5)
    if kind in CONTRASTS:
        size = {"image_size": SIDE, "embed_dim": 32, "depth": 1, "num_heads": 4}
        settings = {**size, "dim": 16, **CONTRASTS[kind]}
        return PretrainingTask(objectives.build(kind.split()[0], **settings), 0.0)
    if kind in ("classification", "labels"):
        task = "single-label" if kind == "classification" else "multi-label"
        model = ClassificationModel(tiny_encoder(SIDE), CLASSES)
        # A new head is zero, and would pass nothing on.
        nn.init.normal_(model.head.weight)
        return ClassificationTask(model, names, task, RegularizationConfig(), weights)
    if kind == "numbers":
        numbers = RegressionModel(tiny_encoder(SIDE), 1, "linear")
        numbers.target_mean.fill_(20.0)
        numbers.target_std.fill_(5.0)
        return RegressionTask(numbers, "height", "huber")
    config = DenseLossConfig(dice_weight=1.0 if kind == "dice" else 0.0)
    convolution: Any = nn.Conv2d(12, CLASSES, 3, padding=1)
    return DenseTask(convolution, names, None, config, weights)


class Noted(Callback):
    """Keep the gradients and loss terms of the last step."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.terms: dict[str, float] = {}

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Any
    ) -> None:
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, *args: Any
    ) -> None:
        assert isinstance(module, TrainingModule)
        self.terms = dict(module.last_terms)


def make_step(
    kind: str, output: Path, batch_size: int, accumulate: int, devices: int = 1
) -> dict[str, Any]:
    """Return gradients and loss terms of the last step, and the weights after it."""
    is_contrast = kind in CONTRASTS
    config = TrainerConfig(
        epochs=CONTRAST_STEPS if is_contrast else 1,
        batch_size=batch_size, accumulate=accumulate, devices=devices,
        workers=0, accelerator="cpu", strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    batches = EpochBatchSampler(
        SAMPLES, SAMPLES, batch_size, accumulate, 3, world_size=devices
    )
    # AdamW would make steps of full size of what is rounding noise.
    chosen = {"algorithm": "lars", "base_lr": 1.0} if is_contrast else {}
    optimizer = OptimizerConfig(**{"base_lr": 1e-3, "warmup_epochs": 0, **chosen})
    module = TrainingModule(build_task(kind), optimizer, config, batches)
    noted, folder = Noted(), RunFolder(output)
    folder.root.mkdir(parents=True, exist_ok=True)
    loader = build_loader(Uneven(kind), batches, 0)
    fit(module, loader, None, config, folder, callbacks=[noted])
    state = {name: value.clone() for name, value in module.model.state_dict().items()}
    return {"gradients": noted.gradients, "terms": noted.terms, "state": state}


def main(build: Callable[..., dict[str, Any]] = make_step) -> None:
    kind, output, *numbers = sys.argv[1:]
    found = build(kind, Path(output), *map(int, numbers))
    if torch.distributed.get_rank() == 0:
        torch.save(found, Path(output) / "step.pt")


if __name__ == "__main__":
    main()
