"""Models built: of a named size, again from plain values, and changed as a whole.

Weights are put in, moved to other images and bands, held in fewer bits, or fine-tuned
through low-rank adapters: the encoder's weights stay as they are; each chosen map gains
the product of two narrow matrices, which starts at zero. Merged, the product is added
to the map, and the model is a plain one again, as large and as fast as before.
"""

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor, nn

from spectralgpt import objectives
from spectralgpt.config import check_range, fit_arguments
from spectralgpt.errors import CheckpointError, ConfigError, require
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.heads import (
    ChangeModel,
    ClassificationModel,
    GroupPlaces,
    RegressionModel,
    SegmentationModel,
    resize_group_weights,
)
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.objective import Objective
from spectralgpt.models.positions import resize_positions
from spectralgpt.models.rvsa import WINDOW_SIZE, resize_distances
from spectralgpt.models.sizes import check_settings, model_size
from spectralgpt.models.tokens import Wavelengths, group_wavelengths, resize_spatial
from spectralgpt.models.vit import VisionTransformer, resize_relative

_log = logging.getLogger(__name__)

Model = (
    Objective
    | Encoder
    | ClassificationModel
    | SegmentationModel
    | RegressionModel
    | ChangeModel
)

Quantization = Literal["none", "int8"]

_TASK_MODELS: dict[
    str,
    type[ClassificationModel]
    | type[SegmentationModel]
    | type[RegressionModel]
    | type[ChangeModel],
] = {
    "classifier": ClassificationModel,
    "segmenter": SegmentationModel,
    "regressor": RegressionModel,
    "change-detector": ChangeModel,
}
_ENCODERS = (SpectralEncoder.kind, VisionTransformer.kind, "swin", "conv")
# What checkpoints call our own autoencoder, and its encoder alone.
_AUTOENCODER, _ENCODER = "autoencoder", "encoder"
# Query, key and value are one map here, and share the adapter's first matrix.
_TARGETS = r"blocks\.\d+\.attn\.(qkv|proj)"
_MARK = "lora_"

AnyModel = TypeVar("AnyModel", bound=nn.Module)
AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


def build_autoencoder(size: str, **overrides: Any) -> MaskedAutoencoder:
    """Build a masked autoencoder of a named size with random weights.

    Args:
        size: tiny, small, base, large or huge.
        **overrides: any other argument of `MaskedAutoencoder`.
    """
    return MaskedAutoencoder(**(model_size(size) | overrides))


def build_encoder(size: str, **overrides: Any) -> SpectralEncoder:
    """Build an encoder of a named size with random weights.

    Args:
        size: tiny, small, base, large or huge.
        **overrides: any other argument of `SpectralEncoder`.
    """
    chosen = model_size(size)
    own = {name: chosen[name] for name in ("embed_dim", "depth", "num_heads")}
    return SpectralEncoder(**(own | overrides))


def model_config(model: Model) -> dict[str, Any]:
    """Return the plain values from which `build_model` builds the model again."""
    for kind, builder in _TASK_MODELS.items():
        if isinstance(model, builder):
            encoder = model.encoder.config
            if not isinstance(model.encoder, SpectralEncoder):
                encoder = {"kind": model.encoder.kind, **encoder}
            return {"kind": kind, "encoder": encoder, **model.head_config}
    if isinstance(model, Encoder):
        is_ours = isinstance(model, SpectralEncoder)
        return {"kind": _ENCODER if is_ours else model.kind, **model.config}
    assert isinstance(model, Objective)
    kind = _AUTOENCODER if isinstance(model, MaskedAutoencoder) else model.name
    return {"kind": kind, **model.config}


def build_model(config: Mapping[str, Any]) -> Model:
    """Build a model with random weights from `model_config`'s values.

    Raises:
        CheckpointError: the values are not those of a model.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError("model configuration is no table of settings.")
    settings = dict(config)
    kind = settings.pop("kind", None)
    try:
        check_settings(settings)
        if kind in _TASK_MODELS:
            encoder = _build_encoder(dict(settings.pop("encoder")))
            head = fit_arguments(_TASK_MODELS[kind], settings, kind, ["encoder"])
            return _TASK_MODELS[kind](encoder, **head)
        if kind == _ENCODER or kind in _ENCODERS:
            return _build_encoder({"kind": kind, **settings})
        if kind == _AUTOENCODER:
            return objectives.build(objectives.OURS, **settings)
        others = [name for name in objectives.names() if name != objectives.OURS]
        if kind in others:
            return objectives.build(kind, **settings)
    except (TypeError, KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(f"model configuration cannot be used: {error}") from error
    known = ", ".join((_AUTOENCODER, _ENCODER, *_TASK_MODELS, *_ENCODERS, *others))
    raise CheckpointError(f"model kind {kind!r} is none of {known}.")


def _build_encoder(settings: dict[str, Any]) -> Encoder:
    kind = settings.pop("kind", _ENCODER)
    kind = SpectralEncoder.kind if kind == _ENCODER else kind
    if kind not in _ENCODERS:
        raise ConfigError(f"encoder {kind!r} is none of {', '.join(_ENCODERS)}.")
    check_settings(settings)
    found = _encoder_class(kind)
    return found(**fit_arguments(found, settings, kind))


def _encoder_class(kind: str) -> type[Encoder]:
    """Return the class of a kind; that of Swin takes seconds to import, for timm."""
    if kind == "swin":
        from spectralgpt.models.swin import SwinEncoder

        return SwinEncoder
    if kind == "conv":
        from spectralgpt.objectives.tokenizer import ConvEncoder

        return ConvEncoder
    return SpectralEncoder if kind == SpectralEncoder.kind else VisionTransformer


def resize_model(
    model: Model,
    image_size: int | None = None,
    wavelengths_nm: Wavelengths | None = None,
) -> Model:
    """Return the model with position tables for another image size or other bands.

    A dense head's weights of band groups move along; all other weights are copied.

    Args:
        model: left as it is.
        image_size: new side in px; None keeps it.
        wavelengths_nm: of the new bands, see `SpectralEncoder`; None keeps them.

    Raises:
        CheckpointError: other bands are wanted of a model without wavelengths.
    """
    config = model_config(model)
    # Objectives may have a setting of that name.
    has_encoder = isinstance(config.get("encoder"), Mapping)
    target = config["encoder"] if has_encoder else config
    old = dict(target)
    if wavelengths_nm is not None:
        if old.get("wavelengths_nm") is None:
            raise CheckpointError(
                "the model knows no wavelengths, so it cannot be moved to other bands: "
                "bring images into its own with bands: resample."
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
    places = None
    if old.get("wavelengths_nm") != target.get("wavelengths_nm"):
        known, wanted = (
            group_wavelengths(each["wavelengths_nm"], old["bands_per_token"])
            for each in (old, target)
        )
        places = known, wanted
    sides = [each["image_size"] // old["patch_size"] for each in (old, target)]
    weights = {
        name: _resize_table(name, value, sides, places)
        for name, value in model.state_dict().items()
    }
    for name, wanted in resized.state_dict().items():
        if name.endswith(("rel_pos_h", "rel_pos_w")):  # Those of windows stay.
            weights[name] = resize_distances(weights[name], (len(wanted) + 1) // 2)
    resized.load_state_dict(weights)
    return resized.train(model.training)


def _resize_table(
    name: str, table: Tensor, sides: Sequence[int], places: GroupPlaces | None
) -> Tensor:
    """Interpolate what belongs to places or band groups; return others unchanged.

    Args:
        name: of the parameter.
        table: its values.
        sides: patches along a side of the image, before and after.
        places: wavelengths of the band groups, before and after; None if equal.
    """
    if name == "fusion.weight":
        if table.ndim == 2:  # (1, G), one weight a group.
            return resize_group_weights(table[0], places)[None]
        return resize_group_weights(table, places)
    kind = name.rpartition("positions.")[2]
    size, new_size = ((side, side) for side in sides)
    if kind == "spatial":
        # Joint tables of time and space hold the places of one time after another.
        by_time = table.reshape(-1, sides[0] ** 2, table.shape[-1])
        return resize_spatial(by_time, size, new_size).reshape(
            len(table), -1, table.shape[-1]
        )
    if name.endswith("relative.table"):
        return resize_relative(table, *sides)
    if kind == "spectral" and places is not None:
        return resize_positions(table[0], *places)[None]
    if kind == "joint":
        by_group = table.reshape(-1, sides[0] ** 2, table.shape[-1])
        by_group = resize_spatial(by_group, size, new_size)
        if places is not None:
            by_group = resize_positions(by_group, *places)
        return by_group.flatten(0, 1)[None]
    return table


def add_windows(encoder: AnyEncoder, window_size: int | None = None) -> AnyEncoder:
    """Copy an encoder, with attention `rvsa` in place of global one.

    All its weights are taken over, but for a class token, which windows do not have;
    sampling and relative positions start at zero, for fine-tuning.

    Args:
        encoder: left as it is.
        window_size: most patches along a side of a window; None is the paper's 7, or
            what the encoder has.

    Raises:
        ConfigError: it is another kind of encoder, has windows of another size, or has
            relative positions.

    Source: Wang et al. 2022, arXiv:2208.03987.
    """
    if encoder.kind not in (SpectralEncoder.kind, VisionTransformer.kind):
        raise ConfigError(
            f"attention 'rvsa' is for vision transformers, not for {encoder.kind!r}."
        )
    settings = dict(encoder.config)
    own = settings["window_size"] if encoder.attention == "rvsa" else None
    if own is not None and window_size not in (None, own):
        raise ConfigError(f"the encoder has windows of {own}: leave out window_size.")
    side = own or (WINDOW_SIZE if window_size is None else window_size)
    settings |= {"attention": "rvsa", "window_size": side}
    weights = encoder.state_dict()
    if weights.pop("class_token", None) is not None:
        settings["class_token"] = False
    windowed = type(encoder)(**settings)
    windowed.load_state_dict(windowed.state_dict() | weights)
    windowed.absent_groups = encoder.absent_groups
    return windowed.to(next(encoder.parameters())).train(encoder.training)


def quantize_encoder(model: Model, quantization: Quantization = "int8") -> None:
    """Hold the weights of a model's encoder in fewer bits, in place.

    The model can then run in less memory, but neither be trained nor saved. Each row of
    a block's matrix has a scale of its own; activations stay as they are. All that is
    small, or that answers depend on most, keeps its numbers: the token embedding,
    positions, norms and heads.

    Args:
        model: any of ours; an autoencoder's decoder stays as it is.
        quantization: int8, or none, which does nothing.

    Raises:
        ConfigError: torchao is not installed, or the quantization is unknown.
    """
    if quantization not in get_args(Quantization):
        raise ConfigError(
            f"quantization {quantization!r} is unknown: use "
            f"{' or '.join(get_args(Quantization))}."
        )
    if quantization == "none":
        return
    require("torchao")
    # On import it warns of torch's own future.
    log = logging.getLogger("torch.utils._pytree")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    finally:
        log.setLevel(level)
    encoder = model if isinstance(model, Encoder) else model.encoder
    quantize_(
        encoder.blocks, Int8WeightOnlyConfig(set_inductor_config=False, version=2)
    )
    # Gradients would flow through weights that cannot be trained.
    encoder.blocks.requires_grad_(False)


def weight_bytes(model: nn.Module) -> int:
    """Return the memory of a model's weights, bytes."""
    values = chain(model.parameters(), model.buffers())
    return sum(part.nbytes for value in values for part in plain_parts(value))


def plain_parts(value: Tensor) -> list[Tensor]:
    """Return the plain tensors that a weight consists of: integers and their scales."""
    names = getattr(value, "tensor_data_names", None)
    return [value] if names is None else [getattr(value, name) for name in names]


def add_adapters(
    encoder: AnyEncoder, rank: int = 8, alpha: int = 16, dropout: float = 0.0
) -> AnyEncoder:
    """Freeze an encoder and give its attention maps low-rank adapters, in place.

    The output is unchanged until the adapters are trained. A head on the encoder stays
    as trainable as it was.

    Args:
        encoder: its own weights get no gradients any more.
        rank: columns of the narrow matrices, at least 1 and below the encoder's width.
        alpha: the adapter's product counts alpha / rank.
        dropout: share of an adapter's input that a training step leaves out, 0..1.

    Returns:
        The encoder.

    Raises:
        ConfigError: a number is out of range, there are adapters already, or `peft` is
            not installed.

    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    _check_adapters(encoder, rank, alpha, dropout)
    require("peft")
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=_TARGETS
    )
    inject_adapter_in_model(settings, encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_MARK in name)
    return encoder


def has_adapters(model: nn.Module) -> bool:
    """Tell whether any map of the model has an adapter."""
    return any(_MARK in name for name, _ in model.named_parameters())


def merge_adapters(model: AnyModel) -> AnyModel:
    """Return a plain copy of the model, with all adapters added to their maps.

    Args:
        model: left as it is, so that its training can go on.

    Returns:
        A model whose parameters all take gradients again, in the mode that `model` is
        in; a copy as it is where there are no adapters.
    """
    plain = copy.deepcopy(model)
    if not has_adapters(plain):
        return plain
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [
        (name, module)
        for name, module in plain.named_modules()
        if isinstance(module, BaseTunerLayer)
    ]
    for name, module in adapted:
        module.merge()
        plain.set_submodule(name, module.get_base_layer())
    for holder in plain.modules():
        # Left on the encoder by peft, which would take it for an adapted model.
        holder.__dict__.pop("peft_config", None)
    return plain.requires_grad_()


def _check_adapters(encoder: Encoder, rank: int, alpha: int, dropout: float) -> None:
    if has_adapters(encoder):
        raise ConfigError(
            "the encoder has adapters already: merge them first (merge_adapters)."
        )
    if not any(re.fullmatch(_TARGETS, name) for name, _ in encoder.named_modules()):
        raise ConfigError(
            f"adapters are for attention, and a {encoder.kind!r} encoder has none: use "
            "mode full or frozen."
        )
    if not 1 <= rank < encoder.embed_dim:
        raise ConfigError(
            f"adapter rank {rank} is not in 1..{encoder.embed_dim - 1}, the encoder's "
            "width less one."
        )
    check_range("at least 1", {"adapter alpha": alpha})
    check_range("at least 0 and below 1", {"adapter dropout": dropout})
