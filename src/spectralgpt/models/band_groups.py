"""Learned linear maps over band groups: tokens of a spectrum in, one map out.

A dense head needs one feature map, the encoder gives one for each band group. The maps
here are learned on the groups of the model's own bands. For other bands their weights
are read as samples of a function of wavelength: interpolated linearly between the mean
wavelengths of the groups, and scaled by old groups over new, as in an integral, so that
features equal in all groups give the same sum however finely the spectrum is cut.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spectralgpt.models.positions import group_wavelengths, resize_spectral

__all__ = ["GroupPlaces", "GroupProjection", "GroupSum", "resize_group_weights"]

# Mean wavelengths (nm) of the groups that weights were learned on, and of those wanted.
GroupPlaces = tuple[tuple[float, ...], tuple[float, ...]]


def resize_group_weights(
    weights: Tensor,
    wavelengths_nm: Sequence[float],
    new_wavelengths_nm: Sequence[float],
    bands_per_token: int,
) -> Tensor:
    """Move weights of band groups to the groups of other bands.

    Args:
        weights: (G, ...), one row a band group.
        wavelengths_nm: centre of each band that the weights were learned on, nm.
        new_wavelengths_nm: centre of each new band, nm.
        bands_per_token: bands S in a group.

    Returns:
        (new G, ...); the weights themselves if the bands are the same.
    """
    known = group_wavelengths(wavelengths_nm, bands_per_token)
    wanted = group_wavelengths(new_wavelengths_nm, bands_per_token)
    return _resize(weights, (known, wanted))


def _resize(weights: Tensor, places: GroupPlaces | None) -> Tensor:
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
        weights = _resize(self.weight[0], places)
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
        weights = _resize(self.weight, places)
        return torch.einsum("bghwd,gcd->bchw", tokens, weights)
