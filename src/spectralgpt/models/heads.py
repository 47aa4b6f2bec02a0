"""What turns the encoder's output into a task's output."""

from collections.abc import Sequence

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

    def features(
        self, images: Tensor, wavelengths: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Return the pooled, normalised features (B, D) that the head sees."""
        tokens = self.encoder.encode(images, wavelengths).flatten(1, 3)  # (B, N, D)
        pooled = tokens[:, int(self.skip_first_token) :].mean(dim=1)
        normed: Tensor = self.encoder.norm(pooled)
        return normed

    def forward(
        self, images: Tensor, wavelengths: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Classify images (B, C, H, W); returns logits (B, classes)."""
        logits: Tensor = self.head(self.features(images, wavelengths))
        return logits

    @torch.no_grad()
    def predict(
        self, images: Tensor, wavelengths: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Return class probabilities (B, classes) of a single-label task."""
        return self(images, wavelengths).softmax(dim=-1)
