"""Cutting an image into spectral-spatial cubes, hiding some, and putting it together.

An image (C, H, W) becomes N = G * Hp * Wp tokens of S neighbouring bands and P x P
pixels; a series of T dates (T, C, H, W) becomes those of each date in turn. Choosing,
ordering and scaling bands is left to `spectralgpt.preprocessing`. Tables with a row a
patch or band group are resized here: bicubically over the patch grid, linearly over
wavelength. Wavelengths of bands are their centres in nm, or rows of centre in nm, width
in nm and ground sampling distance in m.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.cpu import move

MaskStyle = Literal["cube", "tube", "spectral", "date"]
Wavelengths = Sequence[float] | Sequence[Sequence[float]]
MASK_STYLES: tuple[MaskStyle, ...] = ("cube", "tube", "spectral", "date")
_SAME_WAVELENGTH_NM = 1e-3


@dataclass(frozen=True)
class TokenGrid:
    """How an image is cut into tokens.

    A band count that is no multiple of `bands_per_token` is allowed: the last band is
    repeated to fill the last band group.

    Attributes:
        num_bands: bands C of the image.
        height: pixel rows H, a multiple of `patch_size`.
        width: pixel columns W, a multiple of `patch_size`.
        patch_size: side P of a patch in pixels.
        bands_per_token: bands S that share a token.
        num_dates: dates T of a series; None if images have no date axis.

    Raises:
        ConfigError: a count is not positive, or the image cannot be cut into patches.
    """

    num_bands: int
    height: int
    width: int
    patch_size: int = 8
    bands_per_token: int = 3
    num_dates: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_bands", "height", "width", "patch_size", "bands_per_token"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: use at least 1.")
        if self.num_dates is not None and self.num_dates < 1:
            raise ConfigError(f"num_dates is {self.num_dates}: use at least 1.")
        for name in ("height", "width"):
            if getattr(self, name) % self.patch_size:
                raise ConfigError(
                    f"image {name} {getattr(self, name)} px is no multiple of "
                    f"patch_size {self.patch_size} px: crop or resize the image."
                )

    @property
    def groups(self) -> int:
        """Band groups G."""
        return -(-self.num_bands // self.bands_per_token)

    @property
    def rows(self) -> int:
        """Patch rows Hp."""
        return self.height // self.patch_size

    @property
    def columns(self) -> int:
        """Patch columns Wp."""
        return self.width // self.patch_size

    @property
    def positions(self) -> int:
        """Spatial positions Hp * Wp."""
        return self.rows * self.columns

    @property
    def dates(self) -> int:
        """Dates T, 1 without a date axis."""
        return self.num_dates or 1

    @property
    def tokens_per_date(self) -> int:
        """Tokens of one date: G * Hp * Wp."""
        return self.groups * self.positions

    @property
    def num_tokens(self) -> int:
        """Tokens N of one sample, all dates together."""
        return self.dates * self.tokens_per_date

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W), or (T, C, H, W) of a series."""
        shape = (self.num_bands, self.height, self.width)
        return shape if self.num_dates is None else (self.num_dates, *shape)

    @property
    def token_shape(self) -> tuple[int, ...]:
        """The axes of the tokens: (G, Hp, Wp), or (T, G, Hp, Wp) of a series."""
        shape = (self.groups, self.rows, self.columns)
        return shape if self.num_dates is None else (self.num_dates, *shape)

    @property
    def token_dim(self) -> int:
        """Pixel values in one token: S * P * P."""
        return self.bands_per_token * self.patch_size**2

    @property
    def padded_bands(self) -> int:
        """Bands that are repeated to fill the last group."""
        return self.groups * self.bands_per_token - self.num_bands

    @classmethod
    def of(cls, images: Tensor, patch_size: int, bands_per_token: int) -> "TokenGrid":
        """Return the grid of images.

        Args:
            images: (B, C, H, W), or (B, T, C, H, W) of series.
            patch_size: side P of a patch in pixels.
            bands_per_token: bands S that share a token.

        Raises:
            ShapeError: images have other axes or cannot be cut into patches.
        """
        if images.ndim not in (4, 5):
            raise ShapeError(
                f"images have shape {tuple(images.shape)}: give (batch, bands, rows, "
                "columns), with a batch axis of 1 for a single image, or (batch, "
                "dates, bands, rows, columns)."
            )
        dates = images.shape[1] if images.ndim == 5 else None
        try:
            bands, height, width = images.shape[-3:]
            return cls(bands, height, width, patch_size, bands_per_token, dates)
        except ConfigError as error:
            raise ShapeError(str(error)) from error

    def check_dates(self, dates: Tensor | None, batch_size: int) -> None:
        """Refuse dates that do not fit the images.

        Raises:
            ShapeError: `dates` is not (batch_size, T).
        """
        if dates is not None and dates.shape != (batch_size, self.dates):
            raise ShapeError(
                f"dates have shape {tuple(dates.shape)}: {batch_size} samples of "
                f"{self.dates} date(s) need ({batch_size}, {self.dates}), in days "
                "since 1970-01-01."
            )


def _pad_bands(images: Tensor, grid: TokenGrid) -> Tensor:
    if not grid.padded_bands:
        return images
    last = images[..., -1:, :, :].expand(*images.shape[:-3], grid.padded_bands, -1, -1)
    return torch.cat([images, last], dim=-3)


def patchify(images: Tensor, grid: TokenGrid) -> Tensor:
    """Cut images into flat spectral-spatial tokens.

    Tokens are ordered by date, then band group, then row, then column; values within a
    token by band, then pixel row, then pixel column. `unpatchify` is the exact inverse.

    Args:
        images: (B, C, H, W) or (B, T, C, H, W), scaled reflectance.
        grid: token geometry; fixes all axes but the first.

    Returns:
        (B, N, S * P * P).

    Raises:
        ShapeError: images do not match the grid.

    Source: Hong et al. 2024, arXiv:2311.07113, 3D token generation.
    """
    if images.shape[1:] != grid.image_shape:
        raise ShapeError(
            f"images of shape {tuple(images.shape)} do not match {grid}: "
            "build the grid with TokenGrid.of(images, ...)."
        )
    # len() of a batch would fix its size in an exported model.
    B, P, S = images.shape[0], grid.patch_size, grid.bands_per_token
    # Dates lie outside band groups, so that both are one axis here.
    TG = grid.dates * grid.groups
    cubes = _pad_bands(images, grid).reshape(B, TG, S, grid.rows, P, grid.columns, P)
    cubes = cubes.permute(0, 1, 3, 5, 2, 4, 6)  # (B, T * G, Hp, Wp, S, P, P)
    return cubes.reshape(B, grid.num_tokens, grid.token_dim)  # (B, N, S * P * P)


def unpatchify(tokens: Tensor, grid: TokenGrid) -> Tensor:
    """Put flat tokens together to images; repeated bands are dropped.

    Args:
        tokens: (B, N, S * P * P), ordered as `patchify` orders them.
        grid: token geometry.

    Returns:
        (B, C, H, W), or (B, T, C, H, W) of a series.

    Raises:
        ShapeError: tokens do not match the grid.
    """
    if tokens.shape[1:] != (grid.num_tokens, grid.token_dim):
        raise ShapeError(f"tokens of shape {tuple(tokens.shape)} do not match {grid}.")
    B, P, S = len(tokens), grid.patch_size, grid.bands_per_token
    TG = grid.dates * grid.groups
    cubes = tokens.reshape(B, TG, grid.rows, grid.columns, S, P, P)
    cubes = cubes.permute(0, 1, 4, 2, 5, 3, 6)  # (B, T * G, S, Hp, P, Wp, P)
    padded = (*grid.image_shape[:-3], grid.groups * S, grid.height, grid.width)
    images = cubes.reshape(B, *padded)
    return images[..., : grid.num_bands, :, :]


def pixel_mask(is_masked: Tensor, grid: TokenGrid) -> Tensor:
    """Spread a token mask (B, N) over pixels: bool as the images, true where masked."""
    cubes = is_masked.bool().reshape(-1, *grid.token_shape)
    pixels = cubes.repeat_interleave(grid.bands_per_token, dim=-3)
    pixels = pixels.repeat_interleave(grid.patch_size, dim=-2)
    pixels = pixels.repeat_interleave(grid.patch_size, dim=-1)
    return pixels[..., : grid.num_bands, :, :]  # (B, C, H, W) or (B, T, C, H, W)


def token_means(images: Tensor, grid: TokenGrid) -> Tensor:
    """Set every value of a token to the token's mean.

    Args:
        images: (B, C, H, W), or (B, T, C, H, W) of series.
        grid: token geometry.

    Returns:
        Shaped as the images.
    """
    tokens = patchify(images, grid)
    return unpatchify(tokens.mean(dim=-1, keepdim=True).expand_as(tokens), grid)


class TokenMask(NamedTuple):
    """Which tokens of each image are visible.

    Attributes:
        visible: (B, K) indices of the visible tokens, in the order of their noise.
        is_masked: (B, N) float, 1 where a token is masked and 0 where it is visible.
        hidden: (B, N - K) indices of the masked tokens, in the order of their noise.
    """

    visible: Tensor
    is_masked: Tensor
    hidden: Tensor


def count_units(grid: TokenGrid, style: MaskStyle) -> int:
    """Return how many things are masked independently."""
    units = {
        "cube": grid.num_tokens,
        "tube": grid.dates * grid.positions,
        "spectral": grid.dates * grid.groups,
        "date": grid.dates,
    }
    if style not in units:
        raise ConfigError(
            f"mask style {style!r} is unknown: use {', '.join(MASK_STYLES)}."
        )
    if style == "date" and grid.dates == 1:
        raise ConfigError(
            "mask style 'date' hides whole dates, but there is one date only: use "
            "another style, or series of several dates."
        )
    return units[style]


def _tokens_of_units(units: Tensor, grid: TokenGrid, style: MaskStyle) -> Tensor:
    """Return the indices (B, K) of all tokens that belong to units (B, M)."""
    if style == "cube":
        return units
    if style == "tube":
        dates = units.div(grid.positions, rounding_mode="floor")
        units = units + dates * (grid.tokens_per_date - grid.positions)
        offsets = torch.arange(grid.groups, device=units.device) * grid.positions
        return (offsets[:, None] + units[:, None, :]).flatten(1)  # (B, G * M)
    # Tokens of a band group, and those of a date, follow each other.
    size = grid.positions if style == "spectral" else grid.tokens_per_date
    offsets = torch.arange(size, device=units.device)
    return (units[:, :, None] * size + offsets).flatten(1)  # (B, M * size)


def find_available(valid: Tensor | None, grid: TokenGrid) -> Tensor | None:
    """Find the tokens whose band group has any valid pixel in the image or date.

    Args:
        valid: bool (B, C, H, W) or (B, T, C, H, W), true where a pixel holds data; None
            if all do. It is read, so better not on a GPU.
        grid: token geometry.

    Returns:
        bool (B, N); None if all tokens of all images are available.
    """
    if valid is None:
        return None
    bands = valid.flatten(-2).any(dim=-1)  # (B, C) or (B, T, C)
    if bool(bands.all()):
        return None
    filled = F.pad(bands, (0, grid.padded_bands))  # (..., G * S)
    groups = filled.unflatten(-1, (grid.groups, grid.bands_per_token)).any(dim=-1)
    if bool(groups.all()):
        return None
    return groups.flatten(1).repeat_interleave(grid.positions, dim=1)  # (B, N)


def draw_mask(
    grid: TokenGrid,
    noise: Tensor,
    mask_ratio: float,
    style: MaskStyle = "cube",
    available: Tensor | None = None,
) -> TokenMask:
    """Keep the tokens of smallest noise visible and mask the others.

    Tokens that are not available are never visible. Each image of a batch shows the
    same number of tokens: as many as a complete image does, or as the image with the
    fewest has. An image that lacks band groups thus shows more of the others.

    Args:
        grid: token geometry.
        noise: uniform values, (B, N) for `cube`, (B, T * Hp * Wp) for `tube` (one
            spatial mask for all band groups of a date), (B, T * G) for `spectral`
            (whole band groups of a date), (B, T) for `date` (whole dates).
        mask_ratio: share of masked units, 0 <= ratio < 1; at least one stays visible.
        style: what is masked as a whole.
        available: bool (B, N), false for tokens without data; None if all have data.

    Raises:
        ConfigError: the ratio or the style is wrong.
        ShapeError: the noise does not fit the style, or `available` the tokens, or an
            image has no available token.

    Source: Hong et al. 2024, arXiv:2311.07113, 3D masking.
    """
    if not 0 <= mask_ratio < 1:
        raise ConfigError(f"mask_ratio is {mask_ratio}: use 0 <= mask_ratio < 1.")
    units = count_units(grid, style)
    if noise.ndim != 2 or noise.shape[1] != units:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)}: mask style {style!r} on this image "
            f"needs (batch, {units})."
        )
    # The published code truncates the float product; 0.9 of 576 leaves 57 visible.
    num_visible = max(1, int(units * (1 - mask_ratio)))
    if available is None:
        order = noise.argsort(dim=1)
        visible = _tokens_of_units(order[:, :num_visible], grid, style)
        hidden = _tokens_of_units(order[:, num_visible:], grid, style)
    else:
        most = num_visible * grid.num_tokens // units
        visible, hidden = _choose_available(grid, noise, most, style, available)
    is_masked = torch.ones(len(noise), grid.num_tokens, device=noise.device)
    return TokenMask(visible, is_masked.scatter(1, visible, 0.0), hidden)


def _choose_available(
    grid: TokenGrid, noise: Tensor, most: int, style: MaskStyle, available: Tensor
) -> tuple[Tensor, Tensor]:
    """Part tokens into the K <= most available ones of smallest noise, and the others.

    Tokens of one unit follow each other, so that units stay whole as far as they can.
    """
    if available.shape != (len(noise), grid.num_tokens):
        raise ShapeError(
            f"available has shape {tuple(available.shape)}: it needs one value for "
            f"each token, ({len(noise)}, {grid.num_tokens})."
        )
    least = int(available.sum(dim=1).min())
    if least == 0:
        raise ShapeError("an image has no available token: leave it out of the batch.")
    by_token = noise
    if style == "tube":
        by_date = noise.unflatten(1, (grid.dates, 1, -1))
        by_token = by_date.expand(-1, -1, grid.groups, -1).flatten(1)  # (B, N)
    elif style == "spectral":
        by_token = noise.repeat_interleave(grid.positions, dim=1)  # (B, N)
    elif style == "date":
        by_token = noise.repeat_interleave(grid.tokens_per_date, dim=1)  # (B, N)
    by_token = by_token.masked_fill(~move(available, noise), torch.inf)
    order = by_token.argsort(dim=1, stable=True)
    return order[:, : min(most, least)], order[:, min(most, least) :]


def draw_noise(
    grid: TokenGrid,
    batch_size: int,
    style: MaskStyle = "cube",
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Draw the uniform noise that `draw_mask` needs.

    It is drawn on the generator's device and then moved, so that a CPU generator gives
    the same masks on every device.

    Args:
        grid: token geometry.
        batch_size: images B.
        style: what is masked as a whole.
        generator: None draws from torch's own, on `device`.
        device: where the noise is wanted; None takes torch's default.

    Returns:
        (B, units of the style), 0..1.

    Raises:
        ConfigError: the style is unknown, or needs several dates.
    """
    source = generator.device if generator is not None else device
    shape = (batch_size, count_units(grid, style))
    return torch.rand(shape, generator=generator, device=source).to(device)


def group_wavelengths(
    wavelengths_nm: Wavelengths, bands_per_token: int
) -> tuple[float, ...]:
    """Return the mean wavelength in nm of each band group.

    The last group averages the bands that it really has, not the repeated ones.
    """
    values = [
        band[0] if isinstance(band, Sequence) else band for band in wavelengths_nm
    ]
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
        table: (G, ...), one row per band group.
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
    share = move(share.to(table.dtype), table).reshape(-1, *[1] * (table.ndim - 1))
    sorted_table = table[move(order, table)]
    low = sorted_table[move(below, table)]
    high = sorted_table[move(above, table)]
    return low * (1 - share) + high * share


def pick_tokens(x: Tensor, tokens: Tensor | None) -> Tensor:
    """Pick from all tokens (B, N, D) those of indices (B, K); None picks all."""
    if tokens is None:
        return x
    return x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


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
