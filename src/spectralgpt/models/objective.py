"""What every way of learning from images without labels gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.config import changed_settings
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.weights import Pretrained, load_weights


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one pass through an objective gives.

    Attributes:
        loss: 0-d; alone of all it has gradients.
        terms: 0-d values to log beside the loss, by name.
        prediction: what the decoder gives, in the objective's own order; None if there
            is no decoder.
        mask: float, 1 where something was hidden; None if nothing is.
        latent: the encoder's output for what it saw.
        rebuilt: the prediction in the scale of the images, which `reconstruct` makes
            images of; None where nothing is rebuilt, or in training.
        hidden: bool shaped as the images, true where they were hidden; likewise.
    """

    loss: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    prediction: Tensor | None = None
    mask: Tensor | None = None
    latent: Tensor | None = None
    rebuilt: Tensor | None = None
    hidden: Tensor | None = None


class Objective(Pretrained, nn.Module, ABC):
    """A way of learning from images without labels.

    It takes scaled images with their bands and gives a loss, what to log, and an
    encoder that every task takes. All its chance comes from `noise`, uniform values of
    each image, so that a step depends on nothing before it but weights and buffers.

    Constructor arguments are the settings. These mean the same in all that have them:
    `image_size` (side in px of the images that it is trained on), `num_bands` (C),
    `patch_size` (side P of a patch, px), `embed_dim`, `depth` and `num_heads` (width,
    blocks and attention heads of the encoder), those of the decoder after `decoder_`,
    `normalize_targets` (compare each patch normalised), `loss_on` (whether `masked`
    tokens count, or `all`), and `published` (as the published code, where that differs
    from its paper or from us).

    Attributes:
        name: as in `--objective NAME` and in checkpoints.
        default_mask_ratio: share of what is hidden where none is stated; 0 where
            nothing is ever hidden.
        sees_pairs: whether the loss compares images of a batch with each other. Several
            processes then share their batch; micro-batches do not.
        rebuilds: whether hidden pixels are rebuilt, see `reconstruct`.
        has_teacher: whether it learns from another model, see `learn_from`.
        takes_series: whether images may have a date axis.
        starts_after: names of other objectives whose weights it takes to start from.
        encoder: what is learned.
        config: the constructor arguments that build it again.
    """

    name: ClassVar[str]
    default_mask_ratio: ClassVar[float] = 0.75
    sees_pairs: ClassVar[bool] = False
    rebuilds: ClassVar[bool] = False
    has_teacher: ClassVar[bool] = False
    takes_series: bool = False
    starts_after: ClassVar[tuple[str, ...]] = ()
    encoder: Encoder
    config: dict[str, Any]

    @abstractmethod
    def noise_size(self, images: Tensor) -> int:
        """Return how many uniform values one of these images takes."""

    @abstractmethod
    def forward(
        self,
        images: Tensor,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        dates: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Measure the error on images.

        Args:
            images: (B, C, H, W), scaled to about 0..1; a series (B, T, C, H, W).
            mask_ratio: share of what is hidden, 0 <= ratio < 1; None for the usual one.
            noise: (B, M) uniform values, M as `noise_size` says; None draws them.
            valid: bool, shaped as the images, false where a pixel counts in no loss.
            dates: (B, T), days since 1970-01-01; None if unknown.
            counts: what the loss is divided by, where these images are a part of a
                batch, see `count_targets`; None takes their own.
        """

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Count what the loss averages over, without running the model.

        Counts of parts of a batch add up to those of the batch. Here they are the
        images: (1,).
        """
        return images.new_full((1,), len(images))

    def _whole_places(
        self, images: Tensor, valid: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Return 1 for places without an invalid pixel, else 0: (B, *size)."""
        if valid is None:
            return images.new_ones(len(images), *size)
        lacking = (~valid).any(dim=1).to(images)
        return 1 - F.adaptive_max_pool2d(lacking, size)

    def draw(
        self, images: Tensor, noise: Tensor | None, device: torch.device | None = None
    ) -> Tensor:
        """Return the noise of images, drawn where none is given: (B, M).

        Args:
            images: what it is for.
            noise: None draws it.
            device: where it is wanted; None takes that of the images. What decides how
                many of something there are is read on the processor, so that nobody
                waits for a GPU.

        Raises:
            ShapeError: it has another shape.
        """
        size = self.noise_size(images)
        device = images.device if device is None else device
        if noise is None:
            return torch.rand(len(images), size, device=device)
        if noise.ndim != 2 or noise.shape[1] != size:
            raise ShapeError(
                f"noise has shape {tuple(noise.shape)}: these images need (batch, "
                f"{size})."
            )
        return noise.to(device, non_blocking=noise.is_cpu)

    def ratio_of(self, mask_ratio: float | None) -> float:
        """Return the share of what is hidden, the usual one where none is stated.

        Raises:
            ConfigError: it is out of range, or nothing is ever hidden.
        """
        ratio = self.default_mask_ratio if mask_ratio is None else mask_ratio
        if ratio and not self.default_mask_ratio:
            raise ConfigError(
                f"mask_ratio is {ratio}, but objective {self.name} hides nothing: "
                "leave it out."
            )
        if not 0 <= ratio < 1:
            raise ConfigError(f"mask_ratio is {ratio}: use 0 <= mask_ratio < 1.")
        return ratio

    def check_ready(self) -> None:
        """Refuse to train as it is.

        Raises:
            ConfigError: it lacks something; says how to get it.
        """

    def learn_from(self, teacher: Encoder, factor: Tensor, shift: Tensor) -> None:
        """Take another model's encoder to learn from; none here does.

        Args:
            teacher: takes the bands of the images.
            factor: (C,), by which images are multiplied for it.
            shift: (C,), which is added then.

        Raises:
            ConfigError: it does not fit.
        """
        raise ConfigError(f"objective {self.name} learns from no teacher.")

    def check_batch(self, size: int) -> None:
        """Refuse micro-batches of so many images over all processes.

        Raises:
            ConfigError: nothing can be learned from them; here any will do.
        """

    def begin_step(self, done: float = 0.0) -> None:
        """Do what comes once before each optimizer step; nothing here.

        Args:
            done: share of the training that is done, 0..1.
        """

    def reconstruct(self, output: ObjectiveOutput) -> Tensor | None:
        """Return what was rebuilt, shaped as the images; None if nothing is."""
        return output.rebuilt

    def token_means(self, images: Tensor) -> Tensor | None:
        """Return each token's own mean, shaped as the images.

        It is what a model of normalised targets is told of them; None of others.
        """
        return None

    def hidden_pixels(self, output: ObjectiveOutput) -> Tensor | None:
        """Return where pixels were hidden, bool shaped as the images, or None."""
        return output.hidden

    def start_from(self, other: nn.Module, name: str) -> None:
        """Take over the weights of another model.

        Args:
            other: as it was loaded.
            name: what it is called in messages.

        Raises:
            CheckpointError: it is no model of this objective, or has other sizes.
        """
        if not isinstance(other, type(self)):
            raise CheckpointError(
                f"{name} holds a {type(other).__name__}; objective {self.name} starts "
                "from weights of its own. Name the checkpoint of such a run."
            )
        try:
            load_weights(self, other.state_dict())
        except CheckpointError as error:
            changed = ", ".join(changed_settings(other.config, self.config))
            raise CheckpointError(f"{name} does not fit: {changed or error}") from None

    def published_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors, named and shaped as the weights, their published form.

        Raises:
            CheckpointError: nothing is published for this objective.
        """
        raise CheckpointError(f"objective {self.name} has no published form.")

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take weights over under their published names, strictly.

        Raises:
            CheckpointError: nothing is published for this objective, or names or shapes
                do not fit; lists them.
        """
        raise CheckpointError(f"objective {self.name} has no published form.")
