"""What the model is told of when an image was taken: season, and gap in days.

Dates are numbers of days since 1 January 1970, not a number (NaN) where unknown.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ShapeError

__all__ = [
    "DateEmbedding",
    "add_dates",
    "check_dates",
    "date_features",
    "dates_of_tokens",
]

_YEAR_DAYS = 365.2425  # Mean length of a year; seasons stay within a day of it.
_HARMONICS = 4
# Each period four times the one before, from a revisit or two to a decade.
_GAP_PERIODS_DAYS = (16.0, 64.0, 256.0, 1024.0, 4096.0)
NUM_FEATURES = 2 * (_HARMONICS + len(_GAP_PERIODS_DAYS))


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


def date_features(dates: Tensor) -> Tensor:
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


class DateEmbedding(nn.Module):
    """A linear map of `date_features`, zero at the start.

    Until it is trained, dates change nothing, and a model that was trained on single
    dates can be given one at any time.

    Args:
        embed_dim: width D.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(embed_dim, NUM_FEATURES))

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
        features = date_features(dates.to(self.weight.device))
        return F.linear(features.to(self.weight.dtype), self.weight)
