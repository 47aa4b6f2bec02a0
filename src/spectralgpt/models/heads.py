"""What turns the encoder's output into a task's output."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt.errors import ConfigError
from spectralgpt.models.encoder import SpectralEncoder

__all__ = ["ClassificationModel"]

_HEAD_STD = 2e-5  # Source: the published fine-tuning code.


class ClassificationModel(nn.Module):
    """Encoder, mean over tokens, norm, linear map to classes.

    The pooled features go through the encoder's own final norm, as published.

    Args:
        encoder: a pretrained or random encoder.
        num_classes: classes, or labels of a multi-label task.
        skip_first_token: leave token 0 out of the mean, as the published code does; see
            `docs/differences.md`.

    Raises:
        ConfigError: fewer than one class.
    """

    def __init__(
        self,
        encoder: SpectralEncoder,
        num_classes: int,
        skip_first_token: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes is {num_classes}: use at least 1.")
        self.encoder = encoder
        self.num_classes = num_classes
        self.skip_first_token = skip_first_token
        self.head = nn.Linear(encoder.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=_HEAD_STD)
        nn.init.zeros_(self.head.bias)

    @property
    def head_config(self) -> dict[str, Any]:
        """The constructor arguments, without the encoder, that build this again."""
        return {
            "num_classes": self.num_classes,
            "skip_first_token": self.skip_first_token,
        }

    def features(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Return the pooled, normalised features (B, D) that the head sees.

        Args:
            images: (B, C, H, W), or a series (B, T, C, H, W), pooled over dates too.
            wavelengths: centre of each band, nm; None if they are the model's own.
            dates: (B, T), days since 1970-01-01; see `SpectralEncoder.forward`.
        """
        tokens = self.encoder.encode(images, wavelengths, dates)
        tokens = tokens.flatten(1, -2)  # (B, N, D)
        pooled = tokens[:, int(self.skip_first_token) :].mean(dim=1)
        normed: Tensor = self.encoder.norm(pooled)
        return normed

    def forward(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Classify images, see `features`; returns logits (B, classes)."""
        logits: Tensor = self.head(self.features(images, wavelengths, dates))
        return logits

    @torch.no_grad()
    def predict(
        self, images: Tensor, wavelengths: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Return class probabilities (B, classes) of a single-label task."""
        return self(images, wavelengths).softmax(dim=-1)
