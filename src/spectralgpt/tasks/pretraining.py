"""Pretraining as a task: mask, rebuild, measure the error on held-out images.

The model is held against what masked pixels can be rebuilt from without learning:
fillers take images and the mask that the model had, and rebuild the masked pixels from
the visible ones alone. All work in the images' scaled units.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spectralgpt.errors import ConfigError
from spectralgpt.models.cpu import move
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.tokens import MaskStyle
from spectralgpt.models.views import band_means
from spectralgpt.tasks import Batch, Gather, mirrors, own_sums

Filler = Callable[[Tensor, Tensor], Tensor]
"""Takes images (B, C, H, W) and which pixels are visible, gives images."""

# Half-widths of the tent kernels that are tried: pixels, and bands along the spectrum.
# The best one is chosen on the held-out images themselves: that favours the baseline.
_WIDTHS = tuple((pixels, bands) for pixels in (8, 16, 32) for bands in (1, 4, 12))


def _draw_sample_noise(size: int, seeds: Tensor) -> Tensor:
    """Draw the noise of each image from its own seed.

    What is hidden thus depends on the sample alone: not on the batch it is in, the
    process, the device, or what was drawn before. The draw is on the CPU for the same
    reason.

    Args:
        size: values an image.
        seeds: (B,) int64.

    Returns:
        (B, size), uniform, on the CPU.
    """
    rows = [
        torch.rand(1, size, generator=torch.Generator().manual_seed(int(seed)))
        for seed in seeds
    ]
    return torch.cat(rows)


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
    """Learning from images without labels, by any objective.

    Batches hold `images` (B, C, H, W) float, `valid` (B, C, H, W) bool and `seed` (B,),
    and where bands are not the model's own, `bands` (B, C, 3), alike in a batch. Those
    of series have a date axis, (B, T, C, H, W), and `days` (B, T) since 1970-01-01.

    Args:
        model: the objective.
        mask_ratio: share of what is hidden, 0..1; None takes the objective's own.
        mask_style: cube, tube or spectral, of our own masked autoencoder.
        names: of the data sets.
        reference_groups: band groups that the spectral term is weighed for.
    """

    def __init__(
        self,
        model: Objective,
        mask_ratio: float | None = None,
        mask_style: MaskStyle = "cube",
        names: Sequence[str] = (),
        reference_groups: int | None = None,
    ) -> None:
        self.model = model
        self.mask_ratio = mask_ratio
        self.names = tuple(names)
        self.reference_groups = reference_groups
        self._errors: dict[str, ErrorSum] = defaultdict(ErrorSum)
        self._losses: list[tuple[float, int]] = []
        # Only our own hides in several styles.
        is_ours = isinstance(model, MaskedAutoencoder)
        self._style: dict[str, Any] = {"mask_style": mask_style} if is_ours else {}

    def forward(
        self, batch: Batch, counts: Tensor | None = None, noise: Tensor | None = None
    ) -> ObjectiveOutput:
        """Hide by each sample's seed, and measure the error.

        Args:
            batch: see `PretrainingTask`.
            counts: what the loss averages over, see `Objective.count_targets`.
            noise: what is hidden by, in place of the seeds.
        """
        images = batch["images"]
        settings = dict(self._style)
        if isinstance(self.model, MaskedAutoencoder):
            groups = self.model.encoder.grid_of(images).groups
            wanted = self.reference_groups or groups
            settings["spectral_scale"] = (wanted / groups) ** 2
            # The others take their own bands only, and get no others.
            settings["wavelengths"] = batch["bands"][0] if "bands" in batch else None
        output: ObjectiveOutput = self.model(
            images,
            self.mask_ratio,
            self._noise(batch) if noise is None else noise,
            valid=self._valid(batch),
            dates=batch.get("days"),
            counts=counts,
            **settings,
        )
        return output

    def rebuild(self, batch: Batch, flips: bool = False) -> tuple[Tensor, Tensor]:
        """Hide by each sample's seed, and rebuild, by an objective that `rebuilds`.

        Args:
            batch: see `PretrainingTask`.
            flips: average over the images and their three mirror images, of which the
                same is hidden.

        Returns:
            What was rebuilt, and where it was hidden, shaped as the images.

        Raises:
            ConfigError: what is hidden cannot be mirrored.
        """
        noise = self._noise(batch)
        rebuilt, hidden = self._rebuild(batch, noise)
        if not flips:
            return rebuilt, hidden
        patch = self.model.encoder.patch_size
        size = [side // patch for side in batch["images"].shape[-2:]]
        has_places = noise.shape[1] % math.prod(size) == 0
        views = [rebuilt]
        for axes in list(mirrors(flips))[1:]:
            seen = {name: batch[name].flip(axes) for name in ("images", "valid")}
            drawn = noise.unflatten(1, (-1, *size)).flip(axes) if has_places else noise
            made, unseen = self._rebuild(batch | seen, drawn.flatten(1))
            if not torch.equal(unseen.flip(axes), hidden):
                raise ConfigError(
                    "what this objective hides of an image cannot be mirrored with it: "
                    "leave out --test-flips."
                )
            views.append(made.flip(axes))
        return torch.stack(views).mean(dim=0), hidden

    def _rebuild(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Hide by noise, and rebuild; see `rebuild`."""
        with torch.no_grad():
            output = self.forward(batch, noise=noise)
        rebuilt = self.model.reconstruct(output)
        hidden = self.model.hidden_pixels(output)
        assert rebuilt is not None, "see `Objective.rebuilds`"
        assert hidden is not None, "what is rebuilt was hidden"
        return rebuilt, hidden

    def _noise(self, batch: Batch) -> Tensor:
        images = batch["images"]
        size = self.model.noise_size(images, **self._style)
        return _draw_sample_noise(size, batch["seed"])

    def _valid(self, batch: Batch) -> Tensor | None:
        """Return where pixels count, None if all do.

        The model then takes its shorter path, with the same result. Our own reads which
        bands there are, and moves what it needs of the rest.
        """
        valid: Tensor = batch["valid"]
        if bool(valid.all()):
            return None
        if isinstance(self.model, MaskedAutoencoder):
            return valid
        return move(valid, batch["images"])

    def sums(self, batch: Batch) -> Tensor:
        """Count what the loss averages over, without running the model.

        Returns:
            (data sets, 1 + M): micro-batches, and the M counts of the objective, in the
            row of the batch's data set.
        """
        counts = self.model.count_targets(
            batch["images"],
            self.mask_ratio,
            self._noise(batch),
            self._valid(batch),
            **self._style,
        )
        sums = counts.new_zeros(max(1, len(self.names)), 1 + len(counts))
        sums[self._kind(batch)] = torch.cat([counts.new_ones(1), counts])
        return sums

    def loss(self, batch: Batch, gather: Gather = own_sums) -> dict[str, Tensor]:
        """Give the loss, its terms, and that of the batch's data set, all 0-d.

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
        terms = {"loss": output.loss, **output.terms}
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
        """Add one held-out batch.

        What counts is the squared error of hidden, valid pixels, or the loss where
        nothing is rebuilt.
        """
        images = batch["images"]
        output = self.forward(batch)
        rebuilt = self.model.reconstruct(output)
        hidden = self.model.hidden_pixels(output)
        if rebuilt is None or hidden is None:
            self._losses.append((float(output.loss), len(images)))
            return
        counted = hidden & move(batch["valid"], hidden)
        self._errors["masked_error"].add(rebuilt.float(), images, counted)
        name = self._name_of(batch)
        if name:
            self._errors[f"masked_error_{name}"].add(rebuilt.float(), images, counted)

    def metrics(self) -> dict[str, float]:
        """Give the mean squared error of masked pixels, in scaled units, and reset.

        Of an objective that rebuilds nothing it is the mean loss of its images.
        """
        if self._losses:
            losses, sizes = zip(*self._losses, strict=True)
            found = {"loss": float(np.average(losses, weights=sizes))}
            self._losses.clear()
            return found
        errors = {name: found.mean for name, found in self._errors.items()}
        self._errors.clear()
        return errors or {"masked_error": ErrorSum().mean}


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
        alone, `token_mean`: fillers are not told, and would flatter it. Nothing of an
        objective that rebuilds nothing.
    """
    if not task.model.rebuilds:
        return {}
    sums: dict[str, ErrorSum] = defaultdict(ErrorSum)
    count = 0
    is_told = False
    for batch in batches:
        images, valid = batch["images"], batch["valid"]
        rebuilt, masked = task.rebuild(batch)
        counted, visible = masked & valid, ~masked & valid
        means = task.model.token_means(images)
        is_told = means is not None
        if means is not None:
            guesses = {"token_mean": means}
        else:
            # Fillers know no dates: each date of a series is an image to them.
            images, rebuilt, counted, visible = (
                each.flatten(0, -4) for each in (images, rebuilt, counted, visible)
            )
            guesses = {name: fill(images, visible) for name, fill in fillers().items()}
        count += len(images)
        for name, guess in {"model": rebuilt, **guesses}.items():
            sums[name].add(guess, images, counted)
    errors = {name: found.mean for name, found in sums.items()}
    tried = {n: e for n, e in errors.items() if n.startswith("space_spectrum")}
    chosen = {n: e for n, e in errors.items() if n not in tried}
    if not is_told:
        chosen["space_spectrum"] = min(tried.values(), default=float("nan"))
    return {**chosen, "images": float(count)}


def fillers() -> dict[str, Filler]:
    """Return what rebuilds images (B, C, H, W) from their visible pixels, by name.

    That over triangles, `linear_space`, needs scipy, and is left out without it.
    """
    found: dict[str, Filler] = {"band_mean": _fill_by_means}
    if find_spec("scipy"):
        found["linear_space"] = _fill_linearly_in_space
    return found | {
        f"space_spectrum {pixels} px {bands} bands": partial(
            _fill_by_space_and_spectrum, pixels=pixels, bands=bands
        )
        for pixels, bands in _WIDTHS
    }


def _fill_by_means(images: Tensor, visible: Tensor) -> Tensor:
    return band_means(images, visible).expand_as(images)


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
