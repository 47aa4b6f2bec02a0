"""Models as files that run without this package: ONNX and `torch.export`.

What is exported is a model with its scaling, reflectance in and answers out. The
scaling is part of the graph, and so is the filling of pixels without data: whoever runs
the file cannot leave them out, or apply another model's statistics. A description
travels along: what the model takes, what it gives, how it was made. ONNX holds it as a
metadata property, `.pt2` as an extra file, both under one key; a copy for people lies
beside the file. Reading it runs nothing. Only files that give the model's numbers are
kept.
"""

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from spectralgpt import __version__
from spectralgpt.building import model_config
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.config import check_range
from spectralgpt.errors import CheckpointError, ConfigError, OutputError, require
from spectralgpt.files import folder_beside, may_replace, parse_json
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.heads import (
    ChangeModel,
    ClassificationModel,
    DenseModel,
    RegressionModel,
)
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import (
    LOG_SHIFT,
    RANGE_EPS,
    UINT8_LEVELS,
    Preprocessing,
)
from spectralgpt.rasters import Raster

ExportFormat = Literal["onnx", "torch-export"]
What = Literal["auto", "embeddings", "logits"]
_LOGITS, _EMBEDDINGS = "logits", "embeddings"
_SUFFIXES: dict[str, ExportFormat] = {".onnx": "onnx", ".pt2": "torch-export"}
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_METADATA_KEY = "spectralgpt.json"
_INPUT_NAME = "reflectance"
_FORMAT = "spectralgpt-export"
_FORMAT_VERSION = 1
_CARRIED = ("task", "class_names", "positive", "colours", "target")
_LIMIT_BYTES = 16 * 2**20
_LARGEST_BATCH = 2**30
"""Without a bound PyTorch 2.6 takes slices for a limit of the batch, and refuses."""
_TRACED_BATCH = 2  # Sizes 0 and 1 would be taken for constants.
_COMPARED_BATCHES = (1, 3)
_BRIGHTEST = 0.6
_INVALID_SHARE = 0.02


def choose_format(path: Path, stated: ExportFormat | None = None) -> ExportFormat:
    """Return the format of a file by its ending, and that it can be written here.

    Raises:
        ConfigError: the ending is unknown or another format's, or packages are missing.
    """
    found = _SUFFIXES.get(path.suffix)
    if found is None:
        raise ConfigError(
            f"{path}: the ending {path.suffix!r} is no format of exported models: use "
            f"{' or '.join(_SUFFIXES)}."
        )
    if stated is not None and stated != found:
        raise ConfigError(f"{path} has the ending of {found}, not of {stated}.")
    if found == "onnx":
        require(*_ONNX_PACKAGES)
    return found


def export_model(
    loaded: LoadedModel,
    path: Path,
    what: What = "auto",
    batch: int | None = None,
    tolerance: float = 1e-4,
) -> tuple[float, tuple[int, ...]]:
    """Write a model as a file that runs without this package.

    Nothing is left if the file does not give the model's numbers. A copy of what
    travels with it lies beside it, as `path` with `.json` appended.

    Args:
        loaded: the model, on the CPU; its weights are left without gradients.
        path: the file to make, .onnx or .pt2; replaced if it is there.
        what: logits of a fine-tuned model, the numbers of one of regression, or
            embeddings of its encoder; auto: logits where there are any.
        batch: images taken at once; None for any number.
        tolerance: greatest difference from the model that is accepted, as a share of
            the largest number of an output.

    Returns:
        The greatest difference of any number from the model's, over the greatest number
        of its output, and the sizes of the random batches that were compared.

    Raises:
        ConfigError: the ending or a value is unknown, packages are missing, or the
            model has no contract or no such output.
        CheckpointError: it cannot be exported, or gives other numbers.
        OutputError: it cannot be written.
    """
    check_range("at least 1", {"batch": batch})
    check_range("above 0", {"tolerance": tolerance})
    file_format = choose_format(path)
    output = _choose_output(loaded, what)
    described = _describe(loaded, output, batch)
    text = json.dumps(described, indent=2)
    batches = _COMPARED_BATCHES if batch is None else (batch, batch)
    program = _trace(loaded, output, batch)
    try:
        with folder_beside(path) as folder:
            made = folder / path.name
            if file_format == "onnx":
                _write_onnx(program, made, text, list(described["outputs"]))
            else:
                torch.export.save(program, made, extra_files={_METADATA_KEY: text})
            difference = _compare(made, loaded, output, batches)
            if not difference <= tolerance:
                raise CheckpointError(
                    f"{path.name} was not kept: it differs from the model by "
                    f"{difference:.2g} of the largest value, more than {tolerance:g}."
                )
            (folder / f"{path.name}.json").write_text(text + "\n", encoding="utf-8")
            weights = f"{path.name}.data"  # Of a model that was too large for one file.
            if not (folder / weights).exists():
                path.with_name(weights).unlink(missing_ok=True)
            # The model comes last: where it is, all of it is.
            for file in sorted(folder.iterdir(), key=lambda each: each == made):
                target = path.with_name(file.name)
                if file.suffix != ".json" or may_replace(target):
                    os.replace(file, target)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}.") from error
    return difference, batches


def read_description(path: Path) -> dict[str, Any]:
    """Read the description in an exported file, plain values; the model is not run.

    Raises:
        CheckpointError: the file is damaged, or was not exported by this package.
        ConfigError: onnx is not installed.
    """
    read = _read_pt2
    if path.suffix == ".onnx":
        require("onnx")
        read = _read_onnx
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
    return texts[_METADATA_KEY]


def _read_pt2(path: Path) -> str:
    # As a plain archive: torch's own reader would load the weights as well.
    with zipfile.ZipFile(path) as archive:
        entries = [
            entry
            for entry in archive.infolist()
            if entry.filename.endswith(f"/{_METADATA_KEY}")
        ]
        if not entries or entries[0].file_size > _LIMIT_BYTES:
            raise KeyError(_METADATA_KEY)
        return archive.read(entries[0]).decode("utf-8")


class ReflectanceScaling(nn.Module):
    """Scale reflectance as a contract says, and fill pixels without data.

    The numbers are those of `Preprocessing.prepare`, in operations of torch.
    """

    low: Tensor
    span: Tensor

    def __init__(self, contract: Preprocessing) -> None:
        super().__init__()
        self.scaling = contract.scaling
        if contract.scaling != "image-minmax":
            for name, value in zip(("low", "span"), contract.affine(), strict=True):
                self.register_buffer(name, torch.from_numpy(value))

    def forward(self, reflectance: Tensor) -> Tensor:
        """Scale (B, C, H, W); NaN becomes the mean of its band."""
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
        if self.scaling == "log":
            pixels = (pixels.clamp(min=0) + LOG_SHIFT).log()
        shared = (pixels - self.low) / self.span
        if self.scaling != "two-std-uint8":
            return shared
        return (shared * UINT8_LEVELS).clamp(0, UINT8_LEVELS).floor() / UINT8_LEVELS


def _limits(pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return each band's lowest and highest valid value; 0 in a band without any."""
    low = torch.where(valid, pixels, torch.inf).amin(dim=(-2, -1), keepdim=True)
    high = torch.where(valid, pixels, -torch.inf).amax(dim=(-2, -1), keepdim=True)
    is_empty = low > high
    return torch.where(is_empty, 0, low), torch.where(is_empty, 0, high)


class _ExportGraph(nn.Module):
    """Scaling and model in one, to `logits`, or `embeddings` of its encoder."""

    def __init__(self, loaded: LoadedModel, output: str) -> None:
        super().__init__()
        self.scaling = ReflectanceScaling(_choose_contract(loaded))
        self.model = loaded.encoder if output == _EMBEDDINGS else loaded.model

    def forward(self, reflectance: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model on reflectance (B, C, H, W), or (B, 2, C, H, W) for change.

        Gives logits (B, classes) or (B, classes, H, W), or numbers (B, 1, H, W); or
        embedding (B, D) and tokens (B, G, Hp, Wp, D).
        """
        answer = self.model(self.scaling(reflectance))
        if isinstance(self.model, Encoder):
            return answer.flatten(1, -2).mean(dim=1), answer
        return answer


def _choose_contract(loaded: LoadedModel) -> Preprocessing:
    """Return the model's contract."""
    if loaded.preprocessing is None:
        raise ConfigError(
            "the model carries no preprocessing contract, so that an exported file "
            "could not say what pixels it takes: convert or fine-tune it with bands "
            "and scaling first."
        )
    return loaded.preprocessing


def _choose_output(loaded: LoadedModel, what: str) -> str:
    """Return `logits` or `embeddings`; `auto` takes logits where there are any."""
    if what not in get_args(What):
        raise ConfigError(f"what {what!r} is unknown: use {', '.join(get_args(What))}.")
    is_finetuned = isinstance(loaded.model, ClassificationModel | DenseModel)
    if what == "auto":
        return _LOGITS if is_finetuned else _EMBEDDINGS
    if what == _LOGITS and not is_finetuned:
        kind = (
            "autoencoder" if isinstance(loaded.model, MaskedAutoencoder) else "encoder"
        )
        raise ConfigError(
            f"the model is an {kind} without classes, so it has no logits: export "
            "embeddings, or a fine-tuned model."
        )
    return what


def _input_shape(loaded: LoadedModel, output: str) -> tuple[int, ...]:
    """Return the axes of the input after the batch."""
    contract = _choose_contract(loaded)
    image = (len(contract.bands), contract.image_size, contract.image_size)
    is_pair = output == _LOGITS and isinstance(loaded.model, ChangeModel)
    return (2, *image) if is_pair else image


def _describe(loaded: LoadedModel, output: str, batch: int | None) -> dict[str, Any]:
    """Describe what an exported model takes and gives, in plain values."""
    contract, shape = _choose_contract(loaded), _input_shape(loaded, output)
    axes = ["dates: before, after", "bands", "rows", "columns"][-len(shape) :]
    outputs = {"logits": "(B, classes)"}
    if isinstance(loaded.model, DenseModel):
        outputs = {"logits": "(B, classes, rows, columns)"}
    if isinstance(loaded.model, RegressionModel):
        unit = loaded.unit or "the target's unit"
        outputs = {"numbers": f"(B, 1, rows, columns), in {unit}"}
    if output == _EMBEDDINGS:
        outputs = {
            "embedding": "(B, D): mean of the tokens, as spectralgpt embed gives it",
            "tokens": "(B, band groups, patch rows, patch columns, D), normalised",
        }
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "package_version": __version__,
        "input": {
            "name": _INPUT_NAME,
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
        "output": output if output == _EMBEDDINGS else next(iter(outputs)),
        "outputs": outputs,
        **{name: loaded.extra[name] for name in _CARRIED if loaded.extra.get(name)},
        "preprocessing": contract.to_dict(),
        "model": model_config(loaded.model),
    }


def _trace(
    loaded: LoadedModel, output: str, batch: int | None
) -> torch.export.ExportedProgram:
    graph = _ExportGraph(loaded, output).eval().requires_grad_(False)
    example = torch.zeros(batch or _TRACED_BATCH, *_input_shape(loaded, output))
    images = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    axes = None if batch else {_INPUT_NAME: {0: images}}
    try:
        with torch.no_grad():
            return torch.export.export(graph, (example,), dynamic_shapes=axes)
    except Exception as error:
        # Of many kinds, none of which is public.
        raise CheckpointError(f"the model cannot be traced: {error}") from error


def _write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    text: str,
    output_names: list[str],
) -> None:
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[_INPUT_NAME],
            output_names=output_names,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise CheckpointError(f"the model has no form in ONNX: {error}") from error
    assert written is not None, "given when no file is named"
    written.model.metadata_props[_METADATA_KEY] = text
    # Weights of more than 2 GB go to a file beside it, which this names by itself.
    written.save(path)


def _compare(
    path: Path, loaded: LoadedModel, output: str, batches: Sequence[int]
) -> float:
    """Run an exported file and the model on random images, some pixels without data.

    The model runs as everywhere in this package: scaled by its contract, in the form
    that is fastest here.
    """
    run = _open_exported(path)
    worst = 0.0
    for seed, size in enumerate(batches):
        generator = torch.Generator().manual_seed(seed)
        shape = (size, *_input_shape(loaded, output))
        images = torch.rand(shape, generator=generator) * _BRIGHTEST
        is_invalid = torch.rand(shape, generator=generator) < _INVALID_SHARE
        images = images.masked_fill(is_invalid, torch.nan)
        expected = _run_model(loaded, output, images)
        try:
            given = run(images)
        except Exception as error:
            # Runtimes raise errors of their own without a common base.
            raise CheckpointError(
                f"{path.name} does not run on a batch of {size}: {error}"
            ) from error
        pairs = zip(given, expected, strict=True)
        worst = max(worst, *(_difference(*pair) for pair in pairs))
    return worst


def _open_exported(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Open an exported file; give what runs it on reflectance.

    A `.pt2` is opened by torch, which trusts it: open only your own.
    """
    if path.suffix == ".onnx":
        import onnxruntime

        session: Any = onnxruntime.InferenceSession(
            path, providers=["CPUExecutionProvider"]
        )
        return lambda images: tuple(
            map(torch.from_numpy, session.run(None, {_INPUT_NAME: images.numpy()}))
        )
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(images: Tensor) -> tuple[Tensor, ...]:
        answer = module(images)
        return answer if isinstance(answer, tuple) else (answer,)

    return run


@torch.inference_mode()
def _run_model(loaded: LoadedModel, output: str, images: Tensor) -> tuple[Tensor, ...]:
    contract = _choose_contract(loaded)
    scaled = []
    for image in images.flatten(0, -4).numpy():
        valid = np.isfinite(image)
        raster = Raster(np.where(valid, image, np.float32(0)), valid, contract.bands)
        scaled.append(contract.prepare(raster, is_checked=True)[0])
    prepared = torch.from_numpy(np.stack(scaled)).reshape(images.shape)
    if output == _EMBEDDINGS:
        tokens = loaded.encoder(prepared)
        return tokens.flatten(1, -2).mean(dim=1), tokens
    return (loaded.model(prepared),)


def _difference(given: Tensor, expected: Tensor) -> float:
    if given.shape != expected.shape or not bool(given.isfinite().all()):
        return float("inf")
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((given - expected).abs().max() / largest)
