"""What is exported: a model with its scaling, reflectance in and answers out.

The scaling is part of the graph, and so is the filling of pixels without data: whoever
runs the file cannot leave them out, or apply another model's statistics. A description
travels along: what the model takes, what it gives, how it was made. ONNX holds it as a
metadata property, `.pt2` as an extra file, both under `METADATA_KEY`; a copy for people
lies beside the file. Reading it runs nothing.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectralgpt import __version__
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.files import parse_json
from spectralgpt.models.building import model_config
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ChangeModel, ClassificationModel, DenseModel
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.scaling import RANGE_EPS, UINT8_LEVELS

_LOGITS, EMBEDDINGS = "logits", "embeddings"
METADATA_KEY = "spectralgpt.json"
INPUT_NAME = "reflectance"
_FORMAT = "spectralgpt-export"
_FORMAT_VERSION = 1
_CARRIED = ("task", "class_names", "positive", "colours")
_LIMIT_BYTES = 16 * 2**20


class ReflectanceScaling(nn.Module):
    """Scale reflectance as a contract says, and fill pixels without data.

    The numbers are those of `Preprocessing.prepare`, in operations of torch.

    Args:
        contract: bands, scaling and statistics.
    """

    low: Tensor
    span: Tensor

    def __init__(self, contract: Preprocessing) -> None:
        super().__init__()
        self.scaling = contract.scaling
        if contract.scaling != "image-minmax":
            low, span = _affine(contract)
            self.register_buffer("low", low)
            self.register_buffer("span", span)

    def forward(self, reflectance: Tensor) -> Tensor:
        """Scale images.

        Args:
            reflectance: (B, C, H, W), NaN where there is no data.

        Returns:
            (B, C, H, W), finite; pixels without data hold the mean of their band.
        """
        valid = reflectance.isfinite()
        pixels = torch.where(valid, reflectance, 0)
        scaled = self._scale(pixels, valid)
        count = valid.sum(dim=(-2, -1), keepdim=True)
        total = torch.where(valid, scaled, 0).sum(dim=(-2, -1), keepdim=True)
        return torch.where(valid, scaled, total / count.clamp(min=1))

    def _scale(self, pixels: Tensor, valid: Tensor) -> Tensor:
        if self.scaling == "image-minmax":
            low, high = _limits(pixels, valid)
            return (pixels - low) / (high - low + RANGE_EPS)
        shared = (pixels - self.low) / self.span
        if self.scaling != "two-std-uint8":
            return shared
        return (shared * UINT8_LEVELS).clamp(0, UINT8_LEVELS).floor() / UINT8_LEVELS


def _affine(contract: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return what is taken off, and what the rest is divided by, (C, 1, 1) each."""
    statistics = contract.statistics
    assert statistics is not None, "a contract checks this"
    low, high, mean, std = (
        torch.from_numpy(statistics.column(name, contract.bands))
        for name in ("low", "high", "mean", "std")
    )
    if contract.scaling == "fixed-range":
        return low, (high - low).clamp(min=RANGE_EPS)
    if contract.scaling == "z-score":
        return mean, std.clamp(min=RANGE_EPS)
    return mean - 2 * std, 4 * std


def _limits(pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return each band's lowest and highest valid value; 0 in a band without any."""
    low = torch.where(valid, pixels, torch.inf).amin(dim=(-2, -1), keepdim=True)
    high = torch.where(valid, pixels, -torch.inf).amax(dim=(-2, -1), keepdim=True)
    is_empty = low > high
    return torch.where(is_empty, 0, low), torch.where(is_empty, 0, high)


class ExportGraph(nn.Module):
    """Scaling and model in one.

    Args:
        loaded: the model and its contract.
        output: `logits` of a fine-tuned model, or `embeddings` of its encoder.
    """

    def __init__(self, loaded: LoadedModel, output: str) -> None:
        super().__init__()
        self.scaling = ReflectanceScaling(choose_contract(loaded))
        self.model = loaded.encoder if output == EMBEDDINGS else loaded.model

    def forward(self, reflectance: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            reflectance: (B, C, H, W); for a model of change (B, 2, C, H, W).

        Returns:
            logits (B, classes) or (B, classes, H, W); or embedding (B, D) and tokens
            (B, G, Hp, Wp, D).
        """
        answer = self.model(self.scaling(reflectance))
        if isinstance(self.model, SpectralEncoder):
            return answer.flatten(1, -2).mean(dim=1), answer
        return answer


def choose_contract(loaded: LoadedModel) -> Preprocessing:
    """Return the model's contract.

    Raises:
        ConfigError: it has none.
    """
    if loaded.preprocessing is None:
        raise ConfigError(
            "the model carries no preprocessing contract, so that an exported file "
            "could not say what pixels it takes: convert or fine-tune it with bands "
            "and scaling first."
        )
    return loaded.preprocessing


def choose_output(loaded: LoadedModel, what: str) -> str:
    """Return `logits` or `embeddings`; `auto` takes logits where there are any.

    Raises:
        ConfigError: logits of a model that is not fine-tuned.
    """
    is_finetuned = isinstance(loaded.model, ClassificationModel | DenseModel)
    if what == "auto":
        return _LOGITS if is_finetuned else EMBEDDINGS
    if what == _LOGITS and not is_finetuned:
        kind = (
            "autoencoder" if isinstance(loaded.model, MaskedAutoencoder) else "encoder"
        )
        raise ConfigError(
            f"the model is an {kind} without classes, so it has no logits: export "
            "embeddings, or a fine-tuned model."
        )
    return what


def input_shape(loaded: LoadedModel, output: str) -> tuple[int, ...]:
    """Return the axes of the input after the batch."""
    contract = choose_contract(loaded)
    image = (len(contract.bands), contract.image_size, contract.image_size)
    is_pair = output == _LOGITS and isinstance(loaded.model, ChangeModel)
    return (2, *image) if is_pair else image


def output_axes(loaded: LoadedModel, output: str) -> dict[str, str]:
    """Return the names of the outputs in order, each with its axes in words."""
    if output == EMBEDDINGS:
        return {
            "embedding": "(B, D): mean of the tokens, as spectralgpt embed gives it",
            "tokens": "(B, band groups, patch rows, patch columns, D), normalised",
        }
    is_map = isinstance(loaded.model, DenseModel)
    return {"logits": "(B, classes, rows, columns)" if is_map else "(B, classes)"}


def describe(
    loaded: LoadedModel, what: str = "auto", batch: int | None = None
) -> dict[str, Any]:
    """Describe what an exported model takes and gives, in plain values.

    Args:
        loaded: the model.
        what: logits, embeddings or auto.
        batch: images it takes at once; None for any number.

    Raises:
        ConfigError: the model has no contract, or no such output.
    """
    output = choose_output(loaded, what)
    contract = choose_contract(loaded)
    axes = ["bands", "rows", "columns"]
    shape = input_shape(loaded, output)
    if len(shape) > len(axes):
        axes = ["dates: before, after", *axes]
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "package_version": __version__,
        "input": {
            "name": INPUT_NAME,
            "dtype": "float32",
            "shape": ["batch" if batch is None else batch, *shape],
            "axes": ["batch", *axes],
            "bands": list(contract.band_names),
            "wavelengths_nm": list(contract.wavelengths_nm),
            "unit": contract.unit,
            "offset_rule": contract.offset_rule,
            "files": contract.stated.facts,
            "no_data": "NaN; filled with the mean of the band's other pixels",
            "scaling": f"in the graph ({contract.scaling}): do not scale before",
        },
        "output": output,
        "outputs": output_axes(loaded, output),
        **{name: loaded.extra[name] for name in _CARRIED if loaded.extra.get(name)},
        "preprocessing": contract.to_dict(),
        "model": model_config(loaded.model),
    }


def read_description(path: Path) -> dict[str, Any]:
    """Read what `describe` gave from an exported file; the model is not run.

    Raises:
        CheckpointError: the file is damaged, or was not exported by this package.
    """
    read = _read_onnx if path.suffix == ".onnx" else _read_pt2
    try:
        text = read(path)
        found = parse_json(text, "its description")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    except (ValueError, KeyError, zipfile.BadZipFile, RuntimeError) as error:
        raise CheckpointError(
            f"{path} carries no SpectralGPT description ({error}): it is damaged, or "
            "was not made by spectralgpt export."
        ) from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise CheckpointError(f"{path} was not made by spectralgpt export.")
    return found


def _read_onnx(path: Path) -> str:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    texts = {entry.key: entry.value for entry in model.metadata_props}
    return texts[METADATA_KEY]


def _read_pt2(path: Path) -> str:
    # As a plain archive: torch's own reader would load the weights as well.
    with zipfile.ZipFile(path) as archive:
        entries = [
            entry
            for entry in archive.infolist()
            if entry.filename.endswith(f"/{METADATA_KEY}")
        ]
        if not entries or entries[0].file_size > _LIMIT_BYTES:
            raise KeyError(METADATA_KEY)
        return archive.read(entries[0]).decode("utf-8")
