"""A checkpoint, ready for work on scenes."""

from typing import Literal

import torch

from spectralgpt.building import Quantization, quantize_encoder
from spectralgpt.checkpoints import LoadedModel, load_model, move_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.preprocessing import Preprocessing

Precision = Literal["fp32", "bf16"]


def load_on_device(
    name: str,
    device: str,
    sensor: str | None = None,
    image_size: int | None = None,
    quantize: Quantization = "none",
) -> LoadedModel:
    """Load a model and move it to a device.

    Args:
        name: see `spectralgpt.checkpoints.load_model`.
        device: `auto`, or a name that torch knows.
        sensor: of the images; a model trained on several sensors, this one among them,
            is loaded for it.
        image_size: side of the model's images, px; None keeps the checkpoint's.
        quantize: how the encoder's weights are held.

    Raises:
        ConfigError: there is no such device, or torchao is needed and not installed.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(name)
    contract = loaded.preprocessing
    is_other = contract is not None and sensor in contract.sensors[1:]
    loaded = move_model(
        loaded, image_size=image_size, sensor=sensor if is_other else None
    )
    try:
        loaded.model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used: {reason}") from error
    quantize_encoder(loaded.model, quantize)
    return loaded


def in_precision(loaded: LoadedModel, precision: Precision) -> torch.autocast:
    """Return a context in which this thread computes with the model in a precision."""
    device = next(loaded.model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def stated_contract(loaded: LoadedModel, name: str) -> Preprocessing:
    """Return which bands and scaling a model takes.

    Raises:
        CheckpointError: the checkpoint does not say.
    """
    if loaded.preprocessing is None:
        raise CheckpointError(
            f"{name} does not say which bands and scaling it takes: convert it with "
            "`spectralgpt convert`, or fine-tune it with this package."
        )
    return loaded.preprocessing
