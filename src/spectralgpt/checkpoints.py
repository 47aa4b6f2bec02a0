"""Saving and loading models with the contract that they were trained under.

A checkpoint is a folder with `model.safetensors`, whose header holds the configuration
as JSON, and `config.json`, a copy of that for people. Nothing is ever unpickled.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from spectralgpt import __version__
from spectralgpt.building import (
    Model,
    build_encoder,
    build_model,
    has_adapters,
    model_config,
    resize_model,
)
from spectralgpt.config import check_keys
from spectralgpt.errors import BandError, CheckpointError, ConfigError, DataError
from spectralgpt.files import parse_json, write_file, write_text
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.heads import (
    ClassificationModel,
    DenseModel,
    RegressionModel,
    SegmentationModel,
)
from spectralgpt.models.objective import Objective
from spectralgpt.models.sizes import SIZES, WEIGHTS_FILE, find_weights
from spectralgpt.models.tokens import Wavelengths
from spectralgpt.models.weights import check_finite, load_weights
from spectralgpt.preprocessing import Preprocessing, sensor_preprocessing
from spectralgpt.published import (
    PUBLISHED_CONFIG_KEY,
    build_published_model,
    read_torch_file,
    to_published,
)
from spectralgpt.sensors import Band
from spectralgpt.weights import NamedWeights, check_is_weights, find_named

CONFIG_FILE = "config.json"
# What only training checkpoints of Lightning have, as last.ckpt.
_TRAINING_KEYS = ("pytorch-lightning_version", "optimizer_states")
_log = logging.getLogger(__name__)
_FORMAT = "spectralgpt"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model and what is known about it.

    Attributes:
        model: in evaluation mode, on the CPU.
        preprocessing: the contract for its input; None if the file carries none.
        extra: what the training run stored, such as `class_names` and `task`.
    """

    model: Model
    preprocessing: Preprocessing | None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        takes = self.preprocessing and self.preprocessing.sensor
        return f"<LoadedModel {type(self.model).__name__} for {takes or 'any images'}>"

    @property
    def encoder(self) -> Encoder:
        """The encoder inside the model."""
        if isinstance(self.model, Encoder):
            return self.model
        return self.model.encoder

    @property
    def unit(self) -> str | None:
        """Unit of the numbers that it maps; None for classes and other models."""
        is_regressor = isinstance(self.model, RegressionModel)
        return self.extra.get("target", {}).get("unit") if is_regressor else None

    def classes(self, name: str, maps: bool = False) -> tuple[tuple[str, ...], str]:
        """Return class names, or that of a regression's target, and the task.

        Args:
            name: what it is called in messages.
            maps: whether it is to make maps, or to tell classes of whole images.

        Raises:
            CheckpointError: it does not, or does not say what its classes are.
        """
        is_mapper = isinstance(self.model, DenseModel)
        if maps and not is_mapper:
            raise CheckpointError(
                f"{name} makes no maps: run `spectralgpt finetune segmentation`, "
                "`finetune regression` or `finetune change` first."
            )
        if is_mapper and not maps:
            raise CheckpointError(
                f"{name} makes maps, no classes of whole images: evaluate it with "
                "--masks."
            )
        if not isinstance(self.model, ClassificationModel | DenseModel):
            raise CheckpointError(
                f"{name} is not fine-tuned: it has no classes. Run `spectralgpt "
                "finetune` first; or map from a few labels with `embed --format "
                "geotiff` and `probe`, or evaluate it with method linear-probe or knn."
            )
        names, task = self.extra.get("class_names"), self.extra.get("task")
        if names and task:
            return tuple(names), str(task)
        if maps:
            raise CheckpointError(
                f"{name} makes maps, but does not name their classes or target. "
                "Fine-tune with this package to get a model that does."
            )
        raise CheckpointError(
            f"{name} is a classifier that does not name its classes and task. "
            "Fine-tune with this package to get one that does."
        )


def save_torch(values: Mapping[str, Any], path: Path) -> None:
    """Write what `torch.load` reads.

    Raises:
        OSError: it cannot be written; torch's own error hides that and why.
    """
    try:
        torch.save(values, path)
    except RuntimeError as error:
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            f"the disk may be full, {free / 2**20:.1f} MiB are free "
            f"({str(error).splitlines()[0][:160]})"
        ) from error


def save_model(
    folder: Path | str,
    model: Model,
    preprocessing: Preprocessing | None = None,
    extra: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Save weights, configuration and contract.

    Args:
        folder: made if it is not there; files of the same name are replaced at once.
        model: any of ours, without adapters; `merge_adapters` takes them out.
        preprocessing: the contract for its input.
        extra: anything JSON can hold, such as `class_names` and `task`.
        half: round weights to bfloat16, for a file of half the size; whoever reads it
            gets single precision again.

    Returns:
        The folder.

    Raises:
        CheckpointError: the model has adapters, or its weights are not finite.
        OutputError: the files cannot be written; those that were there stay.
    """
    from safetensors.torch import save_file

    if has_adapters(model):
        raise CheckpointError(
            "the model has low-rank adapters: save merge_adapters(model), a plain one."
        )
    folder = Path(folder)
    config = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "package_version": __version__,
        "model": model_config(model),
        "preprocessing": preprocessing.to_dict() if preprocessing else None,
        "extra": dict(extra or {}),
    }
    text = json.dumps(config, indent=2)
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    if half:
        weights = {
            name: value.bfloat16() if value.is_floating_point() else value
            for name, value in weights.items()
        }
    check_finite(weights.items(), "the model was not saved, for its weights are")
    metadata = {"format": "pt", "config": text}
    write_file(folder / WEIGHTS_FILE, lambda path: save_file(weights, path, metadata))
    write_text(folder / CONFIG_FILE, text + "\n")
    return folder


def save_published(path: Path, model: Model) -> Path:
    """Save weights as the published code reads them, with the sizes beside them.

    Args:
        path: the .pth file to make.
        model: an autoencoder, of SpectralGPT a classifier or a model for maps with the
            published head as well.

    Raises:
        CheckpointError: the model has no published counterpart.
        OutputError: the file cannot be written.
    """
    if isinstance(model, Encoder):
        raise CheckpointError(
            "a bare encoder has no published format: convert an autoencoder or a "
            "classifier."
        )
    if isinstance(model, RegressionModel):
        raise CheckpointError("a model of regression has no published format.")
    if isinstance(model, DenseModel) and (
        model.head_kind != "upernet"
        or model.apply_norm
        or model.detail is not None
        or model.multilevel
    ):
        raise CheckpointError(
            f"the model has head {model.head_kind!r}, apply_norm {model.apply_norm}, "
            f"pixel_detail {model.detail is not None} and multilevel "
            f"{model.multilevel}: the published format knows only 'upernet' on the "
            "last features, without the encoder's final norm and without detail, and "
            "would give other numbers."
        )
    if isinstance(model, ClassificationModel) and model.pooling != "tokens":
        raise CheckpointError(
            f"the classifier has pooling {model.pooling!r}: the published format knows "
            "only 'tokens', and would give other numbers."
        )
    encoder = model.encoder
    if isinstance(encoder, SpectralEncoder):
        weights = to_published(
            model.state_dict(), encoder.patch_size, encoder.bands_per_token
        )
    elif isinstance(model, Objective):
        weights = model.published_names(model.state_dict())
    else:
        raise CheckpointError(
            f"a model on an encoder {encoder.kind!r} has no published format: convert "
            "the checkpoint of its pretraining."
        )
    checkpoint = {"model": weights, PUBLISHED_CONFIG_KEY: model_config(model)}
    write_file(path, lambda temporary: save_torch(checkpoint, temporary))
    return path


def load_model(
    name_or_path: str | Path,
    *,
    image_size: int | None = None,
    bands: Sequence[Band] | None = None,
    sensor: str | None = None,
    stated: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> LoadedModel:
    """Load a model and its contract.

    Args:
        name_or_path: a folder or .safetensors file of ours, a published .pth file, a
            name that `spectralgpt weights list` knows, which is downloaded if need be,
            a Hugging Face Hub name `owner/name`, or a size such as `base`, which gives
            an encoder with random weights.
        image_size: side in px for which the spatial tables are interpolated; None
            keeps them.
        bands: bands for which the spectral tables are interpolated; None keeps them.
        sensor: one of the sensors that the weights were trained on: its bands, image
            size and scaling; None takes the first.
        stated: what a published file does not say, see `build_published_model`.
        revision: branch, tag or commit of a repository on the Hub; None takes main.

    Raises:
        ConfigError: the weights were not trained on this sensor, say themselves what
            is stated, or are no repository of which a revision could be taken.
        CheckpointError: nothing is found, or it cannot be used; says which and why.
    """
    return move_model(
        _read(name_or_path, stated, revision),
        image_size=image_size,
        bands=bands,
        sensor=sensor,
    )


def move_model(
    loaded: LoadedModel,
    *,
    image_size: int | None = None,
    bands: Sequence[Band] | None = None,
    sensor: str | None = None,
) -> LoadedModel:
    """Move a loaded model to another image size or other bands; see `load_model`."""
    if sensor is not None:
        own = _contract_at(loaded, sensor)
        bands = bands or own.bands
        image_size = image_size or own.image_size
        loaded = replace(loaded, preprocessing=own)
    if image_size is not None or bands is not None:
        wavelengths = None if bands is None else [band.row for band in bands]
        if bands is not None and not isinstance(loaded.encoder, SpectralEncoder):
            _check_own_bands(loaded, bands)
            wavelengths = None
        model = resize_model(loaded.model, image_size, wavelengths)
        contract = loaded.preprocessing
        if contract is not None:
            contract = contract.for_images(image_size, bands)
        loaded = LoadedModel(model, contract, loaded.extra)
    loaded.model.contract, loaded.model.notes = loaded.preprocessing, loaded.extra
    loaded.encoder.contract = loaded.preprocessing
    loaded.model.eval()
    return loaded


def _check_own_bands(loaded: LoadedModel, bands: Sequence[Band]) -> None:
    """Refuse bands that an encoder of its own bands only was not trained on.

    The same band of two products counts as one: centres may differ by a quarter of its
    width.

    Raises:
        CheckpointError: they are others.
    """
    contract = loaded.preprocessing
    own = loaded.encoder.num_bands
    if contract is None and len(bands) == own:
        _log.warning(
            "the weights do not say which bands they were trained on: %s are taken for "
            "them, in this order.",
            ", ".join(band.name for band in bands),
        )
        return
    names = "" if contract is None else f" ({', '.join(contract.band_names)})"
    fits = contract is not None and len(bands) == own
    if contract is None or not fits or not all(map(_is_same, contract.bands, bands)):
        raise CheckpointError(
            f"the model takes its own {own} bands only{names}, not "
            f"{', '.join(band.name for band in bands)}: bring images into them with "
            "bands: resample."
        )


def _is_same(own: Band, other: Band) -> bool:
    return abs(own.wavelength_nm - other.wavelength_nm) <= own.width_nm / 4


def _contract_at(loaded: LoadedModel, sensor: str) -> Preprocessing:
    if loaded.preprocessing is None:
        raise ConfigError(
            f"the model carries no preprocessing, so no sensor {sensor!r}. Name its "
            "bands."
        )
    return loaded.preprocessing.for_sensor(sensor)


def load(
    name_or_path: str | Path,
    image_size: int | None = None,
    wavelengths_nm: Wavelengths | None = None,
) -> Encoder:
    """Load an encoder, ready to use.

    Args:
        name_or_path: see `load_model`.
        image_size: side in px for which the spatial tables are interpolated.
        wavelengths_nm: centres in nm of the bands for which the spectral tables are
            interpolated; a spectral tokeniser needs rows, see `Encoder`.

    Returns:
        The encoder in evaluation mode: images (B, C, H, W) to (B, G, Hp, Wp, D).

    Raises:
        CheckpointError: see `load_model`.
    """
    encoder = load_model(name_or_path, image_size=image_size).encoder
    if wavelengths_nm is not None:
        resized = resize_model(encoder, None, wavelengths_nm)
        assert isinstance(resized, Encoder)
        encoder = resized
    return encoder.eval()


def _read(
    name_or_path: str | Path,
    stated: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> LoadedModel:
    name = str(name_or_path)
    path = find_weights(name_or_path)
    if revision is not None and (path is not None or name in SIZES):
        raise ConfigError(
            f"{name} is no repository of the Hugging Face Hub, so it has no revision "
            f"{revision!r}: leave that out."
        )
    if stated and (path is None or _is_ours(path)):
        raise ConfigError(
            f"{name} is no published file, and says itself how it is built: leave out "
            f"{min(stated)}."
        )
    if path is not None:
        # By what it holds: downloads are often named otherwise.
        loaded = _read_ours(path) if _is_ours(path) else _published(path, stated)
        named = find_named(name)
        if named is not None and named.path == path:
            _check_named(named, loaded)
        return loaded
    if name not in SIZES:
        return _read_ours(_download(name, revision))
    _log.warning(
        "model %r has random weights: what it gives means nothing, but for comparison. "
        "Name a checkpoint for a trained one.",
        name,
    )
    contract = _sentinel2_contract(96)
    encoder = build_encoder(name, wavelengths_nm=contract.wavelengths_nm)
    return LoadedModel(encoder, contract)


def _check_named(named: NamedWeights, loaded: LoadedModel) -> None:
    """Refuse a model that takes other images than the table of weights says."""
    for key, stated in named.contract.items():
        found = getattr(loaded.preprocessing, key, None)
        found = list(found) if isinstance(found, tuple) else found
        if found != stated:
            raise CheckpointError(
                f"{named.name} should have {key} {stated}, but {named.path} has "
                f"{found}: it is another model. Where it is the right one, name the "
                "file itself."
            )


def _is_ours(path: Path) -> bool:
    check_is_weights(path)
    with path.open("rb") as file:
        head = file.read(9)
    # Whatever the name ends in, a length comes first, and then the JSON header.
    starts_so = len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK"
    return starts_so or path.suffix == ".safetensors"


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )
    from huggingface_hub.utils import logging as hub_logging

    verbosity = hub_logging.get_verbosity()
    # It tells of each retry; the one error below says all of it.
    hub_logging.set_verbosity(logging.ERROR)
    try:
        return Path(hf_hub_download(name, WEIGHTS_FILE, revision=revision))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OSError,
    ) as error:
        raise CheckpointError(
            f"{name} is no local path, and {WEIGHTS_FILE} could not be downloaded from "
            f"the Hugging Face Hub: {str(error).splitlines()[0]}"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)


def _read_ours(path: Path) -> LoadedModel:
    from safetensors import SafetensorError, safe_open

    check_is_weights(path)
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file: copy it again. ({error})"
        ) from error
    if "config" not in metadata:
        raise CheckpointError(
            f"{path} carries no SpectralGPT configuration: it was not saved by this "
            "package."
        )
    try:
        config = parse_json(metadata["config"], "its configuration")
        check_keys(
            config,
            "its configuration",
            required=("model", "preprocessing", "extra"),
            optional=("format", "format_version", "package_version"),
        )
        # Without storage: random weights would be drawn only to be replaced.
        with torch.device("meta"):
            model = build_model(config["model"])
        contract = config["preprocessing"]
        preprocessing = None if contract is None else Preprocessing.from_dict(contract)
        load_weights(model, _in_single(weights), assign=True)
        _fill_buffers(model, config["model"])
        _check_contract(model, preprocessing, config["extra"])
    except (CheckpointError, ConfigError, DataError, BandError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return LoadedModel(model.requires_grad_(), preprocessing, config["extra"])


def _in_single(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights that are stored in less in single precision."""
    less = (torch.float16, torch.bfloat16)
    return {n: v.float() if v.dtype in less else v for n, v in weights.items()}


def _fill_buffers(model: Model, config: Mapping[str, Any]) -> None:
    """Give a model without storage the buffers that are in no file.

    Libraries compute them where they build, as timm does the index of a window.
    """
    lacking = [name for name, value in model.named_buffers() if value.is_meta]
    if not lacking:
        return
    with torch.random.fork_rng(devices=[]):
        computed = dict(build_model(config).named_buffers())
    for name in lacking:
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, computed[name])


def _check_contract(
    model: Model, preprocessing: Preprocessing | None, extra: object
) -> None:
    """Refuse a contract or facts that are not those of the model beside them."""
    encoder = model if isinstance(model, Encoder) else model.encoder
    if preprocessing is not None:
        for name, own in (
            ("bands", encoder.num_bands),
            ("patch_size", encoder.patch_size),
            ("bands_per_token", encoder.bands_per_token),
        ):
            found = getattr(preprocessing, name)
            found = len(found) if name == "bands" else found
            if found != own:
                raise CheckpointError(
                    f"its preprocessing has {name} {found}, the model {own}: the file "
                    "was edited or damaged. Copy it again."
                )
    if not isinstance(extra, dict):
        raise CheckpointError("its 'extra' is no table of facts: copy it again.")
    names = extra.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError("its class_names are no list of names: copy it again.")
    known = getattr(model, "num_classes", len(names))
    if names and len(names) != known:
        raise CheckpointError(
            f"it has {len(names)} class_names for {known} classes: copy it again."
        )
    if isinstance(model, RegressionModel) and "task" in extra:
        _check_target(extra.get("target"))
    for name in ("window_px", "chip_px"):
        side = extra.get(name)
        if side is not None and (not isinstance(side, int) or not 0 < side < 2**16):
            raise CheckpointError(f"its {name} is {side!r:.40}: copy it again.")


def _check_target(target: object) -> None:
    stated = target if isinstance(target, dict) else {}
    edges = stated.get("edges")
    is_list = isinstance(edges, list) and all(type(each) is float for each in edges)
    if not (is_list and edges) or not isinstance(stated.get("unit"), str):
        raise CheckpointError("it does not say what its numbers are: copy it again.")


def _published(path: Path, stated: Mapping[str, Any] | None) -> LoadedModel:
    checkpoint = read_torch_file(path)
    if all(key in checkpoint for key in _TRAINING_KEYS):
        raise CheckpointError(
            f"{path} is a training checkpoint, which only --resume reads: name the "
            "run's folder, which holds the model in checkpoints/model. A run of "
            "another program must export its weights first."
        )
    try:
        model = build_published_model(checkpoint, stated)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    bare = LoadedModel(model, None)
    encoder = bare.encoder
    # Published maps of land cover took ten bands and two fillers: nothing fits them.
    is_filled = isinstance(model, SegmentationModel)
    if not isinstance(encoder, SpectralEncoder):
        return bare
    if is_filled or encoder.num_bands != 12 or encoder.wavelengths_nm is not None:
        return bare
    # Published weights know Sentinel-2 without B10, per-image scaling, and no more.
    contract = _sentinel2_contract(
        encoder.image_size, encoder.patch_size, encoder.bands_per_token
    )
    config = model_config(model)
    target = config.get("encoder", config)
    target["wavelengths_nm"] = contract.wavelengths_nm
    with torch.device("meta"):
        placed = build_model(config)
    placed.load_state_dict(model.state_dict(), assign=True)
    return LoadedModel(placed.requires_grad_(), contract)


def _sentinel2_contract(
    image_size: int, patch_size: int = 8, bands_per_token: int = 3
) -> Preprocessing:
    return sensor_preprocessing(
        "sentinel-2-l1c",
        exclude=("B10",),
        image_size=image_size,
        patch_size=patch_size,
        bands_per_token=bands_per_token,
    )
