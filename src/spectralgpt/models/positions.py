"""Learnable positions in space, spectrum and time, and resizing them.

Spatial tables are interpolated bicubically over the patch grid, spectral tables
linearly over wavelength. Both are exact on the grid and bands they were learned on.
Dates tell season, and gap in days: they are days since 1 January 1970, not a number
(NaN) where unknown.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.tokens import TokenGrid

# As Vaswani et al. 2017, arXiv:1706.03762, but for tens of patches, not for text.
_LONGEST_PERIOD = 100.0
_SAME_WAVELENGTH_NM = 1e-3
_YEAR_DAYS = 365.2425  # Mean length of a year; seasons stay within a day of it.
_HARMONICS = 4
# Each period four times the one before, from a revisit or two to a decade.
_GAP_PERIODS_DAYS = (16.0, 64.0, 256.0, 1024.0, 4096.0)
_DATE_FEATURES = 2 * (_HARMONICS + len(_GAP_PERIODS_DAYS))


def group_wavelengths(
    wavelengths_nm: Sequence[float], bands_per_token: int
) -> tuple[float, ...]:
    """Return the mean wavelength in nm of each band group.

    The last group averages the bands that it really has, not the repeated ones.
    """
    values = list(wavelengths_nm)
    starts = range(0, len(values), bands_per_token)
    groups = [values[start : start + bands_per_token] for start in starts]
    return tuple(sum(group) / len(group) for group in groups)


def resize_spatial(
    table: Tensor, size: tuple[int, int], new_size: tuple[int, int]
) -> Tensor:
    """Interpolate a spatial table bicubically to another patch grid.

    Args:
        table: (M, Hp * Wp, D).
        size: patch rows and columns of the table.
        new_size: patch rows and columns wanted.

    Returns:
        (M, new Hp * new Wp, D); the table itself if the size is unchanged.
    """
    if size == new_size:
        return table
    M, _, D = table.shape
    grid = table.reshape(M, *size, D).permute(0, 3, 1, 2)  # (M, D, Hp, Wp)
    grid = F.interpolate(grid, new_size, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(M, -1, D)  # (M, new Hp * new Wp, D)


def resize_spectral(
    table: Tensor, wavelengths_nm: Sequence[float], new_wavelengths_nm: Sequence[float]
) -> Tensor:
    """Interpolate a spectral table linearly over wavelength.

    Outside the range of the table its first or last row is used.

    Args:
        table: (G, ...), one row a band group.
        wavelengths_nm: G mean wavelengths of the table's groups, in any order.
        new_wavelengths_nm: mean wavelengths wanted.

    Returns:
        (new G, ...); the table itself if the wavelengths are unchanged.
    """
    known = torch.tensor(list(wavelengths_nm), dtype=torch.float64)
    wanted = torch.tensor(list(new_wavelengths_nm), dtype=torch.float64)
    if known.shape == wanted.shape and (known - wanted).abs().max() < (
        _SAME_WAVELENGTH_NM
    ):
        return table
    order = known.argsort()
    known = known[order]
    wanted = wanted.clamp(known[0], known[-1])
    above = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    below = (above - 1).clamp(min=0)
    span = (known[above] - known[below]).clamp(min=_SAME_WAVELENGTH_NM)
    share = ((wanted - known[below]) / span).clamp(0, 1)
    share = share.to(table).reshape(-1, *[1] * (table.ndim - 1))
    sorted_table = table[order.to(table.device)]
    low = sorted_table[below.to(table.device)]
    high = sorted_table[above.to(table.device)]
    return low * (1 - share) + high * share


def _sine_cosine(places: Tensor, dim: int) -> Tensor:
    """Encode places on a line by sines and cosines of falling frequency.

    Learnable tables start from these: from noise, a short run does not find out which
    tokens are neighbours.

    Args:
        places: (M,), such as patch rows.
        dim: width of the code; an odd last value is 0.

    Returns:
        (M, dim).
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32) / max(1, half)
    angles = places[:, None] * _LONGEST_PERIOD**-steps
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(code, (0, dim - 2 * half))


def check_dates(dates: Tensor | None, batch_size: int, num_dates: int) -> None:
    """Refuse dates that do not fit the images.

    Raises:
        ShapeError: `dates` is not (batch_size, num_dates).
    """
    if dates is not None and dates.shape != (batch_size, num_dates):
        raise ShapeError(
            f"dates have shape {tuple(dates.shape)}: {batch_size} samples of "
            f"{num_dates} date(s) need ({batch_size}, {num_dates}), in days since "
            "1970-01-01."
        )


def _date_features(dates: Tensor) -> Tensor:
    """Describe dates by fixed sines and cosines.

    Season: harmonics of the place in the year, so that 31 December lies beside
    1 January. Gap: days since the sample's earliest known date, at several periods, as
    sin and 1 - cos, so that the earliest date has the code 0.

    Args:
        dates: (B, T), days since 1970-01-01; the code of an unknown date (NaN) is 0.

    Returns:
        float32 (B, T, features).
    """
    known = dates.isfinite()
    days = torch.where(known, dates, 0).float()
    first = torch.where(known, days, torch.inf).amin(dim=1, keepdim=True)
    gap = torch.where(known, days - first, 0)
    turn = 2 * math.pi
    harmonics = torch.arange(1, _HARMONICS + 1, device=dates.device)
    season = turn * (days % _YEAR_DAYS / _YEAR_DAYS)[..., None] * harmonics
    periods = torch.tensor(_GAP_PERIODS_DAYS, device=dates.device)
    apart = turn * gap[..., None] / periods
    code = [season.sin(), season.cos(), apart.sin(), 1 - apart.cos()]
    return torch.cat(code, dim=-1) * known[..., None]  # (B, T, features)


def add_dates(x: Tensor, embedded: Tensor | None) -> Tensor:
    """Add the embedding of each date to its tokens.

    Args:
        x: (B, N, D), all tokens, by date first.
        embedded: (B or 1, T, D); None adds nothing.
    """
    if embedded is None:
        return x
    by_date = x.unflatten(1, (embedded.shape[1], -1))  # (B, T, N / T, D)
    return (by_date + embedded[:, :, None]).flatten(1, 2)  # (B, N, D)


def dates_of_tokens(embedded: Tensor, tokens: Tensor, tokens_per_date: int) -> Tensor:
    """Pick for each token the embedding of its date.

    Args:
        embedded: (B or 1, T, D).
        tokens: (B, K), indices of tokens, by date first.
        tokens_per_date: G * Hp * Wp.

    Returns:
        (B, K, D).
    """
    date = tokens.div(tokens_per_date, rounding_mode="floor").unsqueeze(-1)
    index = date.expand(-1, -1, embedded.shape[-1])
    return embedded.expand(len(tokens), -1, -1).gather(1, index)


class _DateEmbedding(nn.Module):
    """A linear map of `_date_features`, zero at the start.

    Until it is trained, dates change nothing, and a model that was trained on single
    dates can be given one at any time.

    Args:
        embed_dim: width D.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(embed_dim, _DATE_FEATURES))

    def forward(self, dates: Tensor | None, num_dates: int) -> Tensor:
        """Embed dates.

        Args:
            dates: (B, T), days since 1970-01-01; None if all are unknown.
            num_dates: dates T.

        Returns:
            (B, T, D), or (1, T, D) without dates.

        Raises:
            ShapeError: `dates` is not (B, T).
        """
        if dates is None:
            dates = self.weight.new_full((1, num_dates), torch.nan)
        check_dates(dates, len(dates), num_dates)
        features = _date_features(dates.to(self.weight.device))
        return F.linear(features.to(self.weight.dtype), self.weight)


class Positions(nn.Module):
    """What tells tokens apart: where they lie, their band group and their date.

    Args:
        grid: the token grid that the tables are learned on.
        embed_dim: width D.
        wavelengths_nm: centre wavelength of each band, nm; None if unknown.
        joint: one table with a row for each token, as published classifiers have it,
            instead of a spatial and a spectral one, added.

    Attributes:
        dates: what tells dates apart; None in a model of single dates.
    """

    def __init__(
        self,
        grid: TokenGrid,
        embed_dim: int,
        wavelengths_nm: Sequence[float] | None = None,
        joint: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.wavelengths_nm = wavelengths_nm
        self.is_joint = joint
        if joint:
            self.joint = nn.Parameter(torch.zeros(1, grid.num_tokens, embed_dim))
        else:
            half = embed_dim // 2
            rows = _sine_cosine(torch.arange(grid.rows), half)[:, None]
            columns = _sine_cosine(torch.arange(grid.columns), embed_dim - half)
            size = (grid.rows, grid.columns, -1)
            by_place = torch.cat([rows.expand(size), columns.expand(size)], dim=-1)
            self.spatial = nn.Parameter(by_place.flatten(0, 1)[None])
            by_group = _sine_cosine(torch.arange(grid.groups), embed_dim)
            self.spectral = nn.Parameter(by_group[None])
        self.dates: _DateEmbedding | None = None

    def forward(
        self, grid: TokenGrid, wavelengths_nm: Sequence[float] | None = None
    ) -> Tensor:
        """Return the positions of the tokens of `grid`, (N, D), alike for all dates.

        Args:
            grid: token grid of the images, of any size.
            wavelengths_nm: wavelength of each band in nm; None for the model's own.

        Raises:
            ShapeError: another band count without wavelengths.
            ConfigError: wavelengths for a model that knows none.
        """
        own, size = ((each.rows, each.columns) for each in (self.grid, grid))
        if self.is_joint:
            table = self.joint.reshape(self.grid.groups, self.grid.positions, -1)
            table = resize_spatial(table, own, size)
            table = self._resize_groups(table, grid, wavelengths_nm)
        else:
            spatial = resize_spatial(self.spatial, own, size)
            spectral = self._resize_groups(self.spectral[0], grid, wavelengths_nm)
            table = spectral[:, None] + spatial  # (G, Hp * Wp, D)
        table = table.flatten(0, 1)  # (G * Hp * Wp, D)
        return table.repeat(grid.dates, 1) if grid.dates > 1 else table

    def add_dates(self) -> None:
        """Add the embedding of dates, if it is not there, as zeros."""
        if self.dates is None:
            table = next(self.parameters())
            self.dates = _DateEmbedding(table.shape[-1]).to(table)

    def embed_dates(self, dates: Tensor | None, num_dates: int) -> Tensor | None:
        """Return what dates add to their tokens.

        Args:
            dates: (B, T), days since 1970-01-01, NaN if unknown; None if all are.
            num_dates: dates T.

        Returns:
            (B, T, D), or (1, T, D) without dates; None without date embedding.

        Raises:
            ShapeError: dates are not (B, T).
            ConfigError: dates for a model that has no date embedding.
        """
        if self.dates is not None:
            embedded: Tensor = self.dates(dates, num_dates)
            return embedded
        if dates is not None:
            raise ConfigError(
                "this model has no date embedding, so it cannot use dates: give it "
                "one with add_date_embedding(), or pass no dates."
            )
        return None

    def _resize_groups(
        self, table: Tensor, grid: TokenGrid, wavelengths_nm: Sequence[float] | None
    ) -> Tensor:
        """Interpolate a table (G, ...) to the groups of bands at `wavelengths_nm`."""
        if wavelengths_nm is None:
            if grid.num_bands != self.grid.num_bands:
                raise ShapeError(
                    f"images have {grid.num_bands} bands, the model knows "
                    f"{self.grid.num_bands}: pass the wavelengths of the bands in nm."
                )
            return table
        if self.wavelengths_nm is None:
            raise ConfigError(
                "this model was built without wavelengths, so bands cannot be placed "
                "by wavelength: build it with wavelengths_nm=..., or pass none."
            )
        if len(wavelengths_nm) != grid.num_bands:
            raise ShapeError(
                f"{len(wavelengths_nm)} wavelengths for images of {grid.num_bands} "
                "bands: give one wavelength in nm for each band."
            )
        S = grid.bands_per_token
        return resize_spectral(
            table,
            group_wavelengths(self.wavelengths_nm, S),
            group_wavelengths(wavelengths_nm, S),
        )
