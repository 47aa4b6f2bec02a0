"""Models as plain values: what builds one again, and moving one to other images."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.band_groups import resize_group_weights
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.positions import (
    group_wavelengths,
    resize_spatial,
    resize_spectral,
)
from spectralgpt.models.segmentation import ChangeModel, SegmentationModel

__all__ = ["Model", "build_model", "model_config", "resize_model"]

Model = (
    MaskedAutoencoder
    | SpectralEncoder
    | ClassificationModel
    | SegmentationModel
    | ChangeModel
)

_TASK_MODELS: dict[
    str, type[ClassificationModel] | type[SegmentationModel] | type[ChangeModel]
] = {
    "classifier": ClassificationModel,
    "segmenter": SegmentationModel,
    "change-detector": ChangeModel,
}
_KINDS = ("autoencoder", "encoder", *_TASK_MODELS)


def model_config(model: Model) -> dict[str, Any]:
    """Return the plain values from which `build_model` builds the model again."""
    for kind, builder in _TASK_MODELS.items():
        if isinstance(model, builder):
            return {"kind": kind, "encoder": model.encoder.config, **model.head_config}
    assert isinstance(model, MaskedAutoencoder | SpectralEncoder)
    kind = "encoder" if isinstance(model, SpectralEncoder) else "autoencoder"
    return {"kind": kind, **model.config}


def build_model(config: Mapping[str, Any]) -> Model:
    """Build a model with random weights from `model_config`'s values.

    Raises:
        CheckpointError: the values are not those of a model.
    """
    settings = dict(config)
    kind = settings.pop("kind", None)
    if kind not in _KINDS:
        raise CheckpointError(f"model kind {kind!r} is none of {', '.join(_KINDS)}.")
    try:
        if kind in _TASK_MODELS:
            encoder = SpectralEncoder(**settings.pop("encoder"))
            return _TASK_MODELS[kind](encoder, **settings)
        if kind == "encoder":
            return SpectralEncoder(**settings)
        return MaskedAutoencoder(**settings)
    except (TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(f"model configuration cannot be used: {error}") from error


def resize_model(
    model: Model,
    image_size: int | None = None,
    wavelengths_nm: Sequence[float] | None = None,
) -> Model:
    """Return the model with position tables for another image size or other bands.

    A dense head's weights of band groups move along; all other weights are copied.

    Args:
        model: left as it is.
        image_size: new side in px; None keeps it.
        wavelengths_nm: centres in nm of the new bands; None keeps them.

    Raises:
        CheckpointError: other bands are asked of a model that knows no wavelengths.
    """
    config = model_config(model)
    target = config.get("encoder", config)
    old = dict(target)
    if wavelengths_nm is not None:
        if old["wavelengths_nm"] is None:
            raise CheckpointError(
                "the model knows no wavelengths, so it cannot be moved to other bands."
            )
        is_bound = config.get("pixel_detail") or config.get("pooling") == "groups"
        if is_bound and len(wavelengths_nm) != old["num_bands"]:
            raise CheckpointError(
                "the model was fine-tuned with pixel_detail or pooling 'groups', which "
                f"binds it to its own {old['num_bands']} bands: fine-tune anew."
            )
        target["num_bands"] = len(wavelengths_nm)
        target["wavelengths_nm"] = tuple(wavelengths_nm)
    target["image_size"] = image_size or old["image_size"]
    resized = build_model(config)
    weights = {
        name: _resize_table(name, value, old, target)
        for name, value in model.state_dict().items()
    }
    resized.load_state_dict(weights)
    return resized.train(model.training)


def _resize_table(
    name: str, table: Tensor, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Tensor:
    """Interpolate what belongs to places or band groups; return others unchanged."""
    if name == "fusion.weight":
        return _resize_fusion(table, old, new)
    kind = name.rpartition("positions.")[2]
    sides = [config["image_size"] // config["patch_size"] for config in (old, new)]
    if kind == "spatial":
        return resize_spatial(table, (sides[0], sides[0]), (sides[1], sides[1]))
    if kind == "spectral":
        return _resize_groups(table[0], old, new)[None]
    if kind == "joint":
        by_group = table.reshape(-1, sides[0] ** 2, table.shape[-1])
        by_group = resize_spatial(by_group, (sides[0],) * 2, (sides[1],) * 2)
        return _resize_groups(by_group, old, new).flatten(0, 1)[None]
    return table


def _resize_groups(
    table: Tensor, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Tensor:
    if old["wavelengths_nm"] == new["wavelengths_nm"]:
        return table
    S = old["bands_per_token"]
    return resize_spectral(
        table,
        group_wavelengths(old["wavelengths_nm"], S),
        group_wavelengths(new["wavelengths_nm"], S),
    )


def _resize_fusion(
    weights: Tensor, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Tensor:
    if old["wavelengths_nm"] == new["wavelengths_nm"]:
        return weights
    bands = (old["wavelengths_nm"], new["wavelengths_nm"], old["bands_per_token"])
    if weights.ndim == 2:  # (1, G), one weight a group.
        return resize_group_weights(weights[0], *bands)[None]
    return resize_group_weights(weights, *bands)
