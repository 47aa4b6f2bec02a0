"""What turns the encoder's output into a task's output."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.encoder import SpectralEncoder, mean_by_group
from spectralgpt.models.limits import check_settings

__all__ = ["ClassificationModel", "Pooling"]

Pooling = Literal["tokens", "groups"]

_HEAD_STD = 2e-5  # Source: the published fine-tuning code.


class ClassificationModel(nn.Module):
    """Encoder, mean over tokens, norm, linear map to classes.

    The pooled features go through the encoder's own final norm, as published.

    Args:
        encoder: a pretrained or random encoder.
        num_classes: classes, or labels of a multi-label task.
        skip_first_token: leave token 0 out of the mean, as the published code does; see
            `docs/differences.md`.
        pooling: `tokens`, the mean over all tokens, as published; `groups`, the means
            of each band group side by side, which keep the parts of the spectrum apart.

    Raises:
        ConfigError: a setting is out of range, or token 0 is left out of groups.
    """

    def __init__(
        self,
        encoder: SpectralEncoder,
        num_classes: int,
        skip_first_token: bool = False,
        pooling: Pooling = "tokens",
    ) -> None:
        super().__init__()
        check_settings(
            {"num_classes": num_classes, "skip_first_token": skip_first_token}
        )
        if pooling not in ("tokens", "groups"):
            raise ConfigError(f"pooling {pooling!r}: use 'tokens' or 'groups'.")
        if skip_first_token and pooling == "groups":
            raise ConfigError(
                "skip_first_token belongs to pooling 'tokens': unset one of them."
            )
        self.encoder = encoder
        self.num_classes = num_classes
        self.skip_first_token = skip_first_token
        self.pooling: Pooling = pooling
        parts = encoder.positions.grid.groups if pooling == "groups" else 1
        self.head = nn.Linear(parts * encoder.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=_HEAD_STD)
        nn.init.zeros_(self.head.bias)

    @property
    def head_config(self) -> dict[str, Any]:
        """The constructor arguments, without the encoder, that build this again."""
        return {
            "num_classes": self.num_classes,
            "skip_first_token": self.skip_first_token,
            "pooling": self.pooling,
        }

    def features(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Return the pooled, normalised features that the head sees.

        They are (B, D), or (B, G * D) where band groups are pooled one by one.

        Args:
            images: (B, C, H, W), or a series (B, T, C, H, W), pooled over dates too.
            wavelengths: centre of each band, nm; None if they are the model's own.
            dates: (B, T), days since 1970-01-01; see `SpectralEncoder.forward`.
        """
        tokens = self.encoder.encode(images, wavelengths, dates)
        normed: Tensor
        if self.pooling == "groups":
            by_group = mean_by_group(tokens)  # (B, G, D)
            if by_group.shape[1] != self.encoder.positions.grid.groups:
                raise ShapeError(
                    f"images have {by_group.shape[1]} band groups, the head was built "
                    f"for {self.encoder.positions.grid.groups}: pooling 'groups' takes "
                    "only the model's own bands."
                )
            normed = self.encoder.norm(by_group).flatten(1)
            return normed
        tokens = tokens.flatten(1, -2)  # (B, N, D)
        normed = self.encoder.norm(tokens[:, int(self.skip_first_token) :].mean(dim=1))
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
