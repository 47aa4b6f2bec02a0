"""Tables of many files: their classes as CSV, their embeddings as GeoParquet or npz."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.samples import MULTI_LABEL
from spectralgpt.errors import DataError
from spectralgpt.files import write_file, write_table
from spectralgpt.models.building import check_output
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.rasters import RasterFile, Window
from spectralgpt.rasters.footprints import (
    LONLAT,
    centre_lonlat,
    cut_at_180,
    footprint_lonlat,
)
from spectralgpt.scenes.embedding import embed_scene, embed_windows
from spectralgpt.scenes.inputs import Outcome, describe_input, for_each_input
from spectralgpt.scenes.loading import stated_contract
from spectralgpt.scenes.windows import (
    Fit,
    check_size,
    choose_bands,
    prepared_windows,
)
from spectralgpt.sensors import Band
from spectralgpt.tasks.classification import check_classifier, to_probabilities

Level = Literal["image", "token"]
Progress = Callable[[float], None]
TableFormat = Literal["geoparquet", "npz"]
_SUFFIX = {"geoparquet": ".parquet", "npz": ".npz"}
_NOWHERE = float("nan")
_CORNERS = 4
_THRESHOLD = 0.5


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
    contract = stated_contract(loaded, "The model")
    rows: list[dict[str, Any]] = []

    def work(path: Path, _: Progress) -> None:
        item = describe_input(path, image_format or ImageFormat(), contract)
        bands = choose_bands(contract, item)
        if level == "token":
            found = _scene_cells(loaded, path, item, batch_size)
        else:
            embedded = embed_windows(
                loaded.encoder, contract, item, fit=fit, batch_size=batch_size
            )
            found = [
                _place_row(path, item, bands, window, vector)
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
    contract, model = stated_contract(loaded, "The model"), loaded.model
    assert isinstance(model, ClassificationModel)
    device = next(model.parameters()).device
    rows: list[dict[str, Any]] = []

    def work(path: Path, _: Progress) -> None:
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
    write_table(table, rows)
    return Outcome(table, len(rows), failures)


def _scene_cells(
    loaded: LoadedModel, path: Path, item: Any, batch_size: int
) -> list[dict[str, Any]]:
    """Rows for the token cells that hold any valid pixel."""
    contract = stated_contract(loaded, "The model")
    bands = choose_bands(contract, item)
    scene = embed_scene(loaded.encoder, contract, item, batch_size=batch_size)
    height, width = item.shape(bands)
    side = scene.cell_px
    return [
        _place_row(
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


def _place_row(
    path: Path,
    item: RasterFile,
    bands: Sequence[Band],
    window: Window,
    embedding: NDArray[np.float32],
) -> dict[str, Any]:
    """Return an embedding (D,) and what it is of, by column of the table.

    Rows and columns are pixels of the file's finest band that was read, longitude and
    latitude degrees, NaN without a reference system; the footprint is four (longitude,
    latitude) corners, or None.
    """
    grid = item.grid(bands)
    longitude, latitude = centre_lonlat(grid, window) or (_NOWHERE, _NOWHERE)
    return {
        "path": str(path),
        **vars(window),
        "bands": ",".join(band.name for band in bands),
        "crs": grid.crs or "",
        "longitude": longitude,
        "latitude": latitude,
        "embedding": embedding,
        "footprint": footprint_lonlat(grid, window),
    }


def table_path(folder: Path, table_format: TableFormat) -> Path:
    """Return the file that `write_embeddings` makes."""
    return folder / f"embeddings{_SUFFIX[table_format]}"


def write_embeddings(
    folder: Path, rows: Sequence[dict[str, Any]], table_format: TableFormat
) -> Path:
    """Write rows of `_place_row` as embeddings.parquet or embeddings.npz.

    Raises:
        DataError: there are no rows.
        OutputError: the file cannot be written.
    """
    if not rows:
        raise DataError("There are no embeddings to write.")
    path = table_path(folder, table_format)
    write = _write_geoparquet if table_format == "geoparquet" else _write_npz
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    write_file(path, lambda temporary: write(temporary, columns))
    return path


def _write_geoparquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import geopandas
    from shapely import Polygon

    corners = columns.pop("footprint")
    footprints = [each and cut_at_180(Polygon(each)) for each in corners]
    frame = geopandas.GeoDataFrame(columns, geometry=footprints, crs=LONLAT)
    frame.to_parquet(path, index=False)


def _write_npz(path: Path, columns: dict[str, list[Any]]) -> None:
    nowhere = np.full((_CORNERS, 2), np.nan)
    columns["footprint"] = [
        nowhere if each is None else np.array(each) for each in columns["footprint"]
    ]
    arrays: dict[str, Any] = {k: np.array(values) for k, values in columns.items()}
    # Through a file object: given a name, numpy would add a suffix to it.
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
