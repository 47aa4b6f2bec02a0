"""Our encoders in other people's tools, as these know models; importing tells timm.

Between tools images are reflectance, of the bands that a model names, and a `Backbone`
scales them as its weights were trained. Modules for TerraTorch, TorchGeo and
torchgeo-bench lie beside this one, and import these when they are imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt.building import build_encoder
from spectralgpt.checkpoints import load_model, move_model
from spectralgpt.config import fit_arguments
from spectralgpt.errors import ConfigError, UnitError, require
from spectralgpt.exporting import ReflectanceScaling
from spectralgpt.models.blocks import BlockStack
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.sizes import SIZES, model_size
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.sensors import find_sensor
from spectralgpt.weights import list_weights

require("timm")
from timm.models import build_model_with_cfg, register_model  # noqa: E402

_NAME = "spectralgpt"
# What `pretrained=True` takes, by the model's name in timm.
_PRETRAINED = {_NAME: "spectralgpt-tiny-s2", f"{_NAME}_base": "SpectralGPT"}
BRIGHTEST = 10.0
"""What reflectance stays below: snow reaches 1.2; digital numbers are hundreds."""
_NUM_BANDS = 12


class Backbone(nn.Module):
    """An encoder with what timm's models have, and a linear classifier on request.

    Features are maps of all band groups side by side, (B, G * D, Hp, Wp); pooled, they
    are the mean of each group, (B, G * D).

    Args:
        encoder: any.
        preprocessing: its contract: images are reflectance (NaN where there is none),
            and scaled here. Without one they are taken as they are.
        num_classes: of the classifier; 0 gives pooled features.

    Attributes:
        feature_info: of each feature its channels, pixels a step, and block.
    """

    def __init__(
        self,
        encoder: Encoder,
        preprocessing: Preprocessing | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.preprocessing = encoder, preprocessing
        self.scaling: ReflectanceScaling | None = None
        if preprocessing is not None:
            self.scaling = ReflectanceScaling(preprocessing)
        self._was_read = False
        self.num_features = self.head_hidden_size = encoder.groups * encoder.embed_dim
        self.head: nn.Module = nn.Identity()
        self.reset_classifier(num_classes)
        self.feature_info = [
            {
                "num_chs": encoder.groups * width,
                "reduction": encoder.patch_size // finer,
                "module": f"encoder.blocks.{block}",
            }
            for block, width, finer in encoder.taps
        ]

    def scale(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) as the encoder takes them.

        On a GPU only the first ones are read, which waits for it; later ones become NaN
        in place of an error.

        Raises:
            UnitError: they are to be reflectance, and are not.
        """
        if self.scaling is None:
            return images
        scaled: Tensor = self.scaling(images)
        most = images.nan_to_num().amax(dim=(-3, -2, -1), keepdim=True)
        is_read = images.is_cpu or not self._was_read
        if is_read and not torch.compiler.is_compiling():
            found = float(most.max()) if len(images) else 0.0
            if found > BRIGHTEST:
                raise UnitError(
                    f"images reach {found:.4g}, but this model takes "
                    "reflectance, about 0 to 1: divide digital numbers first "
                    "(Sentinel-2: (DN - 1000) / 10000 since January 2022)."
                )
            self._was_read = True
            return scaled
        return scaled.masked_fill(most > BRIGHTEST, torch.nan)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return normalised features of images, (B, G * D, Hp, Wp)."""
        features: Tensor = self.encoder(self.scale(x))
        return features.movedim(-1, -3).flatten(1, -3)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features, and classify them unless told not to."""
        pooled = x.mean(dim=(-2, -1))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits, or to pooled features without classes."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self, x: Tensor, *args: Any, **kwargs: Any
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return features on the way, see `Encoder.forward_intermediates`."""
        return self.encoder.forward_intermediates(self.scale(x), *args, **kwargs)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop blocks after the last feature that is asked for, and norm and head."""
        taken = self.encoder.taken(indices)
        del self.encoder.blocks[self.encoder.taps[taken[-1]][0] + 1 :]
        if prune_norm:
            self.encoder.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return taken

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier, which may be none."""
        return self.head

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Put a new classifier in place; 0 classes take it away.

        Raises:
            ConfigError: another way of pooling than the mean is asked for.
        """
        if global_pool not in (None, "", "avg"):
            raise ConfigError(f"global_pool {global_pool!r}: features are averaged.")
        self.num_classes = num_classes
        self.head = (
            nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass, for less memory."""
        blocks = self.encoder.blocks
        assert isinstance(blocks, BlockStack)
        blocks.recomputes = enable


def open_backbone(
    weights: str | Path,
    *,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    image_size: int | None = None,
    num_classes: int = 0,
) -> Backbone:
    """Open pretrained weights as a `Backbone` that takes reflectance.

    Args:
        weights: see `spectralgpt.load_model`; they must say what images they take.
        bands: names of the bands that images have, from short to long waves; None are
            the model's own. Models of fixed bands take no others.
        sensor: whose bands these are; None is that of the weights.
        image_size: side in px that positions are interpolated for.
        num_classes: of a new linear classifier; 0 gives pooled features.

    Raises:
        CheckpointError: there are no such weights, or they do not say what they take.
        ConfigError: sensor or bands are none of theirs.
    """
    found = load_model(weights)
    contract = found.preprocessing
    if contract is None:
        raise ConfigError(
            f"{weights} does not say what images it takes: make a Backbone of "
            "load_model(...).encoder and a Preprocessing of your own."
        )
    chosen = None
    if bands is not None:
        chosen = find_sensor(sensor or contract.sensor).select(bands)
        names = [band.name for band in chosen]
        if names != list(bands):
            raise ConfigError(
                f"bands {', '.join(bands)} are not by wavelength: give images and "
                f"names as {', '.join(names)}."
            )
    is_same = chosen is None or chosen == contract.bands
    found = move_model(
        found,
        image_size=image_size,
        bands=None if is_same else chosen,
        sensor=sensor if chosen is None else None,
    )
    return Backbone(found.encoder, found.preprocessing, num_classes)


def _build(
    name: str,
    pretrained: bool = False,
    weights: str | Path | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    num_classes: int = 0,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    **settings: Any,
) -> Backbone:
    """Build what a name in timm means: random weights of a size, or those stated."""
    size = name.removeprefix(_NAME).removeprefix("_")
    if pretrained and weights is None:
        weights = _PRETRAINED.get(name)
        if weights is None:
            raise ConfigError(
                f"{name} has no weights of its own: leave out pretrained=True, or "
                "pass weights=, a model of yours or a name of `spectralgpt weights "
                f"list` ({', '.join(list_weights())}) with the model {_NAME!r}."
            )
    if weights is None:
        if not size:
            raise ConfigError(
                f"{name} has no size: pass weights= (weights=True to a trainer of "
                f"TorchGeo), or use {name}_base."
            )
        settings = {"num_bands": in_chans or _NUM_BANDS, **settings}
        if img_size is not None:
            settings["image_size"] = img_size
        settings = fit_arguments(SpectralEncoder, settings, name)
        return Backbone(build_encoder(size, **settings), None, num_classes)
    if settings:
        raise ConfigError(
            f"{', '.join(settings)}: weights say that themselves; leave it out."
        )
    found = open_backbone(
        weights,
        bands=bands,
        sensor=sensor,
        image_size=img_size,
        num_classes=num_classes,
    )
    encoder, contract = found.encoder, found.preprocessing
    assert contract is not None, "open_backbone refuses others"
    if size and model_size(size)["embed_dim"] != encoder.embed_dim:
        raise ConfigError(
            f"{weights} is of width {encoder.embed_dim}, and no {size}: open it as "
            f"{_NAME!r}."
        )
    if in_chans not in (None, encoder.num_bands):
        raise ConfigError(
            f"in_chans is {in_chans}, but {weights} takes {encoder.num_bands} bands "
            f"({', '.join(contract.band_names)}): pass bands= and sensor=."
        )
    return found


def _register(name: str) -> None:
    """Let `timm.create_model` know a name."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        wrapping = ("features_only", "out_indices", "feature_cls")
        features = {key: kwargs.pop(key) for key in wrapping if key in kwargs}
        norm = kwargs.pop("norm", False)
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            if kwargs.pop(key, None) is not None:
                raise ConfigError(f"{key}: pass weights= to {name} instead.")
        model = _build(name, pretrained, **kwargs)
        encoder = model.encoder
        bands, side = encoder.num_bands, encoder.image_size
        levels = [encoder.taps.index(level) for level in encoder.levels]
        made: nn.Module = build_model_with_cfg(
            lambda **_: model,
            name,
            pretrained=False,
            pretrained_cfg={
                "architecture": name,
                "input_size": (bands, side, side),
                "num_classes": model.num_classes,
                # What scaling there is, the model does.
                "mean": (0.0,) * bands,
                "std": (1.0,) * bands,
                "classifier": "head",
            },
            feature_cfg={"feature_cls": "getter", "out_indices": levels, "norm": norm},
            **features,
        )
        return made

    entry.__name__, entry.__module__ = name, __name__
    register_model(entry)


for _name in (_NAME, *(f"{_NAME}_{_size}" for _size in SIZES)):
    _register(_name)
