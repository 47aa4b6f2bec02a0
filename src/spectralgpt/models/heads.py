"""Models of tasks: an encoder, and what turns its output into the task's output.

A classifier gives an image its classes. Dense models give each pixel a class: of one
image, or of the change between two. They are encoder, learned map over band groups,
head; the change model runs both dates through one encoder and gives the head the
difference of their features.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.dense_heads import (
    FPNHead,
    GroupPlaces,
    GroupProjection,
    GroupSum,
    HeadKind,
    PixelDetail,
    PixelHead,
    UPerNetHead,
    head_width,
)
from spectralgpt.models.encoder import SpectralEncoder, mean_by_group
from spectralgpt.models.positions import group_wavelengths
from spectralgpt.models.sizes import check_settings

Pooling = Literal["tokens", "groups"]

_HEAD_STD = 2e-5  # Source: the published fine-tuning code.

_CONVOLUTIONAL: dict[str, type[UPerNetHead] | type[FPNHead]] = {
    "upernet": UPerNetHead,
    "fpn": FPNHead,
}
_CHANNEL_STEP = 32


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


class DenseModel(nn.Module):
    """What both models share; build `SegmentationModel` or `ChangeModel`.

    Args:
        encoder: a pretrained or random encoder.
        num_classes: classes K, at least 2; changed or not, unless stated.
        head: `upernet`, as published; `fpn`, a lighter one; `linear`, one linear map
            from all tokens at a position to the pixels of its patch.
        head_channels: width of a convolutional head, a multiple of 32; None follows the
            encoder's width, 256 for base as published. The linear head has none.
        head_dropout: share of the head's channels that a training step leaves out,
            0..1; the linear head has none.
        apply_norm: whether features pass the encoder's final norm, as they did in
            pretraining; published models leave it out, see `docs/differences.md`.
        pixel_detail: whether the last layers see the pixels as well, of all dates;
            published models do not. The head then gives `head_channels` maps to them.

    Raises:
        ConfigError: a setting is out of range, or the head cannot be built.
    """

    num_dates = 1

    def __init__(
        self,
        encoder: SpectralEncoder,
        num_classes: int = 2,
        head: HeadKind = "upernet",
        head_channels: int | None = None,
        head_dropout: float = 0.1,
        apply_norm: bool = True,
        pixel_detail: bool = False,
    ) -> None:
        super().__init__()
        check_settings(
            {
                "num_classes": num_classes,
                "head_channels": head_channels,
                "head_dropout": head_dropout,
                "apply_norm": apply_norm,
                "pixel_detail": pixel_detail,
            }
        )
        _check(num_classes, head, head_channels)
        self.encoder = encoder
        self.num_classes = num_classes
        self.head_kind: HeadKind = head
        self.head_channels = head_channels or head_width(encoder.embed_dim)
        self.head_dropout = head_dropout
        self.apply_norm = apply_norm
        self.detail: PixelDetail | None = None
        maps = num_classes
        if pixel_detail:
            maps = self.head_channels
            bands = self.num_dates * encoder.num_bands
            self.detail = PixelDetail(bands, maps, num_classes)
        groups, width = encoder.positions.grid.groups, encoder.embed_dim
        self.fusion: GroupSum | GroupProjection
        self.head: UPerNetHead | FPNHead | PixelHead
        if head == "linear":
            scores = maps * encoder.patch_size**2
            self.fusion = GroupProjection(groups, width, scores)
            self.head = PixelHead(maps, encoder.patch_size)
        else:
            self.fusion = GroupSum(groups)
            build = _CONVOLUTIONAL[head]
            self.head = build(width, maps, self.head_channels, head_dropout)

    @property
    def head_config(self) -> dict[str, Any]:
        """The constructor arguments, without the encoder, that build this again."""
        return {
            "num_classes": self.num_classes,
            "head": self.head_kind,
            "head_channels": self.head_channels,
            "head_dropout": self.head_dropout,
            "apply_norm": self.apply_norm,
            "pixel_detail": self.detail is not None,
        }

    def features(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Return the map that the head sees, (B, channels, Hp, Wp).

        Args:
            images: (B, C, H, W), scaled as in pretraining; H, W multiples of P. Of a
                series (B, T, C, H, W) it is the mean over dates.
            wavelengths: centre of each band, nm; None if they are the model's own.
            dates: (B, T), days since 1970-01-01; see `SpectralEncoder.forward`.
        """
        if isinstance(wavelengths, Tensor):
            wavelengths = wavelengths.tolist()
        encode = self.encoder if self.apply_norm else self.encoder.encode
        tokens = encode(images, wavelengths, dates)  # (B, [T,] G, Hp, Wp, D)
        if images.ndim == 5:
            tokens = tokens.mean(dim=1)  # (B, G, Hp, Wp, D)
        fused: Tensor = self.fusion(tokens, self._places(wavelengths))
        return fused

    def _places(self, wavelengths: Sequence[float] | None) -> GroupPlaces | None:
        own = self.encoder.wavelengths_nm
        if wavelengths is None or own is None:
            return None
        S = self.encoder.bands_per_token
        return group_wavelengths(own, S), group_wavelengths(wavelengths, S)

    def classify(self, features: Tensor, images: Tensor) -> Tensor:
        """Turn the head's input into logits (B, K, H, W).

        Args:
            features: (B, channels, Hp, Wp).
            images: (B, bands, H, W), of all dates.

        Raises:
            ShapeError: the last layers were built for other bands.
        """
        maps: Tensor = self.head(features)
        size = images.shape[-2:]
        if maps.shape[-2:] != size:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        if self.detail is None:
            return maps
        own = self.num_dates * self.encoder.num_bands
        if images.shape[1] != own:
            raise ShapeError(
                f"images have {images.shape[1]} bands, the last layers were built for "
                f"{own}: a model with pixel_detail takes only its own bands."
            )
        return self.detail(images, maps)

    @torch.no_grad()
    def predict(
        self, images: Tensor, wavelengths: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Return class probabilities (B, K, H, W)."""
        return self(images, wavelengths).softmax(dim=1)


class SegmentationModel(DenseModel):
    """The class of each pixel of an image; see `DenseModel` for the arguments."""

    def forward(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Classify pixels of images (B, C, H, W); returns logits (B, K, H, W).

        Args:
            images: see `features`.
            wavelengths: see `features`.
            dates: see `features`.

        Raises:
            ShapeError: the images do not fit the patch, or bands are in doubt.
        """
        features = self.features(images, wavelengths, dates)
        # Of a series the last date is what is mapped.
        return self.classify(features, images[:, -1] if images.ndim == 5 else images)


class ChangeModel(DenseModel):
    """The change of each pixel between two dates; see `DenseModel` for the arguments.

    Class 0 is no change, as in the published model.
    """

    num_dates = 2

    def forward(
        self, images: Tensor, wavelengths: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Classify the change between two images; returns logits (B, K, H, W).

        Args:
            images: (B, 2, C, H, W), before and after, on one pixel grid.
            wavelengths: centre of each band, nm; None if they are the model's own.

        Raises:
            ShapeError: there are not two dates, the images do not fit the patch, or
                bands are in doubt.
        """
        if images.ndim != 5 or images.shape[1] != 2:
            raise ShapeError(
                f"images have shape {tuple(images.shape)}: give (batch, 2, bands, "
                "rows, columns), the image before and the image after."
            )
        features = self.features(images.flatten(0, 1), wavelengths)
        before, after = features.unflatten(0, (-1, 2)).unbind(dim=1)
        return self.classify(before - after, images.flatten(1, 2))


def _check(num_classes: int, head: str, head_channels: int | None) -> None:
    if num_classes < 2:
        raise ConfigError(f"num_classes is {num_classes}: maps need at least 2.")
    if head not in (*_CONVOLUTIONAL, "linear"):
        known = ", ".join((*_CONVOLUTIONAL, "linear"))
        raise ConfigError(f"head {head!r} is unknown: use one of {known}.")
    if head_channels is not None and (
        head_channels < 2 * _CHANNEL_STEP or head_channels % _CHANNEL_STEP
    ):
        raise ConfigError(
            f"head_channels is {head_channels}: use a multiple of {_CHANNEL_STEP}, at "
            f"least {2 * _CHANNEL_STEP}."
        )
