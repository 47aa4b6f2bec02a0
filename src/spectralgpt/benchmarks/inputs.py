"""What is measured on: random images of any shape, or a data set from disk."""

from typing import Any

import numpy as np
import torch

from spectralgpt.benchmarks.config import BenchmarkConfig
from spectralgpt.data.crops import CropConfig
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.sensors import Band
from spectralgpt.training.fit import TrainerConfig
from spectralgpt.training.optim import OptimizerConfig
from spectralgpt.training.pretrain_config import (
    DataConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
)

__all__ = ["RandomImages", "pretrain_config", "random_contract", "trainer_config"]

_RANGE_NM = (400.0, 2500.0)
_GSD_M = 10.0


def random_contract(config: BenchmarkConfig) -> Preprocessing:
    """Return a contract for random images: bands evenly over the solar spectrum."""
    centres = np.linspace(*_RANGE_NM, config.num_bands + 1)[:-1]
    width = (_RANGE_NM[1] - _RANGE_NM[0]) / config.num_bands
    bands = tuple(
        Band(f"R{number:03d}", float(centre), width, _GSD_M)
        for number, centre in enumerate(centres, start=1)
    )
    return Preprocessing("random", bands, image_size=config.image_size)


class RandomImages:
    """Images as `PretrainingDataset` gives them: uniform in 0..1, as scaled ones are.

    They are made once, so that drawing one costs next to nothing.

    Args:
        contract: bands and image size.
        count: how many.
    """

    def __init__(self, contract: Preprocessing, count: int) -> None:
        size = contract.image_size
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(
            count, len(contract.bands), size, size, generator=generator
        )
        self.wavelengths_nm = torch.tensor(contract.wavelengths_nm)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Give one image; nothing is drawn anew."""
        image = self.images[index]
        return {
            "images": image,
            "valid": torch.ones_like(image, dtype=torch.bool),
            "wavelengths_nm": self.wavelengths_nm,
            "gsd_m": torch.tensor(_GSD_M),
            "item": index,
        }


def trainer_config(config: BenchmarkConfig, device: torch.device) -> TrainerConfig:
    """Return one epoch that writes nothing but its metrics."""
    return TrainerConfig(
        epochs=1,
        batch_size=config.batch_size,
        precision=config.precision,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        workers=config.workers,
        checkpoint_every_steps=0,
        export_every_epochs=0,
        validate_every_epochs=1,  # There is nothing to validate on.
        recompute_activations=config.recompute_activations,
        compile=config.compile,
    )


def pretrain_config(
    config: BenchmarkConfig, device: torch.device, steps: int
) -> PretrainConfig:
    """Return the configuration of the pretraining run that is measured."""
    return PretrainConfig(
        model=ModelConfig(**config.model_settings()),
        data=_data_config(config),
        masking=MaskingConfig(config.mask_ratio),
        optimizer=OptimizerConfig(warmup_epochs=0),
        trainer=trainer_config(config, device),
        steps=steps,
    )


def _data_config(config: BenchmarkConfig) -> DataConfig:
    root, sources = config.data_root, [str(config.data)] if config.data else []
    if config.data and config.data.is_dir() and not any(config.data.glob("*.yaml")):
        # A folder of images needs no description.
        root, sources = config.data, []
    return DataConfig(
        root=root,
        sources=tuple(sources),
        sensor=config.sensor,
        exclude_bands=config.exclude_bands,
        image_size=config.image_size,
        crops=CropConfig(val_share=0),
    )
