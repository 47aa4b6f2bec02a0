"""A tiny run of the training loop on tensors, without any files to read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from spectralgpt.checkpoints import save_model
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.tasks.pretraining import PretrainingTask
from spectralgpt.training.checkpointing import LastCheckpoint
from spectralgpt.training.fit import RunFolder, fit
from spectralgpt.training.loading import (
    EpochBatchSampler,
    FixedBatchSampler,
    build_loader,
)
from spectralgpt.training.module import TrainingModule
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from tests import tiny

BANDS, SIZE = 6, 16


class RandomImages:
    """Images drawn from their index, flipped by the sample's own generator."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        fixed = torch.Generator().manual_seed(index)
        image = torch.rand(BANDS, SIZE, SIZE, generator=fixed)
        if torch.rand((), generator=generator) < 0.5:
            image = image.flip(-1)
        return {"images": image, "valid": torch.ones_like(image, dtype=torch.bool)}


def build_tiny_model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(
        image_size=SIZE,
        num_bands=BANDS,
        embed_dim=16,
        depth=1,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    return save_model(folder, tiny.tiny_model(), tiny.tiny_contract())


@pytest.fixture
def tiny_model() -> Callable[[], MaskedAutoencoder]:
    return build_tiny_model


@pytest.fixture(scope="session")
def run_tiny() -> Callable[..., TrainingModule]:
    """Train the tiny model for 3 epochs of 5 steps of 4 images."""

    def run(
        root: Path,
        *,
        resume: bool = False,
        callbacks: tuple[Callback, ...] = (),
        optimizer: OptimizerConfig | None = None,
        model: MaskedAutoencoder | None = None,
        **settings: Any,
    ) -> TrainingModule:
        values = {
            "epochs": 3,
            "batch_size": 2,
            "accumulate": 2,
            "workers": 0,
            "accelerator": "cpu",
            "checkpoint_every_steps": 1,
        }
        config = TrainerConfig(**(values | settings))
        folder = RunFolder(root)
        folder.root.mkdir(parents=True, exist_ok=True)
        batches = EpochBatchSampler(20, 20, config.batch_size, config.accumulate, 7)
        module = TrainingModule(
            PretrainingTask(model or build_tiny_model(), mask_ratio=0.5),
            optimizer or OptimizerConfig(base_lr=1e-1, warmup_epochs=1),
            config,
            batches,
        )
        fit(
            module,
            build_loader(RandomImages(20), batches, config.workers),
            build_loader(RandomImages(4), FixedBatchSampler(4, 3, 1), 0),
            config,
            folder,
            resume=resume,
            callbacks=[
                *callbacks,
                LastCheckpoint(folder.last, config.checkpoint_every_steps),
            ],
        )
        return module

    return run
