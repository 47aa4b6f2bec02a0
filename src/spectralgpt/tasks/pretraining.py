"""Pretraining as a task: mask, rebuild, measure the error on held-out images.

The model is held against what masked pixels can be rebuilt from without learning:
fillers take images and the mask that the model had, and rebuild the masked pixels from
the visible ones alone. All work in the images' scaled units.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.models.mae import MaskedAutoencoder, MaskedAutoencoderOutput
from spectralgpt.models.tokens import (
    MaskStyle,
    TokenGrid,
    draw_noise,
    patchify,
    unpatchify,
)
from spectralgpt.tasks import Batch, Gather, own_sums

# Half-widths of the tent kernels that are tried: pixels, and bands along the spectrum.
# The best one is chosen on the held-out images themselves: that favours the baseline.
_WIDTHS = tuple((pixels, bands) for pixels in (8, 16, 32) for bands in (1, 4, 12))


def _draw_sample_noise(grid: TokenGrid, seeds: Tensor, style: MaskStyle) -> Tensor:
    """Draw the masking noise of each image from its own seed.

    A mask thus depends on the sample alone: not on the batch it is in, the process, the
    device, or what was drawn before. The draw is on the CPU for the same reason.

    Args:
        grid: token geometry.
        seeds: (B,) int64.
        style: what is masked as a whole.

    Returns:
        (B, units of the style), uniform, on the CPU.
    """
    rows = [
        draw_noise(grid, 1, style, torch.Generator().manual_seed(int(seed)))
        for seed in seeds
    ]
    return torch.cat(rows)


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
        """Add a batch.

        Args:
            rebuilt: (B, C, H, W), or (B, T, C, H, W) of series.
            images: of the same shape.
            counted: bool of the same shape, true at the pixels to add.
        """
        difference = (rebuilt.float() - images)[counted].double()
        self.squared += float((difference**2).sum())
        self.pixels += int(counted.sum())

    @property
    def mean(self) -> float:
        """Mean squared error; not a number if no pixel was counted."""
        return self.squared / self.pixels if self.pixels else float("nan")


class PretrainingTask:
    """Masked-image modelling with both reconstruction targets.

    Batches hold `images` (B, C, H, W) float, `valid` (B, C, H, W) bool and `seed` (B,),
    and where bands are not the model's own, `bands` (B, C, 3), alike in a batch. Those
    of series have a date axis, (B, T, C, H, W), and `days` (B, T) since 1970-01-01.

    Args:
        model: the masked autoencoder.
        mask_ratio: share of masked tokens, 0..1.
        mask_style: cube, tube or spectral.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        mask_ratio: float = 0.9,
        mask_style: MaskStyle = "cube",
        names: Sequence[str] = (),
        reference_groups: int | None = None,
    ) -> None:
        self.model = model
        self.mask_ratio = mask_ratio
        self.mask_style: MaskStyle = mask_style
        self.names = tuple(names)
        self.reference_groups = reference_groups
        self._errors: dict[str, ErrorSum] = defaultdict(ErrorSum)

    def forward(
        self, batch: Batch, counts: Tensor | None = None
    ) -> MaskedAutoencoderOutput:
        """Mask by each sample's seed and rebuild.

        Args:
            batch: see `PretrainingTask`.
            counts: (2,), see `MaskedAutoencoder.forward`.
        """
        images = batch["images"]
        grid = self.model.encoder.grid_of(images)
        noise = _draw_sample_noise(grid, batch["seed"], self.mask_style)
        output: MaskedAutoencoderOutput = self.model(
            images,
            self.mask_ratio,
            noise.to(images.device),
            wavelengths=batch["bands"][0] if "bands" in batch else None,
            valid=_valid_or_none(batch["valid"]),
            dates=batch.get("days"),
            mask_style=self.mask_style,
            spectral_scale=((self.reference_groups or grid.groups) / grid.groups) ** 2,
            counts=counts,
        )
        return output

    def sums(self, batch: Batch) -> Tensor:
        """Count what the loss averages over, without running the model.

        Returns:
            (data sets, 3): micro-batches, masked tokens and sums over a spectrum, in
            the row of the batch's data set.
        """
        images = batch["images"]
        grid = self.model.encoder.grid_of(images)
        noise = _draw_sample_noise(grid, batch["seed"], self.mask_style)
        counts = self.model.count_targets(
            images,
            self.mask_ratio,
            noise.to(images.device),
            _valid_or_none(batch["valid"]),
            self.mask_style,
        )
        sums = counts.new_zeros(max(1, len(self.names)), 1 + len(counts))
        sums[self._kind(batch)] = torch.cat([counts.new_ones(1), counts])
        return sums

    def loss(self, batch: Batch, gather: Gather = own_sums) -> dict[str, Tensor]:
        """Give the loss, both of its terms, and that of the batch's data set, all 0-d.

        Args:
            batch: a micro-batch.
            gather: gives the `sums` of its whole step. A term is then this batch's
                share of the step's, times the number of micro-batches of its data set:
                their mean is the term of all of them as one batch.
        """
        counts = None
        if gather is not own_sums:
            parts, *found = gather(self.sums(batch))[self._kind(batch)]
            counts = torch.stack(found).clamp(min=1) / parts
        output = self.forward(batch, counts)
        terms = {
            "loss": output.loss,
            "token_loss": output.token_loss,
            "spectral_loss": output.spectral_loss,
        }
        name = self._name_of(batch)
        return {**terms, f"loss_{name}": output.loss} if name else terms

    def _kind(self, batch: Batch) -> int:
        """Return the number of a batch's data set."""
        return int(batch["dataset"][0]) if len(self.names) > 1 else 0

    def _name_of(self, batch: Batch) -> str | None:
        """Return the name of a batch's data set, None if there is only one."""
        return self.names[self._kind(batch)] if len(self.names) > 1 else None

    @torch.no_grad()
    def validate(self, batch: Batch) -> None:
        """Add the squared error of masked, valid pixels of one held-out batch."""
        images = batch["images"]
        output = self.forward(batch)
        rebuilt = self.model.reconstruct(output).float()
        counted = pixel_mask(output.mask, output.grid) & batch["valid"]
        self._errors["masked_error"].add(rebuilt, images, counted)
        name = self._name_of(batch)
        if name:
            self._errors[f"masked_error_{name}"].add(rebuilt, images, counted)

    def metrics(self) -> dict[str, float]:
        """Give the mean squared error of masked pixels, in scaled units, and reset."""
        errors = {name: found.mean for name, found in self._errors.items()}
        self._errors.clear()
        return errors or {"masked_error": ErrorSum().mean}


def _valid_or_none(valid: Tensor) -> Tensor | None:
    # Without invalid pixels the model takes its shorter path, with the same result.
    return None if bool(valid.all()) else valid


def score_reconstructions(
    task: PretrainingTask, batches: Iterable[Batch]
) -> dict[str, float]:
    """Score a model and simple fillers on the same masked images.

    Args:
        task: holds the model, on the CPU, and how images are masked.
        batches: held-out batches.

    Returns:
        Mean squared errors over masked pixels: `model`, `band_mean`, `linear_space`,
        `space_spectrum` (the best width), and `images`, how many there were. A model
        with normalised targets is told each token's mean, and so is compared with that
        alone, `token_mean`: fillers are not told, and would flatter it.
    """
    sums: dict[str, ErrorSum] = defaultdict(ErrorSum)
    count = 0
    for batch in batches:
        with torch.no_grad():
            output = task.forward(batch)
        images, valid = batch["images"], batch["valid"]
        masked = pixel_mask(output.mask, output.grid)
        rebuilt = task.model.reconstruct(output)
        counted, visible = masked & valid, ~masked & valid
        if task.model.normalize_targets:
            guesses = {"token_mean": token_means(images, output.grid)}
        else:
            # Fillers know no dates: each date of a series is an image to them.
            images, rebuilt, counted, visible = (
                each.flatten(0, -4) for each in (images, rebuilt, counted, visible)
            )
            guesses = _fill(images, visible)
        count += len(images)
        for name, guess in {"model": rebuilt, **guesses}.items():
            sums[name].add(guess, images, counted)
    errors = {name: found.mean for name, found in sums.items()}
    tried = {n: e for n, e in errors.items() if n.startswith("space_spectrum")}
    chosen = {n: e for n, e in errors.items() if n not in tried}
    if not task.model.normalize_targets:
        chosen["space_spectrum"] = min(tried.values(), default=float("nan"))
    return {**chosen, "images": float(count)}


def _fill(images: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Rebuild images (B, C, H, W) from their visible pixels by each filler."""
    return {
        "band_mean": band_means(images, visible).expand_as(images),
        "linear_space": _fill_linearly_in_space(images, visible),
    } | {
        f"space_spectrum {pixels} px {bands} bands": _fill_by_space_and_spectrum(
            images, visible, pixels, bands
        )
        for pixels, bands in _WIDTHS
    }


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


def _fill_linearly_in_space(images: Tensor, visible: Tensor) -> Tensor:
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


def _fill_by_space_and_spectrum(
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
