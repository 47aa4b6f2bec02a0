"""Pretraining as a task: mask, rebuild, measure the error on held-out images."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spectralgpt.models.mae import MaskedAutoencoder, MaskedAutoencoderOutput
from spectralgpt.models.masking import MaskStyle, draw_noise
from spectralgpt.models.tokens import TokenGrid, patchify, unpatchify
from spectralgpt.tasks.reconstruction import ErrorSum, score_fillers
from spectralgpt.tasks.seeding import Gather, own_sums

__all__ = [
    "PretrainingTask",
    "draw_sample_noise",
    "pixel_mask",
    "score_reconstructions",
    "token_means",
]


def draw_sample_noise(grid: TokenGrid, seeds: Tensor, style: MaskStyle) -> Tensor:
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
    """Set every value of a token to the token's mean; shaped as the images."""
    tokens = patchify(images, grid)
    return unpatchify(tokens.mean(dim=-1, keepdim=True).expand_as(tokens), grid)


class PretrainingTask:
    """Masked-image modelling with both reconstruction targets.

    Batches hold `images` (B, C, H, W) float, `valid` (B, C, H, W) bool and `seed` (B,).
    Those of series have a date axis, (B, T, C, H, W), and `days` (B, T) since
    1970-01-01.

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
        self, batch: dict[str, Any], counts: Tensor | None = None
    ) -> MaskedAutoencoderOutput:
        """Mask by each sample's seed and rebuild; `counts` as of the model."""
        images = batch["images"]
        grid = self.model.encoder.grid_of(images)
        noise = draw_sample_noise(grid, batch["seed"], self.mask_style)
        output: MaskedAutoencoderOutput = self.model(
            images,
            self.mask_ratio,
            noise.to(images.device),
            wavelengths=_wavelengths(batch),
            valid=_valid_or_none(batch["valid"]),
            dates=batch.get("days"),
            mask_style=self.mask_style,
            spectral_scale=((self.reference_groups or grid.groups) / grid.groups) ** 2,
            counts=counts,
        )
        return output

    def sums(self, batch: dict[str, Any]) -> Tensor:
        """Count what the loss averages over, without running the model.

        Returns:
            (data sets, 3): micro-batches, masked tokens and sums over a spectrum, in
            the row of the batch's data set.
        """
        images = batch["images"]
        grid = self.model.encoder.grid_of(images)
        noise = draw_sample_noise(grid, batch["seed"], self.mask_style)
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

    def loss(
        self, batch: dict[str, Any], gather: Gather = own_sums
    ) -> dict[str, Tensor]:
        """Give the loss, both of its terms, and that of the batch's data set.

        Args:
            batch: a micro-batch.
            gather: gives the counts of its whole step. A term is then this batch's
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

    def _kind(self, batch: dict[str, Any]) -> int:
        """Return the number of a batch's data set."""
        return int(batch["dataset"][0]) if len(self.names) > 1 else 0

    def _name_of(self, batch: dict[str, Any]) -> str | None:
        """Return the name of a batch's data set, None if there is only one."""
        return self.names[self._kind(batch)] if len(self.names) > 1 else None

    @torch.no_grad()
    def validate(self, batch: dict[str, Any]) -> None:
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


def score_reconstructions(
    task: PretrainingTask, batches: Iterable[dict[str, Any]]
) -> dict[str, float]:
    """Score a model and simple fillers on the same masked images.

    Args:
        task: holds the model, on the CPU, and how images are masked.
        batches: held-out batches.

    Returns:
        Mean squared errors over masked pixels; see `score_fillers`. A model with
        normalised targets is told each token's mean, and so is compared with that
        alone: `model`, `token_mean` and `images`.
    """

    def rebuilt() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for batch in batches:
            with torch.no_grad():
                output = task.forward(batch)
            masked = pixel_mask(output.mask, output.grid)
            guess = task.model.reconstruct(output)
            valid = batch["valid"]
            # Fillers know no dates: each date of a series is an image to them.
            yield (
                batch["images"].flatten(0, -4),
                guess.flatten(0, -4),
                (~masked & valid).flatten(0, -4),
                (masked & valid).flatten(0, -4),
            )

    if task.model.normalize_targets:
        return _score_against_token_means(task, batches)
    return score_fillers(rebuilt())


def _score_against_token_means(
    task: PretrainingTask, batches: Iterable[dict[str, Any]]
) -> dict[str, float]:
    """Score a model that is told each token's mean and variance against that mean.

    Fillers are not told, so comparing them would flatter the model.
    """
    sums = {"model": ErrorSum(), "token_mean": ErrorSum()}
    count = 0
    for batch in batches:
        with torch.no_grad():
            output = task.forward(batch)
        images, grid = batch["images"], output.grid
        counted = pixel_mask(output.mask, grid) & batch["valid"]
        sums["model"].add(task.model.reconstruct(output), images, counted)
        sums["token_mean"].add(token_means(images, grid), images, counted)
        count += len(images)
    return {name: found.mean for name, found in sums.items()} | {"images": float(count)}


def _valid_or_none(valid: Tensor) -> Tensor | None:
    # Without invalid pixels the model takes its shorter path, with the same result.
    return None if bool(valid.all()) else valid


def _wavelengths(batch: dict[str, Any]) -> Tensor | None:
    if "wavelengths_nm" not in batch:
        return None
    wavelengths: Tensor = batch["wavelengths_nm"][0]
    return wavelengths
