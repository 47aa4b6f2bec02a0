"""What makes maps of tokens: band groups joined, a head on them, detail from pixels.

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
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.models.positions import resize_spectral

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


def resize_group_weights(weights: Tensor, places: GroupPlaces | None) -> Tensor:
    """Move weights of band groups to the groups of other bands.

    Args:
        weights: (G, ...), one row a band group.
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


class GroupSum(nn.Module):
    """One weight a band group: the weighted sum of their feature maps, plus a bias.

    It starts as the mean over the groups.

    Args:
        groups: band groups G.

    Source: Hong et al. 2024, arXiv:2311.07113, the map from 4 spectral cubes to 1.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, groups), 1 / groups))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, places: GroupPlaces | None = None) -> Tensor:
        """Sum tokens (B, G, Hp, Wp, D) to a feature map (B, D, Hp, Wp).

        Args:
            tokens: one feature vector a band group and position.
            places: wavelengths of the own and of the given groups; None if equal.
        """
        weights = resize_group_weights(self.weight[0], places)
        return torch.einsum("bghwd,g->bdhw", tokens, weights) + self.bias


class GroupProjection(nn.Module):
    """One linear map a band group, summed: all that is linear in a position's tokens.

    Args:
        groups: band groups G.
        embed_dim: width D of the tokens.
        channels: width of the output.
    """

    def __init__(self, groups: int, embed_dim: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, channels, embed_dim))
        # Small, so that training starts from even odds: variance 1 % of the input's.
        nn.init.trunc_normal_(self.weight, std=0.1 * (groups * embed_dim) ** -0.5)

    def forward(self, tokens: Tensor, places: GroupPlaces | None = None) -> Tensor:
        """Map tokens (B, G, Hp, Wp, D) to (B, channels, Hp, Wp).

        Args:
            tokens: one feature vector a band group and position.
            places: wavelengths of the own and of the given groups; None if equal.
        """
        weights = resize_group_weights(self.weight, places)
        return torch.einsum("bghwd,gcd->bchw", tokens, weights)


def head_width(embed_dim: int) -> int:
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


def _fuse_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_FUSE_NORM_GROUPS, channels)


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


class PyramidPooling(nn.Module):
    """What the image holds at 1, 2, 3 and 6 parts a side, beside the map itself.

    Args:
        in_channels: channels of the map.
        channels: channels of the output.

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


def _build_level(
    in_channels: int, width: int, upsampling: int, channels: int
) -> nn.Sequential:
    # The finest level is widened before it is upsampled.
    inner = max(width, 2 * channels)
    layers = list(_conv_block(in_channels, inner, _LEVEL_NORM_GROUPS))
    if upsampling > 1:
        layers.append(nn.ConvTranspose2d(inner, width, upsampling, upsampling))
    return nn.Sequential(*layers)


class UPerNetHead(nn.Module):
    """Four scales of one map, pyramid pooling, top-down fusion: the published head.

    Logits come on a grid of 8 pixels a patch side, whatever the patch.

    Args:
        in_channels: channels D of the feature map.
        num_classes: classes K.
        channels: width of the head, a multiple of 32.
        dropout: share of fused channels that a training step leaves out, 0..1.

    Source: Xiao et al. 2018, arXiv:1807.10221, as built by the published weights.
    """

    def __init__(
        self, in_channels: int, num_classes: int, channels: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [channels * factor for factor in _LEVEL_WIDTHS]
        self.levels = nn.ModuleList(
            _build_level(in_channels, width, upsampling, channels)
            for width, upsampling in zip(widths, _UPSAMPLINGS, strict=True)
        )
        self.pooling = PyramidPooling(widths[-1], channels)
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
        *finer, coarsest = [level(features) for level in self.levels]
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


class FPNHead(nn.Module):
    """A light head: three scales of one map, fused top-down and added.

    Logits come on a grid of 4 pixels a patch side, whatever the patch.

    Args:
        in_channels: channels D of the feature map.
        num_classes: classes K.
        channels: width of the head, a multiple of 32.
        dropout: share of fused channels that a training step leaves out, 0..1.

    Source: scales from one map, Li et al. 2022, arXiv:2203.16527; their sum, Kirillov
        et al. 2019, arXiv:1901.02446.
    """

    def __init__(
        self, in_channels: int, num_classes: int, channels: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ConvTranspose2d(in_channels, channels, upsampling, upsampling)
            for upsampling in _UPSAMPLINGS[1:]
        )
        # torchvision takes seconds to import, and other heads need none of it.
        from torchvision.ops import FeaturePyramidNetwork

        self.pyramid = FeaturePyramidNetwork(
            [channels] * len(self.levels), channels, norm_layer=_fuse_norm
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        _initialise(self, self.classifier)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, Hp, Wp) to logits (B, K, 4 Hp, 4 Wp)."""
        levels = OrderedDict(
            (str(index), level(features)) for index, level in enumerate(self.levels)
        )
        fused = list(self.pyramid(levels).values())
        size = fused[0].shape[-2:]
        summed = torch.stack([_upsampled(x, size) for x in fused]).sum(dim=0)
        logits: Tensor = self.classifier(self.dropout(F.gelu(summed)))
        return logits


class PixelHead(nn.Module):
    """What is left of a plain linear head: scores of a patch's pixels, laid out.

    The scores are a linear map of all tokens at a position (`GroupProjection`), so that
    nothing but the encoder's own features can tell one pixel of a patch from the next.

    Args:
        num_classes: classes K.
        patch_size: side P of a patch, px.
    """

    def __init__(self, num_classes: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.bias = nn.Parameter(torch.zeros(num_classes, 1, 1))

    def forward(self, scores: Tensor) -> Tensor:
        """Lay out scores (B, K * P * P, Hp, Wp) as logits (B, K, H, W)."""
        return F.pixel_shuffle(scores, self.patch_size) + self.bias


class PixelDetail(nn.Module):
    """Join what a head says of the surroundings with the spectrum of each pixel.

    A patch is the finest thing an encoder of tokens tells apart. Where borders matter,
    and where the spectrum of one pixel says much, a map gains from the pixels as well.

    Args:
        num_bands: bands of the image, or of both dates together.
        context: channels of the head's map.
        num_classes: classes K.

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
        """Classify pixels.

        Args:
            images: (B, bands, H, W), scaled as the encoder sees them.
            context: (B, context, H, W), from a head, brought to the image's size.

        Returns:
            Logits (B, K, H, W).
        """
        seen = torch.cat([self.pixels(images), context], dim=1)
        logits: Tensor = self.classifier(self.joined(seen))
        return logits
