"""What is measured, as plain values, and how many operations that takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from spectralgpt.building import Quantization, build_model
from spectralgpt.config import check_range
from spectralgpt.errors import ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.sizes import model_size
from spectralgpt.models.tokens import TokenGrid

Mode = Literal["pretrain", "finetune", "inference", "data"]
_MODES: tuple[Mode, ...] = ("pretrain", "finetune", "inference", "data")
_LEAST = {
    **dict.fromkeys(("image_size", "num_bands", "batch_size", "warmup", "threads"), 1),
    "steps": 5,
    "workers": 0,
}
# Options that only some modes have, and what is said of the others.
_BELONGS: dict[str, tuple[tuple[Mode, ...], str]] = {
    "data": (("pretrain", "data"), "runs on random images"),
    "quantize": (("inference",), "has no weights in fewer bits"),
    "recompute_activations": (("pretrain", "finetune"), "trains nothing"),
    "compile": (("pretrain", "finetune"), "trains nothing"),
    "decoder": (("pretrain",), "has no decoder"),
}


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
        if self.mode not in _MODES:
            raise ConfigError(
                f"mode {self.mode!r} is unknown: use {', '.join(_MODES)}."
            )
        for name, least in _LEAST.items():
            check_range(f"at least {least}", {_option(name): getattr(self, name)})
        if self.mode == "data" and self.data is None:
            raise ConfigError(
                "mode data measures the loading of a data set: name it with --data."
            )
        for name, (modes, why) in _BELONGS.items():
            if self.mode not in modes and getattr(self, name) != getattr(
                BenchmarkConfig, name
            ):
                raise ConfigError(
                    f"mode {self.mode} {why}: leave out {_option(name)}, or use mode "
                    f"{' or '.join(modes)}."
                )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def count_flops(
    config: Mapping[str, Any], grid: TokenGrid, mask_ratio: float = 0.0
) -> tuple[int, int]:
    """Count the floating-point operations of a model on one image.

    Counted are the products of the published form of the mathematics, by torch's own
    counter: two operations a multiplication and addition, all tokens embedded before
    the masked ones are dropped. Whatever an implementation saves or wastes,
    recomputation for one, is not in the count, so that it shows in the speed.

    Args:
        config: `model_config` of the model.
        grid: token grid of the image.
        mask_ratio: share of tokens that an autoencoder masks, 0..1.

    Returns:
        Those of the forward pass, and of forward and backward. Each product has two
        gradients of its own size, but for the embedding's: its input, the image, needs
        none.
    """
    with torch.device("meta"), torch.no_grad():
        model = build_model(config)
        images = torch.empty(1, *grid.image_shape)
        with FlopCounterMode(display=False) as counter:
            is_masked = isinstance(model, MaskedAutoencoder)
            output = model(images, mask_ratio) if is_masked else model(images)
    width = config.get("encoder", config)["embed_dim"]
    token = 2 * grid.token_dim * width
    unseen = grid.num_tokens - output.latent.shape[1] if is_masked else 0
    forward = counter.get_total_flops() + token * unseen
    return forward, 3 * forward - token * grid.num_tokens
