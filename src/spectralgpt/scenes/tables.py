"""Tables of many files: their classes as CSV, their embeddings as GeoParquet or npz."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.samples import MULTI_LABEL
from spectralgpt.errors import DataError, require
from spectralgpt.files import write_file, write_table
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.weights import check_output
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile, Window, read_raster
from spectralgpt.rasters.footprints import (
    LONLAT,
    centre_lonlat,
    cut_at_180,
    footprint_lonlat,
)
from spectralgpt.resampling import absent_groups, resampling_of
from spectralgpt.scenes.embedding import embed_scene
from spectralgpt.scenes.inputs import Outcome, Progress, describe_input, for_each_input
from spectralgpt.scenes.loading import stated_contract
from spectralgpt.scenes.windows import check_size, choose_bands, cover_axis
from spectralgpt.tasks.classification import to_probabilities

Fit = Literal["auto", "resize", "windows"]
TABLES = {"geoparquet": "embeddings.parquet", "npz": "embeddings.npz"}
"""Formats of embeddings, and the files that they are written to."""
_NOWHERE = float("nan")
_CORNERS = 4
_THRESHOLD = 0.5
# A file that is not much larger than a window is more likely a chip than a scene.
_CHIP_SLACK = 1.5
_Row = dict[str, Any]


def embed_files(
    loaded: LoadedModel,
    paths: Sequence[Path],
    output: Path,
    *,
    image_format: ImageFormat | None = None,
    table_format: Literal["geoparquet", "npz"] = "geoparquet",
    level: Literal["image", "token"] = "image",
    fit: Fit = "auto",
    batch_size: int = 16,
    strict: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Write one embedding per file or window, or one per token cell of each scene.

    Args:
        loaded: the model, on the device to use.
        paths: files, see `spectralgpt.scenes.inputs.list_inputs`.
        output: folder of the table.
        image_format: what is stated about the files.
        table_format: `geoparquet` or `npz`.
        level: `image` or `token`.
        fit: how files become images, for level `image`: `resize` takes the whole file
            as one image, `windows` cuts it, `auto` takes files of up to 1.5 windows a
            side as one image and cuts larger ones.
        batch_size: images encoded at once.
        strict: stop at the first bad file.
        progress: called with 1 after each file.

    Raises:
        DataError: no file could be used.
    """
    contract, encoder = stated_contract(loaded, "The model"), loaded.encoder

    def embed(item: RasterFile) -> Iterator[tuple[Window, NDArray[np.float32]]]:
        if level == "token":
            return _embed_cells(encoder, contract, item, batch_size)
        return _embed_windows(encoder, contract, item, fit, batch_size)

    def describe(path: Path, item: RasterFile) -> list[_Row]:
        bands = choose_bands(contract, item)
        grid, resampling = item.grid(bands), "".join(resampling_of([item]).values())
        found = []
        for window, embedding in embed(item):
            longitude, latitude = centre_lonlat(grid, window) or (_NOWHERE, _NOWHERE)
            row = {
                "path": str(path),
                **vars(window),
                "bands": ",".join(band.name for band in bands),
                "resampling": resampling,
                "crs": grid.crs or "",
                "longitude": longitude,
                "latitude": latitude,
                "embedding": embedding,
                "footprint": footprint_lonlat(grid, window),
            }
            found.append(row)
        return found

    rows, failures = _list_rows(
        paths, contract, describe, image_format, strict, progress
    )
    return Outcome(_write_embeddings(output, rows, table_format), len(rows), failures)


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
    """Write predictions.csv: classes with probabilities, a row per file or window.

    Windows are as large as the chips that the model was fine-tuned on.

    Args:
        loaded: a fine-tuned model, on the device to use.
        name: what the model is called in messages.
        paths: files, see `spectralgpt.scenes.inputs.list_inputs`.
        output: folder of the table.
        image_format: what is stated about the files.
        fit: how files become images; see `embed_files`.
        batch_size: images classified at once.
        strict: stop at the first bad file.
        progress: called with 1 after each file.

    Raises:
        CheckpointError: the model is not fine-tuned.
        DataError: no file could be used.
    """
    names, task = loaded.classes(name)
    contract = stated_contract(loaded, "The model")

    def predict(path: Path, item: RasterFile) -> list[_Row]:
        grid = item.grid(choose_bands(contract, item))
        return [
            _prediction(path, window, centre_lonlat(grid, window), row, names, task)
            for window, row in classify_windows(loaded, name, item, fit, batch_size)
        ]

    rows, failures = _list_rows(
        paths, contract, predict, image_format, strict, progress
    )
    table = output / "predictions.csv"
    write_table(table, rows)
    return Outcome(table, len(rows), failures)


def classify_windows(
    loaded: LoadedModel,
    name: str,
    item: RasterFile,
    fit: Fit = "auto",
    batch_size: int = 16,
) -> Iterator[tuple[Window, Tensor]]:
    """Yield the windows of a file with their probabilities (K,); see `predict_files`.

    Raises:
        CheckpointError: the model is not fine-tuned.
        DataError: no window has a valid pixel, or the model gives no numbers.
    """
    _, task = loaded.classes(name)
    contract, model = stated_contract(loaded, name), loaded.model
    assert isinstance(model, ClassificationModel)
    device = next(model.parameters()).device
    model.encoder.absent_groups = absent_groups([item])
    check_size(item, choose_bands(contract, item), model.encoder.patch_size)
    for windows, images in _prepared_windows(
        item, contract, fit, batch_size, loaded.extra.get("chip_px")
    ):
        with torch.inference_mode():
            probabilities = to_probabilities(model(images.to(device)), task)
        check_output(probabilities, Path(item.name).name)
        yield from zip(windows, probabilities.float().cpu(), strict=True)


def _list_rows(
    paths: Sequence[Path],
    contract: Preprocessing,
    rows_of: Callable[[Path, RasterFile], list[_Row]],
    image_format: ImageFormat | None,
    strict: bool,
    progress: Progress | None,
) -> tuple[list[_Row], list[tuple[Path, str]]]:
    """Return the rows of all files, each whole or not at all, and the failures."""
    rows: list[_Row] = []

    def work(path: Path, _: Progress) -> None:
        item = describe_input(path, image_format or ImageFormat(), contract)
        rows.extend(rows_of(path, item))

    return rows, for_each_input(paths, work, strict=strict, progress=progress)


def _embed_windows(
    encoder: Encoder,
    contract: Preprocessing,
    item: RasterFile,
    fit: Fit = "auto",
    batch_size: int = 16,
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Yield windows with the mean (D,) of their normalised tokens."""
    check_size(item, choose_bands(contract, item), encoder.patch_size)
    encoder.absent_groups = absent_groups([item])
    device = next(encoder.parameters()).device
    for windows, images in _prepared_windows(item, contract, fit, batch_size):
        with torch.inference_mode():
            pooled = check_output(encoder.pooled(images.to(device)).float().cpu())
        yield from zip(windows, pooled.numpy(), strict=True)


def _embed_cells(
    encoder: Encoder, contract: Preprocessing, item: RasterFile, batch_size: int
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Yield the token cells of a scene that hold any valid pixel."""
    scene = embed_scene(encoder, contract, item, batch_size=batch_size)
    height, width = item.shape(choose_bands(contract, item))
    side = scene.cell_px
    for row, column in np.argwhere(scene.valid > 0).tolist():
        top, left = row * side, column * side
        size = min(side, height - top), min(side, width - left)
        yield Window(top, left, *size), scene.values[row, column]


def _prepared_windows(
    item: RasterFile,
    preprocessing: Preprocessing,
    fit: Fit,
    batch_size: int,
    window_px: int | None = None,
) -> Iterator[tuple[list[Window], Tensor]]:
    """Read a file as one image, or the windows that cover it, ready for the model.

    Yields windows, of the model's image size unless another one is stated, with their
    images (B, C, H, W). Windows without a valid pixel are left out.
    """
    size = preprocessing.image_size
    bands = choose_bands(preprocessing, item)
    height, width = item.shape(bands)
    side = window_px or size
    as_one = fit == "resize" or (
        fit == "auto" and max(height, width) <= _CHIP_SLACK * side
    )
    windows = [Window(0, 0, height, width)]
    if not as_one:
        shown = min(side, height), min(side, width)
        rows, columns = (cover_axis(most, side, side) for most in (height, width))
        windows = [Window(row, column, *shown) for row in rows for column in columns]
    found = 0
    for begin in range(0, len(windows), batch_size):
        part = windows[begin : begin + batch_size]
        read = [
            read_raster(item, bands, None if as_one else at, out_size=(size, size))
            for at in part
        ]
        kept = [i for i, raster in enumerate(read) if raster.valid.any()]
        if kept:
            found += len(kept)
            images = [torch.from_numpy(preprocessing.prepare(read[i])[0]) for i in kept]
            yield [part[i] for i in kept], torch.stack(images)
    if not found:
        raise DataError(f"{item.name} has no valid pixel in any window: leave it out.")


def _prediction(
    path: Path,
    window: Window,
    centre: tuple[float, float] | None,
    probabilities: Tensor,
    names: Sequence[str],
    task: str,
) -> _Row:
    if task == MULTI_LABEL:
        chosen = (probabilities >= _THRESHOLD).nonzero().flatten().tolist()
    else:
        chosen = [int(probabilities.argmax())]
    longitude, latitude = centre or ("", "")
    return {
        "path": str(path),
        **vars(window),
        "longitude": longitude,
        "latitude": latitude,
        "prediction": ";".join(names[k] for k in chosen),
        "probability": f"{float(probabilities.max()):.6f}",
        **{
            f"p({name})": f"{value:.6f}"
            for name, value in zip(names, probabilities.tolist(), strict=True)
        },
    }


def _write_embeddings(folder: Path, rows: Sequence[_Row], table_format: str) -> Path:
    """Write rows of `embed_files` as embeddings.parquet or embeddings.npz."""
    if not rows:
        raise DataError("There are no embeddings to write.")
    path = folder / TABLES[table_format]
    write = _write_geoparquet if table_format == "geoparquet" else _write_npz
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if not any(columns.get("resampling", ())):
        columns.pop("resampling", None)
    write_file(path, lambda temporary: write(temporary, columns))
    return path


def _write_geoparquet(path: Path, columns: dict[str, list[Any]]) -> None:
    require("geopandas")
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
