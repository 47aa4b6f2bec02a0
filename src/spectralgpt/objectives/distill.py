"""Distillation: an encoder learns the features of a larger one, its teacher.

Both see whole images. The student's features go through a linear map to the width of
the teacher's, and are compared with those, normalised over their width. Where the two
have other band groups, the means over groups are compared; where they have other
patches, the means over the larger ones.

Source: Wei et al. 2022, arXiv:2205.14141.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.tokens import Wavelengths

_NO_TEACHER = (
    "objective distill needs a model whose features are learned: name it with "
    "--teacher MODEL."
)


class Distillation(Objective):
    """Learning the features of a teacher.

    Its prediction is (B, G, Hp, Wp, D), of the teacher's width. The teacher is not
    stored with the weights, only what tells it from others.

    Args:
        bands_per_token: neighbouring bands in a token of the student.
        wavelengths_nm: centre of each band, nm.
        beta: error from which the loss grows linearly, above 0.
        teacher_dim: width of the teacher's features; None takes the teacher's own.

    The others are those of `Objective`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "distill"
    default_mask_ratio = 0.0
    has_teacher = True
    mark: Tensor
    factor: Tensor
    shift: Tensor

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        bands_per_token: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        wavelengths_nm: Wavelengths | None = None,
        beta: float = 2.0,
        teacher_dim: int | None = None,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_settings(settings)
        super().__init__()
        own = {k: v for k, v in settings.items() if k not in ("beta", "teacher_dim")}
        self.encoder = SpectralEncoder(**own)
        self.config: dict[str, Any] = settings | {
            "wavelengths_nm": self.encoder.wavelengths_nm
        }
        self.beta = beta
        self.projection: nn.Module = nn.Identity()
        if teacher_dim is not None:
            self.projection = nn.Linear(embed_dim, teacher_dim)
        self.register_buffer("mark", torch.zeros(hashlib.sha256().digest_size))
        # Those of the teacher's contract, which a resumed run has at hand again.
        for name, value in (("factor", torch.ones), ("shift", torch.zeros)):
            self.register_buffer(name, value(num_bands, 1, 1), persistent=False)
        # Within a tuple, so that it is no part of the weights.
        self._teacher: tuple[Encoder, ...] = ()

    def learn_from(self, teacher: Encoder, factor: Tensor, shift: Tensor) -> None:
        """Take the encoder whose features are learned; see `Objective`."""
        side, patch = self.encoder.image_size, teacher.patch_size
        if side % patch:
            raise ConfigError(
                f"the teacher's patches of {patch} px do not divide images of {side} "
                "px: choose another image_size."
            )
        if self.config["teacher_dim"] is None:
            self.config["teacher_dim"] = teacher.embed_dim
            width = self.config["embed_dim"]
            self.projection = nn.Linear(width, teacher.embed_dim)
        elif self.config["teacher_dim"] != teacher.embed_dim:
            raise ConfigError(
                f"settings.teacher_dim is {self.config['teacher_dim']}, the teacher's "
                f"features have {teacher.embed_dim}: leave it out."
            )
        self._teacher = (teacher.requires_grad_(False).eval(),)
        self.factor, self.shift = factor[:, None, None], shift[:, None, None]
        digest = hashlib.sha256()
        for value in (*teacher.state_dict().values(), factor, shift):
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
        self.mark = torch.tensor(list(digest.digest()), dtype=torch.float32)

    def check_ready(self) -> None:
        """Refuse to train without a teacher; see `Objective`."""
        if not self._teacher:
            raise ConfigError(_NO_TEACHER)

    def start_from(self, other: nn.Module, name: str) -> None:
        """Take over weights, whatever teacher they learned from; see `Objective`."""
        if isinstance(other, Distillation):
            other.mark.copy_(self.mark)
        super().start_from(other, name)

    def noise_size(self, images: Tensor) -> int:
        """Return 0: nothing is drawn."""
        return 0

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
        """Compare features with the teacher's; see `Objective.forward`."""
        self.ratio_of(mask_ratio)
        self.check_ready()
        latent = self.encoder(images)
        teacher = self._teacher[0].to(images.device)
        with torch.no_grad():
            wanted = teacher(images * self.factor + self.shift)
        groups = latent.shape[1] if latent.shape[1] == wanted.shape[1] else 1
        size = self._grid(images)
        wanted = F.layer_norm(_meet(wanted, groups, size), wanted.shape[-1:])
        predicted = self.projection(_meet(latent, groups, size))
        known = self._known(images, valid)[:, None]  # (B, 1, Hp, Wp)
        count = known.sum() if counts is None else counts[0]
        errors = F.smooth_l1_loss(
            predicted.float(), wanted.float(), reduction="none", beta=self.beta
        ).mean(dim=(-1, 1), keepdim=True)[..., 0]
        alike = F.cosine_similarity(predicted.detach(), wanted, dim=-1)
        total = count.clamp(min=1)
        return ObjectiveOutput(
            (errors * known).sum() / total,
            {"cosine": (alike.mean(dim=1, keepdim=True) * known).sum() / total},
            predicted,
            latent=latent,
        )

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Count the places that the loss averages over; see `Objective`."""
        return self._known(images, valid).sum()[None]

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Return the rows and columns in which features are compared."""
        patch = max(each.patch_size for each in (self.encoder, *self._teacher))
        return images.shape[-2] // patch, images.shape[-1] // patch

    def _known(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """Return 1 for places without an invalid pixel, else 0: (B, Hp, Wp)."""
        return self._whole_places(images, valid, self._grid(images))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """Refuse to go on with another teacher than the run began with."""
        mark = state_dict.get(prefix + "mark")
        if self._teacher and mark is not None and not torch.equal(mark, self.mark):
            raise CheckpointError(
                "the run learned from another teacher than --teacher names now, or its "
                "weights changed: put those back, or train anew with --overwrite."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _meet(features: Tensor, groups: int, size: tuple[int, int]) -> Tensor:
    """Average features (B, G, Hp, Wp, D) to so many groups, rows and columns."""
    if features.shape[1] != groups:
        features = features.mean(dim=1, keepdim=True)
    if features.shape[2:4] == size:
        return features
    maps = features.movedim(-1, 2).flatten(0, 1)  # (B * G, D, Hp, Wp)
    pooled = F.adaptive_avg_pool2d(maps, size)
    return pooled.unflatten(0, (-1, groups)).movedim(2, -1)


OBJECTIVE = Distillation
