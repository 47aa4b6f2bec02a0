"""What travels with an exported model: what it takes, what it gives, how it was made.

ONNX holds it as a metadata property, `.pt2` as an extra file, both under
`METADATA_KEY`; a copy for people lies beside the file. Reading it runs nothing.
"""

import zipfile
from pathlib import Path
from typing import Any

from spectralgpt import __version__
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import CheckpointError
from spectralgpt.exporting.graphs import (
    EMBEDDINGS,
    choose_contract,
    choose_output,
    input_shape,
)
from spectralgpt.json_files import parse_json
from spectralgpt.models.building import model_config
from spectralgpt.models.heads import DenseModel

__all__ = ["INPUT_NAME", "METADATA_KEY", "describe", "output_axes", "read_description"]

METADATA_KEY = "spectralgpt.json"
INPUT_NAME = "reflectance"
_FORMAT = "spectralgpt-export"
_FORMAT_VERSION = 1
_CARRIED = ("task", "class_names", "positive", "colours")
_LIMIT_BYTES = 16 * 2**20


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
