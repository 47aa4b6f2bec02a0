"""Models of tasks: an encoder, and what turns its output into the task's output.

A classifier gives an image its classes. Dense models give each pixel a class, of one
image or of the change between two, or a number. They are encoder, learned map over band
groups, head; the change model runs both dates through one encoder and gives the head
the difference of their features.

A dense head needs one feature map, the encoder gives one for each band group. The maps
that join them are learned on the groups of the model's own bands. For other bands their
weights are read as samples of a function of wavelength: interpolated linearly between
the mean wavelengths of the groups, and scaled by old groups over new, as in an
integral, so that features equal in all groups give the same sum however finely the
spectrum is cut.

All heads normalise by groups of channels, never over the batch: a batch of one image,
and a pooled map of one pixel, train as any other.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError, require
from spectralgpt.models.blocks import Tap, unfold_taps
from spectralgpt.models.encoder import Encoder, mean_by_group
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.tokens import group_wavelengths, resize_spectral
from spectralgpt.models.weights import Pretrained

Pooling = Literal["tokens", "groups"]
_Centres = Sequence[float] | Tensor | None

_HEAD_STD = 2e-5  # Source: the published fine-tuning code.
HeadKind = Literal["upernet", "fpn", "linear"]
# Mean wavelengths (nm) of the groups that weights were learned on, and of those wanted.
GroupPlaces = tuple[tuple[float, ...], tuple[float, ...]]

_LEVEL_NORM_GROUPS = 32  # Source: the published weights, PUBLISHED.md section 4.
_FUSE_NORM_GROUPS = 16  # Source: as above.
_POOLED_SIDES = (1, 2, 3, 6)  # Source: Zhao et al. 2017, arXiv:1612.01105.
_UPSAMPLINGS = (8, 4, 2, 1)
_LEVEL_WIDTHS = (1, 2, 4, 8)  # In units of the head's width, finest level first.
_CLASSIFIER_STD = 0.01
_PUBLISHED_SHARE = 3  # Encoder width over head width: 768 / 256.
_SMALLEST_WIDTH, _LARGEST_WIDTH = 64, 256
_DETAIL_WIDTH = 64
_DETAIL_NORM_GROUPS = 8


class ClassificationModel(Pretrained, nn.Module):
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
        encoder: Encoder,
        num_classes: int,
        skip_first_token: bool = False,
        pooling: Pooling = "tokens",
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "num_classes": num_classes,
            "skip_first_token": skip_first_token,
            "pooling": pooling,
        }
        check_settings(settings)
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
        self.head_config = settings
        parts = encoder.groups if pooling == "groups" else 1
        self.head = nn.Linear(parts * encoder.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=_HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def features(
        self, images: Tensor, wavelengths: _Centres = None, dates: Tensor | None = None
    ) -> Tensor:
        """Return the pooled, normalised features that the head sees.

        They are (B, D), or (B, G * D) where band groups are pooled one by one.

        Args:
            images: (B, C, H, W), or a series (B, T, C, H, W), pooled over dates too.
            wavelengths: centre of each band, nm; None if they are the model's own.
            dates: (B, T), days since 1970-01-01; see `Encoder.forward`.
        """
        tokens = self.encoder.encode(images, wavelengths, dates)
        normed: Tensor
        if self.pooling == "groups":
            by_group = mean_by_group(tokens)  # (B, G, D)
            if by_group.shape[1] != self.encoder.groups:
                raise ShapeError(
                    f"images have {by_group.shape[1]} band groups, the head was built "
                    f"for {self.encoder.groups}: pooling 'groups' takes "
                    "only the model's own bands."
                )
            normed = self.encoder.norm(by_group).flatten(1)
            return normed
        tokens = tokens.flatten(1, -2)  # (B, N, D)
        normed = self.encoder.norm(tokens[:, int(self.skip_first_token) :].mean(dim=1))
        return normed

    def forward(
        self, images: Tensor, wavelengths: _Centres = None, dates: Tensor | None = None
    ) -> Tensor:
        """Classify images, see `features`; returns logits (B, classes)."""
        logits: Tensor = self.head(self.features(images, wavelengths, dates))
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor, wavelengths: _Centres = None) -> Tensor:
        """Return class probabilities (B, classes) of a single-label task."""
        return self(images, wavelengths).softmax(dim=-1)


def resize_group_weights(weights: Tensor, places: GroupPlaces | None) -> Tensor:
    """Move weights of band groups to the groups of other bands.

    Args:
        weights: (G, ...), one row per band group.
        places: mean wavelengths of the groups that they were learned on, and of the
            wanted ones; None if they are the same.

    Returns:
        (new G, ...); the weights themselves if the groups are the same.
    """
    if places is None:
        return weights
    known, wanted = places
    share = len(known) / len(wanted)
    resized = resize_spectral(weights, known, wanted)
    return resized if share == 1 else resized * share


class _GroupSum(nn.Module):
    """One weight per band group: the weighted sum of their feature maps, plus a bias.

    It starts as the mean over the groups.

    Source: Hong et al. 2024, arXiv:2311.07113, the map from 4 spectral cubes to 1.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, groups), 1 / groups))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, places: GroupPlaces | None = None) -> Tensor:
        """Sum tokens (B, G, Hp, Wp, D) to a feature map (B, D, Hp, Wp)."""
        weights = resize_group_weights(self.weight[0], places)
        return torch.einsum("bghwd,g->bdhw", tokens, weights) + self.bias


class _GroupProjection(nn.Module):
    """One linear map per band group, summed: what is linear in a position's tokens."""

    def __init__(self, groups: int, embed_dim: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, channels, embed_dim))
        # Small, so that training starts from even odds: variance 1 % of the input's.
        nn.init.trunc_normal_(self.weight, std=0.1 * (groups * embed_dim) ** -0.5)

    def forward(self, tokens: Tensor, places: GroupPlaces | None = None) -> Tensor:
        """Map tokens (B, G, Hp, Wp, D) to (B, channels, Hp, Wp)."""
        weights = resize_group_weights(self.weight, places)
        return torch.einsum("bghwd,gcd->bchw", tokens, weights)


def _head_width(embed_dim: int) -> int:
    """Return a head's channels for an encoder's width: the published 256 for 768.

    Narrower encoders get narrower heads in the same proportion; a multiple of 32.
    """
    step = _LEVEL_NORM_GROUPS
    width = step * math.ceil(embed_dim / (_PUBLISHED_SHARE * step))
    return min(max(width, _SMALLEST_WIDTH), _LARGEST_WIDTH)


def _conv_block(in_channels: int, channels: int, norm_groups: int) -> nn.Sequential:
    """1 x 1 convolution, group normalisation, GELU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1),
        nn.GroupNorm(norm_groups, channels),
        nn.GELU(),
    )


def _upsampled(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    # Corners are aligned, as the published heads have it.
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def _largest_in_parts(x: Tensor, side: int) -> Tensor:
    """Return the maxima of `side` x `side` parts of each map."""
    if not torch.compiler.is_compiling():
        return F.adaptive_max_pool2d(x, side)
    # The same in operations that exported graphs may have; ONNX lacks this pooling.
    for axis in (-2, -1):
        length = x.shape[axis]
        parts = [
            x.narrow(axis, start, stop - start).amax(axis, keepdim=True)
            for start, stop in (
                (part * length // side, -(-(part + 1) * length // side))
                for part in range(side)
            )
        ]
        x = torch.cat(parts, dim=axis)
    return x


def _initialise(head: nn.Module, classifier: nn.Conv2d) -> None:
    """Keep the variance through every layer; start from small logits."""
    for module in head.modules():
        if isinstance(module, nn.ConvTranspose2d):
            # Kernel = stride: each output is a sum over the input channels alone.
            nn.init.trunc_normal_(module.weight, std=module.in_channels**-0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(classifier.weight, std=_CLASSIFIER_STD)


class _PyramidPooling(nn.Module):
    """What the image holds at 1, 2, 3 and 6 parts per side, beside the map itself.

    Source: Zhao et al. 2017, arXiv:1612.01105; maxima as in the published weights.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, channels, 1) for _ in _POOLED_SIDES
        )
        width = in_channels + len(_POOLED_SIDES) * channels
        self.final = _conv_block(width, channels, _FUSE_NORM_GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, in_channels, Hp, Wp) to (B, channels, Hp, Wp)."""
        pooled = []
        for side, branch in zip(_POOLED_SIDES, self.branches, strict=True):
            part = branch(_largest_in_parts(x, side))
            pooled.append(_upsampled(part, x.shape[-2:]))
        return self.final(torch.cat([*pooled, x], dim=1))


class _Level(nn.Sequential):
    """One of several depths of an encoder, brought to the scale that a head wants.

    Args:
        width: of its features.
        scale: by what its grid is finer than the features that the head is given.
        upsampling: by what the wanted grid is.
        wanted: width of the result.
    """

    def __init__(self, width: int, scale: int, upsampling: int, wanted: int) -> None:
        layers = list(_conv_block(width, wanted, _LEVEL_NORM_GROUPS))
        up, down = upsampling // scale, scale // upsampling
        if up > 1:
            layers.append(nn.ConvTranspose2d(wanted, wanted, up, up))
        elif down > 1:
            layers.append(nn.AvgPool2d(down))
        super().__init__(*layers)


class _Levels(nn.Module):
    """Features of several depths, as `Encoder.encode_levels` packs them, by scale.

    Args:
        levels: of the encoder.
        upsamplings: by what each wanted grid is finer than the features.
        widths: of each wanted map.
    """

    def __init__(
        self,
        levels: Sequence[Tap],
        upsamplings: Sequence[int],
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.taps = tuple(levels)
        last = len(levels) - 1
        steps = max(1, len(widths) - 1)
        self.taken = [round(at * last / steps) for at in range(len(widths))]
        self.maps = nn.ModuleList(
            _Level(*self.taps[taken][1:], upsampling, width)
            for taken, upsampling, width in zip(
                self.taken, upsamplings, widths, strict=True
            )
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Unpack (B, channels, Hp, Wp) to maps from fine to coarse."""
        found = unfold_taps(features, self.taps)
        return [
            level(found[at]) for level, at in zip(self.maps, self.taken, strict=True)
        ]


class _Scales(nn.ModuleList):
    """Maps of several scales made of one."""

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map (B, channels, Hp, Wp) to maps from fine to coarse."""
        return [level(features) for level in self]


def _build_level(
    in_channels: int, width: int, upsampling: int, channels: int
) -> nn.Sequential:
    # The finest level is widened before it is upsampled.
    inner = max(width, 2 * channels)
    layers = list(_conv_block(in_channels, inner, _LEVEL_NORM_GROUPS))
    if upsampling > 1:
        layers.append(nn.ConvTranspose2d(inner, width, upsampling, upsampling))
    return nn.Sequential(*layers)


class _UPerNetHead(nn.Module):
    """Four scales of one map, pyramid pooling, top-down fusion: the published head.

    Logits come on a grid of 8 pixels per patch side, whatever the patch.

    Source: Xiao et al. 2018, arXiv:1807.10221, as built by the published weights.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        dropout: float = 0.0,
        levels: Sequence[Tap] | None = None,
    ) -> None:
        super().__init__()
        widths = [channels * factor for factor in _LEVEL_WIDTHS]
        self.levels: _Levels | _Scales
        if levels is None:
            self.levels = _Scales(
                _build_level(in_channels, width, upsampling, channels)
                for width, upsampling in zip(widths, _UPSAMPLINGS, strict=True)
            )
        else:
            self.levels = _Levels(levels, _UPSAMPLINGS, widths)
        self.pooling = _PyramidPooling(widths[-1], channels)
        self.top = nn.Conv2d(channels, channels, 1)
        self.laterals = nn.ModuleList(
            _conv_block(width, channels, _FUSE_NORM_GROUPS)
            for width in reversed(widths[:-1])
        )
        self.outputs = nn.ModuleList(
            _conv_block(channels, channels, _FUSE_NORM_GROUPS) for _ in widths[:-1]
        )
        self.fuse = _conv_block(channels * len(widths), channels, _FUSE_NORM_GROUPS)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 3, padding=1)
        _initialise(self, self.classifier)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, Hp, Wp) to logits (B, K, 8 Hp, 8 Wp)."""
        *finer, coarsest = self.levels(features)
        fused = [self.pooling(coarsest)]
        for lateral, output, level in zip(
            self.laterals, self.outputs, reversed(finer), strict=True
        ):
            x = self.top(fused[-1]) if len(fused) == 1 else fused[-1]
            x = _upsampled(x, level.shape[-2:])
            fused.append(output(x + lateral(level)))
        size = fused[-1].shape[-2:]
        stacked = torch.cat([_upsampled(x, size) for x in fused], dim=1)
        logits: Tensor = self.classifier(self.dropout(self.fuse(stacked)))
        return logits


class _FPNHead(nn.Module):
    """A light head: three scales of one map, fused top-down and added.

    Logits come on a grid of 4 pixels per patch side, whatever the patch.

    Source: scales from one map, Li et al. 2022, arXiv:2203.16527; their sum, Kirillov
        et al. 2019, arXiv:1901.02446.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        dropout: float = 0.0,
        levels: Sequence[Tap] | None = None,
    ) -> None:
        super().__init__()
        upsamplings = _UPSAMPLINGS[1:]
        widths = [channels] * len(upsamplings)
        self.levels: _Levels | _Scales
        if levels is None:
            self.levels = _Scales(
                nn.ConvTranspose2d(in_channels, channels, upsampling, upsampling)
                for upsampling in upsamplings
            )
        else:
            self.levels = _Levels(levels, upsamplings, widths)
        # torchvision takes seconds to import, and other heads need none of it.
        require("torchvision")
        from torchvision.ops import FeaturePyramidNetwork

        norm = partial(nn.GroupNorm, _FUSE_NORM_GROUPS)
        self.pyramid = FeaturePyramidNetwork(widths, channels, norm_layer=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        _initialise(self, self.classifier)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, Hp, Wp) to logits (B, K, 4 Hp, 4 Wp)."""
        maps = self.levels(features)
        levels = OrderedDict((str(index), each) for index, each in enumerate(maps))
        fused = list(self.pyramid(levels).values())
        size = fused[0].shape[-2:]
        summed = torch.stack([_upsampled(x, size) for x in fused]).sum(dim=0)
        logits: Tensor = self.classifier(self.dropout(F.gelu(summed)))
        return logits


class _PixelHead(nn.Module):
    """What is left of a plain linear head: scores of a patch's pixels, laid out.

    The scores are a linear map of all tokens at a position (`_GroupProjection`): only
    the encoder's own features can tell one pixel of a patch from the next.
    """

    def __init__(self, num_classes: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.bias = nn.Parameter(torch.zeros(num_classes, 1, 1))

    def forward(self, scores: Tensor) -> Tensor:
        """Lay out scores (B, K * P * P, Hp, Wp) as logits (B, K, H, W)."""
        return F.pixel_shuffle(scores, self.patch_size) + self.bias


class _PixelDetail(nn.Module):
    """Join what a head says of the surroundings with the spectrum of each pixel.

    A patch is the finest thing an encoder of tokens tells apart. Where borders matter,
    and where the spectrum of one pixel says much, a map gains from the pixels as well.

    Source: a skip connection from the image to the last layer, as in U-Nets;
        Hatamizadeh et al. 2022, arXiv:2103.10504, has one around a transformer.
    """

    def __init__(self, num_bands: int, context: int, num_classes: int) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            nn.Conv2d(num_bands, _DETAIL_WIDTH, 1),
            nn.GELU(),
            nn.Conv2d(_DETAIL_WIDTH, _DETAIL_WIDTH, 3, padding=1),
            nn.GroupNorm(_DETAIL_NORM_GROUPS, _DETAIL_WIDTH),
            nn.GELU(),
        )
        self.joined = nn.Sequential(
            nn.Conv2d(_DETAIL_WIDTH + context, _DETAIL_WIDTH, 1), nn.GELU()
        )
        self.classifier = nn.Conv2d(_DETAIL_WIDTH, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=_CLASSIFIER_STD)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        """Classify pixels (B, bands, H, W), given a head's map (B, context, H, W)."""
        seen = torch.cat([self.pixels(images), context], dim=1)
        logits: Tensor = self.classifier(self.joined(seen))
        return logits


# Heads on one feature map: (in_channels, num_classes, channels, dropout) builds one.
_HEADS: dict[str, type[nn.Module]] = {"upernet": _UPerNetHead, "fpn": _FPNHead}


class DenseModel(Pretrained, nn.Module):
    """What all three share; build one of those below.

    Args:
        encoder: a pretrained or random encoder.
        num_classes: classes K, at least 2; changed or not, unless stated. Of numbers
            there is one map.
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
        multilevel: whether a convolutional head sees features of several depths of the
            encoder, see `Encoder.levels`, instead of four scales of the last; published
            models do not.

    Raises:
        ConfigError: a setting is out of range, or the head cannot be built.
    """

    num_dates = 1
    has_classes = True

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int = 2,
        head: HeadKind = "upernet",
        head_channels: int | None = None,
        head_dropout: float = 0.1,
        apply_norm: bool = True,
        pixel_detail: bool = False,
        multilevel: bool = False,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "num_classes": num_classes,
            "head": head,
            "head_channels": head_channels,
            "head_dropout": head_dropout,
            "apply_norm": apply_norm,
            "pixel_detail": pixel_detail,
            "multilevel": multilevel,
        }
        check_settings(settings)
        _check(num_classes, self.has_classes, head, head_channels)
        self.encoder = encoder
        self.num_classes = num_classes
        self.head_kind: HeadKind = head
        self.head_channels = head_channels or _head_width(encoder.embed_dim)
        self.head_config = settings | {"head_channels": self.head_channels}
        self.multilevel = multilevel
        self.apply_norm = apply_norm
        self.detail: _PixelDetail | None = None
        maps = num_classes
        if pixel_detail:
            maps = self.head_channels
            bands = self.num_dates * encoder.num_bands
            self.detail = _PixelDetail(bands, maps, num_classes)
        if not self.has_classes:
            self.register_buffer("target_mean", torch.zeros(()))
            self.register_buffer("target_std", torch.ones(()))
        groups, width = encoder.groups, encoder.embed_dim
        self.fusion: _GroupSum | _GroupProjection
        self.head: nn.Module
        if head == "linear":
            if multilevel:
                raise ConfigError(
                    "multilevel belongs to heads 'upernet' and 'fpn': the linear one "
                    "takes the last features only."
                )
            scores = maps * encoder.patch_size**2
            self.fusion = _GroupProjection(groups, width, scores)
            self.head = _PixelHead(maps, encoder.patch_size)
        else:
            self.fusion = _GroupSum(groups)
            build = _HEADS[head]
            levels = encoder.levels if multilevel else None
            self.head = build(width, maps, self.head_channels, head_dropout, levels)

    def features(
        self, images: Tensor, wavelengths: _Centres = None, dates: Tensor | None = None
    ) -> Tensor:
        """Return the map that the head sees, (B, channels, Hp, Wp).

        Args:
            images: (B, C, H, W), scaled as in pretraining; H, W multiples of P. Of a
                series (B, T, C, H, W) it is the mean over dates.
            wavelengths: centre of each band, nm; None if they are the model's own.
            dates: (B, T), days since 1970-01-01; see `Encoder.forward`.
        """
        if isinstance(wavelengths, Tensor):
            wavelengths = wavelengths.tolist()
        encode = self.encoder if self.apply_norm else self.encoder.encode
        if self.multilevel:
            tokens = self._several_levels(images, wavelengths, dates)
        else:
            tokens = encode(images, wavelengths, dates)  # (B, [T,] G, Hp, Wp, D)
        if images.ndim == 5:
            tokens = tokens.mean(dim=1)  # (B, G, Hp, Wp, D)
        fused: Tensor = self.fusion(tokens, self._places(wavelengths))
        return fused

    def _several_levels(
        self,
        images: Tensor,
        wavelengths: Sequence[float] | None,
        dates: Tensor | None,
    ) -> Tensor:
        """Return features of several depths, the last ones normalised if all are."""
        tokens = self.encoder.encode_levels(images, wavelengths, dates)
        if not self.apply_norm:
            return tokens
        width = self.encoder.embed_dim
        last = self.encoder.norm(tokens[..., -width:])
        return torch.cat([tokens[..., :-width], last], dim=-1)

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
    def predict(self, images: Tensor, wavelengths: _Centres = None) -> Tensor:
        """Return class probabilities (B, K, H, W), or numbers (B, 1, H, W)."""
        found: Tensor = self(images, wavelengths)
        return found.softmax(dim=1) if self.has_classes else found


class SegmentationModel(DenseModel):
    """The class of each pixel of an image; see `DenseModel` for the arguments."""

    def forward(
        self, images: Tensor, wavelengths: _Centres = None, dates: Tensor | None = None
    ) -> Tensor:
        """Classify pixels, see `features`; returns logits (B, K, H, W).

        Raises:
            ShapeError: the images do not fit the patch, or bands are in doubt.
        """
        features = self.features(images, wavelengths, dates)
        # Of a series the last date is what is mapped.
        return self.classify(features, images[:, -1] if images.ndim == 5 else images)


class RegressionModel(DenseModel):
    """A number for each pixel of an image; see `DenseModel`, of one class.

    It is given in the unit of the targets, whose mean and deviation, `target_mean` and
    `target_std`, are kept with the weights: an output of the head of 0 is the mean, and
    1 lies a deviation above. They are 0 and 1 until training measures them.
    """

    has_classes = False
    target_mean: Tensor
    target_std: Tensor

    def forward(self, images: Tensor, wavelengths: _Centres = None) -> Tensor:
        """Estimate the number of each pixel, see `features`; returns (B, 1, H, W).

        Raises:
            ShapeError: the images do not fit the patch, or bands are in doubt.
        """
        estimated = self.classify(self.features(images, wavelengths), images)
        return estimated.float() * self.target_std + self.target_mean


class ChangeModel(DenseModel):
    """The change of each pixel between two dates; see `DenseModel` for the arguments.

    Class 0 is no change, as in the published model.
    """

    num_dates = 2

    def forward(self, images: Tensor, wavelengths: _Centres = None) -> Tensor:
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


def _check(
    num_classes: int, has_classes: bool, head: str, head_channels: int | None
) -> None:
    if has_classes != (num_classes > 1):
        wanted = "at least 2" if has_classes else "1, for they hold numbers"
        raise ConfigError(f"num_classes is {num_classes}: maps need {wanted}.")
    if head not in (*_HEADS, "linear"):
        known = ", ".join((*_HEADS, "linear"))
        raise ConfigError(f"head {head!r} is unknown: use one of {known}.")
    step = _LEVEL_NORM_GROUPS
    if head_channels is not None and (head_channels < 2 * step or head_channels % step):
        raise ConfigError(
            f"head_channels is {head_channels}: use a multiple of {step}, at least "
            f"{2 * step}."
        )
