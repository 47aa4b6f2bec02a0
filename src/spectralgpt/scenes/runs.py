"""Embed or classify many files: what the commands `embed` and `predict` do."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel, write_atomically
from spectralgpt.data.chips import MULTI_LABEL
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import CheckpointError
from spectralgpt.models.building import check_output
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Window
from spectralgpt.rasters.footprints import centre_lonlat
from spectralgpt.scenes.embedding import embed_scene, embed_windows
from spectralgpt.scenes.inputs import Failure, describe_input, for_each_input
from spectralgpt.scenes.tables import (
    EmbeddingRow,
    TableFormat,
    place_row,
    write_embeddings,
)
from spectralgpt.scenes.windows import (
    Fit,
    check_size,
    choose_bands,
    prepared_windows,
)
from spectralgpt.tasks.classification import check_classifier, to_probabilities

__all__ = ["Level", "Outcome", "embed_files", "predict_files"]

Level = Literal["image", "token"]
Progress = Callable[[int], None]
_THRESHOLD = 0.5


@dataclass(frozen=True)
class Outcome:
    """What was made of many files.

    Args:
        path: the file that was written.
        rows: number of its rows.
        failures: files that could not be used.
    """

    path: Path
    rows: int
    failures: list[Failure]


def embed_files(
    loaded: LoadedModel,
    paths: Sequence[Path],
    output: Path,
    *,
    image_format: ImageFormat | None = None,
    table_format: TableFormat = "geoparquet",
    level: Level = "image",
    fit: Fit = "auto",
    batch_size: int = 16,
    strict: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Write one embedding a file or window, or one a token cell of each scene.

    Args:
        loaded: the model, on the device to use.
        paths: files, see `spectralgpt.scenes.inputs.list_inputs`.
        output: folder of the table.
        image_format: what is stated about the files.
        table_format: `geoparquet` or `npz`.
        level: `image` or `token`.
        fit: how files become images, for level `image`; see `prepared_windows`.
        batch_size: images encoded at once.
        strict: stop at the first bad file.
        progress: called with 1 after each file.

    Raises:
        DataError: no file could be used.
    """
    contract = _contract(loaded)
    rows: list[EmbeddingRow] = []

    def work(path: Path) -> None:
        item = describe_input(path, image_format or ImageFormat(), contract)
        bands = choose_bands(contract, item)
        if level == "token":
            found = _scene_cells(loaded, path, item, batch_size)
        else:
            embedded = embed_windows(
                loaded.encoder, contract, item, fit=fit, batch_size=batch_size
            )
            found = [
                place_row(path, item, bands, window, vector)
                for window, vector in embedded
            ]
        rows.extend(found)

    failures = for_each_input(paths, work, strict=strict, progress=progress)
    return Outcome(write_embeddings(output, rows, table_format), len(rows), failures)


def predict_files(
    loaded: LoadedModel,
    name: str,
    paths: Sequence[Path],
    output: Path,
    *,
    image_format: ImageFormat | None = None,
    fit: Fit = "auto",
    batch_size: int = 16,
    strict: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Write predictions.csv: classes with probabilities, a row a file or window.

    Windows are as large as the chips that the model was fine-tuned on.

    Args:
        loaded: a fine-tuned model, on the device to use.
        name: what the model is called in messages.
        paths: files, see `spectralgpt.scenes.inputs.list_inputs`.
        output: folder of the table.
        image_format: what is stated about the files.
        fit: how files become images; see `prepared_windows`.
        batch_size: images classified at once.
        strict: stop at the first bad file.
        progress: called with 1 after each file.

    Raises:
        CheckpointError: the model is not fine-tuned.
        DataError: no file could be used.
    """
    names, task = check_classifier(loaded.model, loaded.extra, name)
    contract, model = _contract(loaded), loaded.model
    assert isinstance(model, ClassificationModel)
    device = next(model.parameters()).device
    rows: list[dict[str, Any]] = []

    def work(path: Path) -> None:
        item = describe_input(path, image_format or ImageFormat(), contract)
        bands = choose_bands(contract, item)
        check_size(item, bands, model.encoder.patch_size)
        found = []
        for windows, images in prepared_windows(
            item,
            contract,
            fit=fit,
            window_px=loaded.extra.get("chip_px"),
            batch_size=batch_size,
        ):
            with torch.inference_mode():
                probabilities = to_probabilities(model(images.to(device)), task)
            check_output(probabilities, path.name)
            for window, row in zip(windows, probabilities.float().cpu(), strict=True):
                at = centre_lonlat(item.grid(bands), window)
                found.append(_prediction(path, window, at, row, names, task))
        rows.extend(found)

    failures = for_each_input(paths, work, strict=strict, progress=progress)
    table = output / "predictions.csv"
    write_atomically(table, lambda temporary: _write_csv(temporary, rows))
    return Outcome(table, len(rows), failures)


def _contract(loaded: LoadedModel) -> Preprocessing:
    if loaded.preprocessing is None:
        raise CheckpointError(
            "The model does not say which bands and scaling it takes: convert it with "
            "`spectralgpt convert`, or fine-tune it with this package."
        )
    return loaded.preprocessing


def _scene_cells(
    loaded: LoadedModel, path: Path, item: Any, batch_size: int
) -> list[EmbeddingRow]:
    """Rows for the token cells that hold any valid pixel."""
    contract = _contract(loaded)
    bands = choose_bands(contract, item)
    scene = embed_scene(loaded.encoder, contract, item, batch_size=batch_size)
    height, width = item.shape(bands)
    side = scene.cell_px
    return [
        place_row(
            path,
            item,
            bands,
            Window(
                row * side,
                column * side,
                min(side, height - row * side),
                min(side, width - column * side),
            ),
            scene.values[row, column],
        )
        for row in range(scene.grid.height)
        for column in range(scene.grid.width)
        if scene.valid[row, column] > 0
    ]


def _prediction(
    path: Path,
    window: Window,
    centre: tuple[float, float] | None,
    probabilities: Tensor,
    names: Sequence[str],
    task: str,
) -> dict[str, Any]:
    if task == MULTI_LABEL:
        chosen = (probabilities >= _THRESHOLD).nonzero().flatten().tolist()
    else:
        chosen = [int(probabilities.argmax())]
    longitude, latitude = centre or ("", "")
    return {
        "path": str(path),
        "row": window.row,
        "column": window.column,
        "height": window.height,
        "width": window.width,
        "longitude": longitude,
        "latitude": latitude,
        "prediction": ";".join(names[k] for k in chosen),
        "probability": f"{float(probabilities.max()):.6f}",
        **{
            f"p({name})": f"{value:.6f}"
            for name, value in zip(names, probabilities.tolist(), strict=True)
        },
    }


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
