"""What tells tokens apart: where they lie, their band group and their date.

Learnable tables tell where a token lies and its band group; they are exact on the grid
and bands that they were learned on, and interpolated for others; beyond the bands they
go on. Dates tell season, and gap in days: they are days since 1 January 1970, not a
number (NaN) where unknown.
"""

import functools
import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.cpu import move
from spectralgpt.models.tokens import (
    TokenGrid,
    Wavelengths,
    group_wavelengths,
    resize_spatial,
    resize_spectral,
)

# As Vaswani et al. 2017, arXiv:1706.03762, but for tens of patches, not for text.
_LONGEST_PERIOD = 100.0
_YEAR_DAYS = 365.2425  # Mean length of a year; seasons stay within a day of it.
_HARMONICS = 4
# Each period four times the one before, from a revisit or two to a decade.
_GAP_PERIODS_DAYS = (16.0, 64.0, 256.0, 1024.0, 4096.0)
_DATE_FEATURES = 2 * (_HARMONICS + len(_GAP_PERIODS_DAYS))
# Reflected sunlight, which positions are meant to tell apart.
_SUNLIGHT_NM = (350.0, 2500.0)
# The fastest angle of a code turns once in this, times two pi.
_FALLBACK_NM = 200.0
_MAX_LISTED = 4
_log = logging.getLogger(__name__)


def _sine_cosine(places: Tensor, dim: int) -> Tensor:
    """Encode places (M,) on a line by sines and cosines of falling frequency: (M, dim).

    Learnable tables start from these: from noise, a short run does not find out which
    tokens are neighbours. An odd last value is 0.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32) / max(1, half)
    angles = places[:, None] * _LONGEST_PERIOD**-steps
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(code, (0, dim - 2 * half))


def _date_features(dates: Tensor) -> Tensor:
    """Describe dates (B, T), days, by fixed sines and cosines, (B, T, features).

    Season: harmonics of the place in the year, so that 31 December lies beside
    1 January. Gap: days since the sample's earliest known date, at several periods, as
    sin and 1 - cos, so that the earliest date has the code 0. Unknown ones (NaN), too.
    """
    known = dates.isfinite()
    days = torch.where(known, dates, 0).float()
    first = torch.where(known, days, torch.inf).amin(dim=1, keepdim=True)
    gap = torch.where(known, days - first, 0)
    turn = 2 * math.pi
    harmonics = torch.arange(1, _HARMONICS + 1, device=dates.device)
    season = turn * (days % _YEAR_DAYS / _YEAR_DAYS)[..., None] * harmonics
    periods = move(torch.tensor(_GAP_PERIODS_DAYS), dates)
    apart = turn * gap[..., None] / periods
    code = [season.sin(), season.cos(), apart.sin(), 1 - apart.cos()]
    return torch.cat(code, dim=-1) * known[..., None]  # (B, T, features)


class _DateEmbedding(nn.Module):
    """A linear map of `_date_features`, zero at the start.

    Until it is trained, dates change nothing, and a model that was trained on single
    dates can be given one at any time.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(embed_dim, _DATE_FEATURES))

    def forward(self, dates: Tensor | None, grid: TokenGrid) -> Tensor:
        """Embed dates (B, T), in days: (B, T, D); if all are unknown, (1, T, D)."""
        if dates is None:
            dates = self.weight.new_full((1, grid.dates), torch.nan)
        grid.check_dates(dates, len(dates))
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
        self, grid: TokenGrid, wavelengths_nm: Wavelengths | None = None
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

    def embed_dates(self, dates: Tensor | None, grid: TokenGrid) -> Tensor | None:
        """Return what dates add to their tokens.

        Args:
            dates: (B, T), days since 1970-01-01, NaN if unknown; None if all are.
            grid: token grid of the images.

        Returns:
            (B, T, D), or (1, T, D) without dates; None without date embedding.

        Raises:
            ShapeError: dates are not (B, T).
            ConfigError: dates for a model that has no date embedding.
        """
        if self.dates is not None:
            embedded: Tensor = self.dates(dates, grid)
            return embedded
        if dates is not None:
            raise ConfigError(
                "this model has no date embedding, so it cannot use dates: give it "
                "one with add_date_embedding(), or pass no dates."
            )
        return None

    def _resize_groups(
        self, table: Tensor, grid: TokenGrid, wavelengths_nm: Wavelengths | None
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
        return resize_positions(
            table,
            group_wavelengths(self.wavelengths_nm, S),
            group_wavelengths(wavelengths_nm, S),
        )


def resize_positions(
    table: Tensor, wavelengths_nm: Sequence[float], new_wavelengths_nm: Sequence[float]
) -> Tensor:
    """Interpolate the positions of band groups linearly over wavelength.

    Outside the range of the table they go on in the direction of its last step, ever
    more slowly, so that no two wavelengths share a position.

    Args:
        table: (G, ..., D), one row per band group.
        wavelengths_nm: G mean wavelengths of the table's groups, in any order.
        new_wavelengths_nm: mean wavelengths wanted.

    Returns:
        (new G, ..., D); the table itself if the wavelengths are unchanged.
    """
    rows = resize_spectral(table, wavelengths_nm, new_wavelengths_nm)
    if rows is table:
        return table
    known = torch.tensor(list(wavelengths_nm), dtype=torch.float64)
    wanted = torch.tensor(list(new_wavelengths_nm), dtype=torch.float64)
    is_outside = (wanted < known.min()) | (wanted > known.max())
    _warn_of_strange(tuple(wanted[is_outside].tolist()))
    for side in (-1, 1):
        edge = int((side * known).argmax())
        beyond_nm = (side * (wanted - known[edge])).clamp(min=0)
        if bool(beyond_nm.any()):
            rows = rows + _steps_beyond(table, known, edge, side * beyond_nm)
    return rows


@functools.cache
def _warn_of_strange(outside_nm: tuple[float, ...]) -> None:
    """Warn once of band groups outside sunlight and outside what was learned."""
    low, high = _SUNLIGHT_NM
    strange = [f"{nm:g}" for nm in outside_nm if not low <= nm <= high]
    if strange:
        _log.warning(
            "band group(s) at %s nm lie outside reflected sunlight, %g to %g nm, and "
            "outside all that the model has seen: expect little of them.",
            ", ".join(strange[:_MAX_LISTED]),
            low,
            high,
        )


def _steps_beyond(table: Tensor, known: Tensor, edge: int, beyond: Tensor) -> Tensor:
    """Return what positions (M, ..., D) gain beyond an edge of a table (G, ..., D).

    The nearest row that differs gives the direction. Where none does, sines and cosines
    of the distance tell wavelengths apart. `known` (G,) and `beyond`, the signed
    distances (M,) from the edge, are in nm; 0 gains nothing.
    """
    shape = (-1, *[1] * (table.ndim - 1))
    apart = (known - known[edge]).abs()
    for other in apart.argsort().tolist():
        if apart[other] > 0 and not torch.equal(table[other], table[edge]):
            steps = (beyond.abs() / apart[other]).log1p()
            return steps.to(table).reshape(shape) * (table[edge] - table[other])
    width = table.shape[-1]
    code = _sine_cosine((beyond / _FALLBACK_NM).float(), width)
    gain = code - _sine_cosine(torch.zeros(1), width)  # (M, D)
    return gain.to(table).reshape(*shape[:-1], width)
