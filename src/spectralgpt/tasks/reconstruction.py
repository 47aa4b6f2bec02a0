"""What masked pixels can be rebuilt from without learning, to hold the model against.

Each filler takes images and the mask the model had, and rebuilds the masked pixels from
the visible ones alone. All work in the images' scaled units.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "INTERPOLATION_WIDTHS",
    "ErrorSum",
    "band_means",
    "fill_by_space_and_spectrum",
    "fill_linearly_in_space",
    "score_fillers",
]

# Half-widths of the tent kernels that are tried: pixels, and bands along the spectrum.
# The best one is chosen on the held-out images themselves: that favours the baseline.
INTERPOLATION_WIDTHS = tuple(
    (pixels, bands) for pixels in (8, 16, 32) for bands in (1, 4, 12)
)

Filler = Callable[[Tensor, Tensor], Tensor]


@dataclass
class ErrorSum:
    """Squared error over masked pixels, summed up over batches.

    Args:
        squared: sum of squared differences.
        pixels: pixels counted.
    """

    squared: float = 0.0
    pixels: int = 0

    def add(self, rebuilt: Tensor, images: Tensor, counted: Tensor) -> None:
        """Add the pixels (B, C, H, W) where `counted` is true."""
        difference = (rebuilt.float() - images)[counted].double()
        self.squared += float((difference**2).sum())
        self.pixels += int(counted.sum())

    @property
    def mean(self) -> float:
        """Mean squared error; not a number if no pixel was counted."""
        return self.squared / self.pixels if self.pixels else float("nan")


def band_means(images: Tensor, visible: Tensor) -> Tensor:
    """Fill each band with the mean of its own visible pixels.

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


def fill_linearly_in_space(images: Tensor, visible: Tensor) -> Tensor:
    """Interpolate each band linearly over the triangles of its own visible pixels.

    Beyond their hull the nearest visible pixel is taken; a band without visible pixels
    takes `band_means`.

    Args:
        images: (B, C, H, W).
        visible: bool (B, C, H, W).
    """
    filled = band_means(images, visible).expand_as(images).clone()
    for image, seen, target in zip(images, visible, filled, strict=True):
        for group in _bands_of_equal_mask(seen):
            rows, columns = torch.nonzero(seen[group[0]], as_tuple=True)
            if len(rows):
                values = image[group][:, rows, columns].T.numpy()  # (K, bands)
                target[group] = _griddata(
                    rows.numpy(), columns.numpy(), values, image.shape[1:]
                )
    return filled


def _bands_of_equal_mask(seen: Tensor) -> list[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for band, mask in enumerate(seen):
        groups.setdefault(mask.numpy().tobytes(), []).append(band)
    return list(groups.values())


def _griddata(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, size: torch.Size
) -> Tensor:
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
    from scipy.spatial import QhullError

    points = np.stack([rows, columns], axis=1)
    where = np.moveaxis(np.indices(tuple(size)), 0, -1)  # (H, W, 2)
    filled = NearestNDInterpolator(points, values)(where)  # (H, W, bands)
    # Pixels on one line span no triangle; the nearest one is all there is.
    with contextlib.suppress(QhullError):
        linear = LinearNDInterpolator(points, values)(where)
        filled = np.where(np.isnan(linear), filled, linear)
    return torch.from_numpy(filled.astype(np.float32)).permute(2, 0, 1)


def fill_by_space_and_spectrum(
    images: Tensor, visible: Tensor, pixels: int, bands: int
) -> Tensor:
    """Interpolate along rows, columns and the spectrum at once.

    Departures from the band's visible mean are averaged with tent weights (those of
    linear interpolation) that fall to zero `pixels` away in space and `bands` away in
    the spectrum. Where nothing is that near, the tent is widened twofold in space until
    something is.

    Args:
        images: (B, C, H, W), bands ordered by wavelength.
        visible: bool (B, C, H, W).
        pixels: half-width of the tent in space, px.
        bands: half-width of the tent in the spectrum, bands; 1 uses the own band only.
    """
    means = band_means(images, visible)
    weights = visible.float()
    departures = (images - means) * weights
    filled = torch.zeros_like(images)
    known = torch.zeros_like(visible)
    width = pixels
    while not bool(known.all()) and width < 4 * max(images.shape[2:]):
        count = _tent(weights, width, bands)
        found = count > 1e-6
        value = _tent(departures, width, bands) / count.clamp(min=1e-6)
        filled = torch.where(found & ~known, value, filled)
        known |= found
        width *= 2
    return means + filled


def _tent(values: Tensor, pixels: int, bands: int) -> Tensor:
    """Convolve (B, C, H, W) with a separable tent in bands, rows and columns."""
    result = values[:, None]  # (B, 1, C, H, W)
    for axis, half_width in enumerate((bands, pixels, pixels)):
        offsets = torch.arange(1 - half_width, half_width, device=values.device)
        kernel = 1 - offsets.abs() / half_width
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[axis + 2], padding[axis] = len(kernel), half_width - 1
        result = F.conv3d(result, kernel.reshape(shape), padding=tuple(padding))
    return result[:, 0]


def score_fillers(
    batches: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]],
) -> dict[str, float]:
    """Score the model's rebuilt images and all fillers on the same masks.

    Args:
        batches: on the CPU, (images, rebuilt by the model, visible, counted), each
            (B, C, H, W); `counted` are the masked, valid pixels.

    Returns:
        Mean squared error over masked pixels: `model`, `band_mean`, `linear_space`,
        `space_spectrum` (the best width), and `images`, how many there were.
    """
    sums: dict[str, ErrorSum] = {}
    count = 0
    for images, rebuilt, visible, counted in batches:
        count += len(images)
        means = band_means(images, visible).expand_as(images)
        guesses = {
            "model": rebuilt,
            "band_mean": means,
            "linear_space": fill_linearly_in_space(images, visible),
        }
        for pixels, bands in INTERPOLATION_WIDTHS:
            guesses[f"space_spectrum {pixels} px {bands} bands"] = (
                fill_by_space_and_spectrum(images, visible, pixels, bands)
            )
        for name, guess in guesses.items():
            sums.setdefault(name, ErrorSum()).add(guess, images, counted)
    return {**_pick_best({n: s.mean for n, s in sums.items()}), "images": float(count)}


def _pick_best(errors: dict[str, float]) -> dict[str, float]:
    tried = {n: e for n, e in errors.items() if n.startswith("space_spectrum")}
    chosen = {n: e for n, e in errors.items() if n not in tried}
    return {**chosen, "space_spectrum": min(tried.values(), default=float("nan"))}
