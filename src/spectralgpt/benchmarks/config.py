"""What is measured, as plain values."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from spectralgpt.errors import ConfigError
from spectralgpt.models.building import Quantization
from spectralgpt.models.sizes import model_size
from spectralgpt.training.pretrain_config import ModelConfig

__all__ = ["MODES", "BenchmarkConfig", "find_device"]

Mode = Literal["pretrain", "finetune", "inference", "data"]
MODES: tuple[Mode, ...] = ("pretrain", "finetune", "inference", "data")
_LEAST_STEPS = 5
_POSITIVE = ("image_size", "num_bands", "batch_size", "warmup")


@dataclass(frozen=True)
class BenchmarkConfig:
    """One measurement.

    Args:
        mode: pretrain, finetune (a classifier, all weights trained), inference (the
            encoder on all tokens) or data (loading for pretraining, no model).
        model: size of the model, with random weights.
        image_size: side of the images, px.
        num_bands: bands of the random images; those of `data` have their own.
        batch_size: images in a step.
        precision: bf16 (autocast, weights stay fp32) or fp32 arithmetic.
        decoder: full, as published, or cross; pretrain only.
        mask_ratio: share of masked tokens, 0..1; pretrain only.
        steps: measured steps; their median is reported, so at least 5.
        warmup: steps before them that are not measured.
        threads: CPU threads of torch; None keeps what torch chooses.
        device: auto (CUDA if there is any), cpu, cuda or cuda:1.
        data: description of a data set in YAML, folder of such files, or folder of
            images; needed by mode data, taken instead of random images by pretrain.
        data_root: folder that the descriptions' own roots are in.
        sensor: whose bands the model takes of `data`.
        exclude_bands: bands of that sensor to leave out.
        workers: loader processes for `data`; 0 loads in the measured process.
        quantize: int8 holds the encoder's weights so; inference only.
        recompute_activations: run blocks again in the backward pass; training only.
        compile: compile blocks with torch.compile; training only.

    Raises:
        ConfigError: a value out of range, or options that do not go together.
    """

    mode: Mode = "pretrain"
    model: str = "base"
    image_size: int = 96
    num_bands: int = 12
    batch_size: int = 16
    precision: Literal["bf16", "fp32"] = "bf16"
    decoder: Literal["full", "cross"] = "full"
    mask_ratio: float = 0.9
    steps: int = 10
    warmup: int = 3
    threads: int | None = None
    device: str = "auto"
    data: Path | None = None
    data_root: Path = Path()
    sensor: str = "sentinel-2-l1c"
    exclude_bands: tuple[str, ...] = ()
    workers: int = 0
    quantize: Quantization = "none"
    recompute_activations: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the ranges, and that the options go together."""
        model_size(self.model)
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is unknown: use {', '.join(MODES)}.")
        for name in _POSITIVE:
            self._check_at_least(name, 1)
        self._check_at_least("steps", _LEAST_STEPS)
        self._check_at_least("workers", 0)
        if self.threads is not None:
            self._check_at_least("threads", 1)
        if self.mode == "data" and self.data is None:
            raise ConfigError(
                "mode data measures the loading of a data set: name it with --data."
            )
        if self.data is not None and self.mode in ("finetune", "inference"):
            raise ConfigError(
                f"mode {self.mode} runs on random images: leave out --data, or use "
                "mode pretrain or data."
            )
        if self.quantize != "none" and self.mode != "inference":
            raise ConfigError(
                f"mode {self.mode} has no weights in {self.quantize}: leave out "
                "--quantize, or use mode inference."
            )
        self._check_training()
        self._check_decoder()

    def _check_at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is {value}; it must be at least {least}.")

    def _check_training(self) -> None:
        if self.mode in ("pretrain", "finetune"):
            return
        for name in ("recompute_activations", "compile"):
            if getattr(self, name):
                raise ConfigError(
                    f"mode {self.mode} trains nothing: leave out "
                    f"--{name.replace('_', '-')}, or use mode pretrain or finetune."
                )

    def _check_decoder(self) -> None:
        if self.decoder == "full":
            return
        if self.mode != "pretrain":
            raise ConfigError(
                f"mode {self.mode} has no decoder: leave out --decoder {self.decoder}."
            )
        if "decoder" not in {field.name for field in fields(ModelConfig)}:
            raise ConfigError(
                f"--decoder {self.decoder}: the models of this version have the full "
                "decoder only. Leave the option out, or update spectralgpt."
            )

    def model_settings(self) -> dict[str, Any]:
        """Return the arguments of `ModelConfig` that this asks for."""
        chosen: dict[str, Any] = {"size": self.model}
        # A version without the option has the full decoder.
        return chosen if self.decoder == "full" else chosen | {"decoder": self.decoder}


def find_device(name: str) -> torch.device:
    """Return the device of a name, `auto` for CUDA where there is any, else the CPU.

    Raises:
        ConfigError: this machine has no such device, or none of that name is known.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device {name!r} is no device: use auto, cpu, cuda or cuda:1."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name!r} is not supported: use cpu or cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"--device {name!r}: this machine has {count} CUDA devices that torch can "
            "use. Use auto or cpu."
        )
    return device
