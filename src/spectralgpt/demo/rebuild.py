"""Held-out crops through the trained autoencoder, in reflectance."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.demo.imagery import Imagery
from spectralgpt.errors import CheckpointError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.reports.reconstructions import Reconstruction
from spectralgpt.tasks.pretraining import PretrainingTask, pixel_mask
from spectralgpt.training.pretrain_config import PretrainConfig

__all__ = ["rebuild_held_out"]


def rebuild_held_out(
    loaded: LoadedModel, config: PretrainConfig, imagery: Imagery, count: int
) -> list[Reconstruction]:
    """Rebuild the most varied held-out crops, each under a mask of its own.

    Args:
        loaded: the trained autoencoder and its contract.
        config: of its run; says what was held out and how much is masked.
        imagery: the run's imagery.
        count: how many.

    Returns:
        Reconstructions in reflectance, the most varied first.

    Raises:
        CheckpointError: the model is no autoencoder or carries no contract.
        DataError: nothing was held out.
    """
    contract = loaded.preprocessing
    if contract is None or not isinstance(loaded.model, MaskedAutoencoder):
        raise CheckpointError("the demo needs an autoencoder with its contract.")
    dataset = PretrainingDataset(imagery.items, contract, "val", config.data.crops)
    samples = [dataset[index] for index in range(len(dataset))]
    # Variety of the crop, not quality of the result, decides what is shown.
    variety = [float(s["images"].std(dim=(1, 2)).mean()) for s in samples]
    chosen = sorted(range(len(samples)), key=lambda i: -variety[i])[:count]
    task = PretrainingTask(loaded.model, config.masking.ratio, config.masking.style)
    batch = {
        "images": torch.stack([samples[i]["images"] for i in chosen]),
        "valid": torch.stack([samples[i]["valid"] for i in chosen]),
        "seed": torch.tensor([config.seed + i for i in chosen]),
    }
    with torch.no_grad():
        output = task.forward(batch)
    rebuilt = loaded.model.reconstruct(output).numpy()
    masked = pixel_mask(output.mask, output.grid).numpy()
    low, span = _scale(contract)
    return [
        Reconstruction(
            low + span * batch["images"][number].numpy(),
            low + span * rebuilt[number],
            masked[number],
            contract.bands,
            f"Held-out crop {index} of {Path(dataset.item_of(index).name).name}",
            "reflectance",
        )
        for number, index in enumerate(chosen)
    ]


def _scale(
    contract: Preprocessing,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what 0 and one unit of scaled values are in reflectance, (C, 1, 1)."""
    if contract.scaling != "fixed-range" or contract.statistics is None:
        raise CheckpointError(f"found scaling {contract.scaling}, not fixed-range.")
    low = contract.statistics.column("low", contract.bands)
    return low, contract.statistics.column("high", contract.bands) - low
