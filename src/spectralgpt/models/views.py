"""Views of images: changed in ways that leave what they show the same.

They are right for any number of bands: nothing here knows a colour. All chance comes
from uniform noise of each image, so that its views depend on no other image.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.config import check_range
from spectralgpt.errors import ShapeError, require
from spectralgpt.models.cpu import in_full_precision, move

# Source: crops of Inception, which all contrastive methods take.
_LOG_RATIO = math.log(4 / 3)
# Source: Chen et al. 2020, arXiv:2002.05709, appendix A; px.
_BLUR_PX = (0.1, 2.0)
_BLUR_SIDE = 9
_TURNS = 8
# Crop 4, turn 1, brightness and contrast 3, blur 2, strength of noise 1.
_CHOICES = 11


@dataclass(frozen=True)
class ViewConfig:
    """How far views are changed.

    A view is a crop, resized to the image, turned and flipped by any of the eight ways;
    then made brighter or darker, blurred and noisy. Strengths are shares, 0..1.

    Args:
        min_scale: least share of the image's area that is in a crop, above 0.
        brightness: largest change of the values of all bands together.
        contrast: largest change of the distances to the band's mean.
        band_brightness: largest change of the values of each band by itself.
        jitter_share: share of the views whose brightness and contrast change.
        blur_share: share of the first and of the second views that are blurred.
        noise_std: largest standard deviation of the noise of pixels, in scaled units.
    """

    min_scale: float = 0.08
    brightness: float = 0.4
    contrast: float = 0.4
    band_brightness: float = 0.1
    jitter_share: float = 0.8
    blur_share: tuple[float, float] = (0.5, 0.5)
    noise_std: float = 0.01

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("above 0 and at most 1", self, "min_scale", section="views.")
        names = ("brightness", "contrast", "band_brightness", "jitter_share")
        within, blur = "at least 0 and at most 1", dict(enumerate(self.blur_share))
        check_range(within, self, *names, section="views.")
        check_range(within, blur, section="views.blur_share ")
        check_range("at least 0", self, "noise_std", section="views.")


def view_noise_size(images: Tensor, config: ViewConfig) -> int:
    """Return how many uniform values the two views of an image take."""
    bands, rows, columns = images.shape[-3:]
    pixels = bands * rows * columns if config.noise_std else 0
    return 2 * (_CHOICES + bands + pixels)


@torch.no_grad()
def make_views(
    images: Tensor, noise: Tensor, config: ViewConfig, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Make two views of each image.

    Args:
        images: (B, C, H, W), scaled.
        noise: (B, M) uniform values, M as `view_noise_size` says; on the processor.
        config: how far they are changed.
        valid: bool, shaped as the images; others take the mean of their band, so that
            no fill value is seen.

    Returns:
        Two views of all images, each shaped as they are, float32.

    Raises:
        ShapeError: images or noise have another shape.
    """
    if images.ndim != 4:
        raise ShapeError(
            f"images have shape {tuple(images.shape)}: views are made of (batch, "
            "bands, rows, columns)."
        )
    wanted = (len(images), view_noise_size(images, config))
    if noise.shape != wanted:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)}: views of these images need "
            f"{wanted}."
        )
    with in_full_precision(images.device):
        x = images.float()
        if valid is not None:
            x = torch.where(valid, x, band_means(x, valid))
        first, second = (
            _make_view(x, own, config, share)
            for own, share in zip(noise.chunk(2, dim=1), config.blur_share, strict=True)
        )
    return first, second


def _make_view(
    images: Tensor, noise: Tensor, config: ViewConfig, blur_share: float
) -> Tensor:
    bands = images.shape[1]
    parts = [4, 1, 3, 2, 1, bands, noise.shape[1] - _CHOICES - bands]
    blur = noise.split(parts, dim=1)[3]
    moved = move(noise, images)
    crop, turn, jitter, _, strength, by_band, pixels = moved.split(parts, dim=1)
    x = _cut_and_turn(images, crop, turn[:, 0], config.min_scale)
    is_changed = jitter[:, :1] < config.jitter_share
    brightness = _factor(jitter[:, 1:2], config.brightness, is_changed)
    brightness = brightness * _factor(by_band, config.band_brightness, is_changed)
    x = x * brightness[..., None, None]  # (B, C, H, W)
    mean = x.mean(dim=(2, 3), keepdim=True)
    contrast = _factor(jitter[:, 2:], config.contrast, is_changed)
    x = mean + (x - mean) * contrast[..., None, None]
    x = _blur(x, blur[:, 1], blur[:, 0] < blur_share)
    if pixels.shape[1]:
        # Uniform noise of deviation 1 spans the root of 12.
        spread = config.noise_std * math.sqrt(12) * strength[..., None, None]
        x = x + spread * (pixels.reshape(x.shape) - 0.5)
    return x


def _factor(noise: Tensor, strength: float, is_changed: Tensor) -> Tensor:
    """Return factors of 1 - strength to 1 + strength; 1 where nothing is changed."""
    return torch.where(is_changed, 1 + strength * (2 * noise - 1), 1.0)


def _cut_and_turn(
    images: Tensor, crop: Tensor, turn: Tensor, min_scale: float
) -> Tensor:
    """Resize a part of each image to the whole, in one of eight orientations.

    By uniform values (B, 4) of area, side ratio, row and column, and (B,) of turns.
    """
    area = min_scale + (1 - min_scale) * crop[:, 0]
    ratio = torch.exp(_LOG_RATIO * (2 * crop[:, 1] - 1))
    height = (area / ratio).sqrt().clamp(max=1)
    width = (area * ratio).sqrt().clamp(max=1)
    # Places are -1 to 1 over the image.
    middle_y = (1 - height) * (2 * crop[:, 2] - 1)
    middle_x = (1 - width) * (2 * crop[:, 3] - 1)
    number = (turn * _TURNS).long().clamp(max=_TURNS - 1)
    width = torch.where(number % 4 > 1, -width, width)
    height = torch.where(number > 3, -height, height)
    turned = torch.diag_embed(torch.stack([width, height], dim=1))  # (B, 2, 2)
    is_swapped = (number % 2 == 1)[:, None, None]
    turned = torch.where(is_swapped, turned.flip(2), turned)
    middle = torch.stack([middle_x, middle_y], dim=1)[..., None]
    matrix = torch.cat([turned, middle], dim=2)  # (B, 2, 3)
    places = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def _blur(images: Tensor, noise: Tensor, is_blurred: Tensor) -> Tensor:
    """Blur the images (B, C, H, W) that are chosen, each by an own width in px.

    By noise (B,) and a choice (B,) on the processor: no GPU is waited for.
    """
    if min(images.shape[2:]) <= _BLUR_SIDE // 2 or not bool(is_blurred.any()):
        return images
    require("kornia")
    from kornia.filters import filter2d_separable, get_gaussian_kernel1d

    least, most = _BLUR_PX
    width = least + (most - least) * noise[is_blurred, None]
    kernel = get_gaussian_kernel1d(_BLUR_SIDE, width)
    kernel, chosen = (
        move(each, images) for each in (kernel, is_blurred.nonzero()[:, 0])
    )
    blurred = filter2d_separable(images[chosen], kernel, kernel)
    return images.index_copy(0, chosen, blurred)


def band_means(images: Tensor, visible: Tensor) -> Tensor:
    """Return the mean of each band's own visible pixels.

    A band of which nothing is visible takes the mean over all bands.

    Args:
        images: (B, C, H, W).
        visible: bool (B, C, H, W), true where a pixel may be used.

    Returns:
        (B, C, 1, 1).
    """
    weights = visible.float()
    count = weights.sum(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    total = (images * weights).sum(dim=(2, 3), keepdim=True)
    overall = total.sum(dim=1, keepdim=True) / count.sum(dim=1, keepdim=True).clamp(
        min=1
    )
    return torch.where(count > 0, total / count.clamp(min=1), overall)
