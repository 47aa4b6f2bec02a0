"""Weights of tokens that follow what their bands measure.

A linear tokeniser has one patch of weights for each slot of a token, whatever lies
there. The spectral one shares these patches out among the bands that a token has, and
adds to each what a small network makes of the band's centre, width and ground sampling
distance: nothing at the start, so that weights of a linear tokeniser give the same
numbers on tokens of as many bands as slots.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError
from spectralgpt.models.cpu import in_full_precision, move
from spectralgpt.models.tokens import TokenGrid, Wavelengths

# Periods of the code over wavelength. The shortest is some widths of a red-edge band.
_PERIODS_NM = (6400.0, 3200.0, 1600.0, 800.0, 400.0, 200.0)
_CODE = 2 * len(_PERIODS_NM) + 3
_HIDDEN = 64
_RANK = 32
_TYPICAL = (1000.0, 50.0, 20.0)
"""Centre in nm, width in nm and ground sampling distance in m whose code is 0."""
# So small that a sensor of pixels never seen is not a stranger by that alone.
_SIZE_WEIGHT = 0.2
# Full width at half maximum of a Gaussian, in standard deviations.
_FWHM = 2 * math.sqrt(2 * math.log(2))


def encode_bands(bands: Tensor) -> Tensor:
    """Describe bands by a fixed code.

    Sines and cosines of the wavelength are averaged over the band's response, taken as
    Gaussian: what is finer than the band is wide fades.

    Args:
        bands: (C, 3), centre in nm, width in nm, ground sampling distance in m.

    Returns:
        float32 (C, features).

    Source: Xiong et al. 2024, arXiv:2403.15356 (weights from wavelengths); Barron et
    al. 2021, arXiv:2103.13415 (averaged codes).
    """
    bands = bands.double()
    rates = (
        2 * math.pi / torch.tensor(_PERIODS_NM, dtype=torch.float64).to(bands.device)
    )
    angles = bands[:, :1] * rates
    fading = (-0.5 * (bands[:, 1:2] / _FWHM * rates) ** 2).exp()
    sizes = _SIZE_WEIGHT * (bands / bands.new_tensor(_TYPICAL)).log()
    code = [angles.sin() * fading, angles.cos() * fading, sizes]
    return torch.cat(code, dim=1).float()


class SpectralTokenizer(nn.Module):
    """What a token's weights and position gain from the bands that it holds.

    Args:
        width: D, of the features on the other side of the token's values.
        slots: bands S per token that the shared weights are for.
        patch_size: side P of a patch, px.
        bands: centre in nm, width in nm and ground sampling distance in m of the bands
            that are meant where none are given.
        rebuilds: weights give values from features, with a bias, and not features from
            values.

    Raises:
        ConfigError: bands are no such rows.
    """

    def __init__(
        self,
        width: int,
        slots: int,
        patch_size: int,
        bands: Wavelengths | None,
        rebuilds: bool = False,
    ) -> None:
        super().__init__()
        self.slots = slots
        self.rebuilds = rebuilds
        self.bands = _check_rows(bands)
        self.network = nn.Sequential(
            nn.Linear(_CODE, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _RANK), nn.GELU()
        )
        rows = width + 1 if rebuilds else width
        self.patches = nn.Parameter(torch.zeros(_RANK, rows, patch_size**2))
        self.position = nn.Parameter(torch.zeros(_RANK, width))

    def place(
        self, positions: Tensor, grid: TokenGrid, bands: Wavelengths | None = None
    ) -> Tensor:
        """Add to positions (N, D) what the bands of their groups say."""
        gains = self._code(bands) @ self.position
        groups = gains.split(grid.bands_per_token)
        by_group = torch.stack([group.mean(dim=0) for group in groups])
        by_token = by_group.repeat_interleave(grid.positions, dim=0)
        return positions + by_token.repeat(grid.dates, 1)

    def embed(
        self,
        tokens: Tensor,
        shared: Tensor,
        bias: Tensor,
        grid: TokenGrid,
        bands: Wavelengths | None = None,
    ) -> Tensor:
        """Embed values of tokens, each group with its own weights.

        Args:
            tokens: (B, N, S * P * P), all tokens of the images; repeated bands weigh
                nothing.
            shared: (D, S * P * P), weights of a linear tokeniser.
            bias: (D,).
            grid: of the tokens.
            bands: of the images; None for the own ones.

        Returns:
            (B, N, D).
        """
        weights = self._weights(shared, grid, bands)  # (G, D, S * P * P)
        return _map_by_group(tokens, weights, grid) + bias

    def rebuild(
        self,
        x: Tensor,
        shared: Tensor,
        bias: Tensor,
        grid: TokenGrid,
        bands: Wavelengths | None = None,
    ) -> Tensor:
        """Rebuild values of all tokens; repeated bands as the band that they repeat.

        Args:
            x: (B, N, D).
            shared: (S * P * P, D), weights of a linear prediction.
            bias: (S * P * P,).
            grid: of the tokens.
            bands: of the images; None for the own ones.

        Returns:
            (B, N, S * P * P).
        """
        both = torch.cat([shared.T, bias[None]])  # (D + 1, S * P * P)
        both = self._weights(both, grid, bands).transpose(1, 2)  # (G, S * P * P, D + 1)
        values = _map_by_group(x, both[..., :-1], grid)
        of_token = both[..., -1].repeat_interleave(grid.positions, dim=0)
        return values + of_token.repeat(grid.dates, 1)

    def _code(self, bands: Wavelengths | None) -> Tensor:
        """Return what the network makes of each band, (C, R)."""
        rows = self.bands if bands is None else _check_rows(bands)
        device = self.position.device
        # Half precision cannot tell neighbouring wavelengths apart.
        with in_full_precision(device):
            code = move(encode_bands(torch.tensor(rows)), self.position)
            found: Tensor = self.network(code.to(self.position.dtype))
        return found

    def _weights(
        self, shared: Tensor, grid: TokenGrid, bands: Wavelengths | None
    ) -> Tensor:
        """Return weights (G, M, S * P * P) from shared ones (M, slots * P * P)."""
        with in_full_precision(shared.device):
            gains = torch.einsum("cr,rmp->cmp", self._code(bands), self.patches)
            slots = shared.unflatten(1, (self.slots, -1))  # (M, slots, P * P)
            size = grid.bands_per_token
            groups = [self._share_out(slots, gain, size) for gain in gains.split(size)]
            return torch.stack(groups).flatten(2)

    def _share_out(self, slots: Tensor, gain: Tensor, size: int) -> Tensor:
        """Return weights (M, size, P * P) of a group whose n bands gain (n, M, P * P).

        Bands share what the slots weigh together; to rebuild, each takes their mean.
        """
        count = len(gain)
        shares = slot_shares(self.slots, count).to(slots.dtype)
        shares = move(shares, slots)  # (slots, n)
        if self.rebuilds:
            shares = shares / shares.sum(dim=0)
        else:
            gain = gain * (self.slots / count)
        weights = torch.einsum("msp,sn->mnp", slots, shares) + gain.transpose(0, 1)
        missing = size - count
        if self.rebuilds:
            last = weights[:, -1:].expand(-1, missing, -1)
            return torch.cat([weights, last], dim=1)
        return F.pad(weights, (0, 0, 0, missing))


def _check_rows(bands: Wavelengths | None) -> tuple[tuple[float, ...], ...]:
    rows = tuple(tuple(b) if isinstance(b, Sequence) else () for b in bands or ())
    if not rows or any(len(row) != len(_TYPICAL) for row in rows):
        raise ConfigError(
            "a spectral tokeniser reads each band's centre (nm), width (nm) and ground "
            "sampling distance (m): pass a row of three numbers for each band, not its "
            "wavelength alone."
        )
    return rows


def slot_shares(slots: int, bands: int) -> Tensor:
    """Return what each slot takes of each band where a token is cut into `bands`.

    Slots and bands are taken to part the token's spectrum evenly. With as many bands
    as slots each slot takes its own band; with fewer, neighbours share a band; with
    more, a slot averages its bands.

    Returns:
        float64 (slots, bands), rows that sum to 1.
    """
    slot = torch.arange(slots)[:, None] * bands
    band = torch.arange(bands)[None] * slots
    low = torch.maximum(slot, band)
    high = torch.minimum(slot + bands, band + slots)
    # Whole numbers, so that equal counts give exactly one and zero.
    return (high - low).clamp(min=0) / torch.tensor(float(bands), dtype=torch.float64)


def _map_by_group(x: Tensor, weights: Tensor, grid: TokenGrid) -> Tensor:
    """Map tokens (B, N, I) by weights (G, O, I) of their band groups: (B, N, O)."""
    by_group = x.unflatten(1, (grid.dates, grid.groups, grid.positions))
    mapped = torch.einsum("btgmi,goi->btgmo", by_group, weights)
    return mapped.flatten(1, 3)
