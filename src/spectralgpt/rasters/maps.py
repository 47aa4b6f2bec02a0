"""What maps hold: classes with names and colours, probabilities, measures of pixels.

Maps are Cloud-Optimized GeoTIFFs that say what they are. Rows are written as they are
made (`spectralgpt.rasters.row_files`); a map appears under its name when it is whole.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from spectralgpt import __version__
from spectralgpt.errors import ConfigError
from spectralgpt.outputs import folder_beside
from spectralgpt.rasters.files import open_raster, quiet_gdal
from spectralgpt.rasters.gdal_errors import reading, writing
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.row_files import (
    LEGEND_SUFFIX,
    Layers,
    RowFile,
)

__all__ = [
    "LEGEND_SUFFIX",
    "MODEL_TAG",
    "NO_CLASS",
    "RowWriter",
    "class_layers",
    "making_in_folder",
    "measure_layers",
    "move_map",
    "probability_layers",
    "read_class_rows",
    "writing_class_map",
    "writing_probabilities",
]

NO_CLASS = 255
"""What a map of classes holds where the image shows nothing."""
RowWriter = Callable[[int, NDArray[Any]], object]
"""Takes the first row and the numbers (layers, rows, W)."""
MODEL_TAG = "SPECTRALGPT_MODEL"
_ROWS = 512


def class_layers(
    names: Sequence[str],
    colours: Sequence[str],
    tags: Mapping[str, str] | None = None,
) -> Layers:
    """Describe a map of class indices in 8-bit numbers.

    Names stand in tags CLASS_0, CLASS_1, ..., which `spectralgpt.data.dense` reads in
    masks, and as GDAL's names of categories, from which QGIS makes its legend.

    Args:
        names: of the classes, in the order of their indices.
        colours: one a class, such as "#1b7837".
        tags: further text by key.

    Raises:
        ConfigError: there are more classes than 8-bit numbers.
    """
    if len(names) > NO_CLASS:
        raise ConfigError(
            f"{len(names)} classes do not fit a map of 8-bit numbers, which holds "
            f"{NO_CLASS}. Fine-tune with fewer classes."
        )
    classes = {f"CLASS_{i}": name for i, name in enumerate(names)}
    return Layers(
        ("class",),
        "uint8",
        NO_CLASS,
        "mode",
        tuple(names),
        tuple(colours),
        _tags(tags) | classes,
    )


def probability_layers(
    names: Sequence[str], tags: Mapping[str, str] | None = None
) -> Layers:
    """Describe a layer of probabilities 0..1 for each class, NaN for nodata."""
    return measure_layers(names, tags)


def measure_layers(
    names: Sequence[str], tags: Mapping[str, str] | None = None
) -> Layers:
    """Describe layers of measured numbers, float32, NaN for nodata."""
    return Layers(tuple(names), "float32", float("nan"), "average", tags=_tags(tags))


@contextmanager
def writing_class_map(
    path: Path, grid: Grid, names: Sequence[str], colours: Sequence[str]
) -> Iterator[RowWriter]:
    """Write a map of `class_layers` that appears when it is whole, or not at all.

    Args:
        path: where to; a file that is there is replaced.
        grid: where the pixels lie.
        names: of the classes, in the order of their indices.
        colours: one a class, such as "#1b7837".

    Yields:
        A function that writes rows (1, rows, W); `NO_CLASS` is nodata.

    Raises:
        ConfigError: there are more classes than 8-bit numbers.
        OutputError: the file cannot be written.
    """
    with _writing(path, grid, class_layers(names, colours)) as write:
        yield write


@contextmanager
def writing_probabilities(
    path: Path, grid: Grid, names: Sequence[str]
) -> Iterator[RowWriter]:
    """Write a map of `probability_layers` that appears when it is whole.

    Args:
        path: where to; a file that is there is replaced.
        grid: where the pixels lie.
        names: of the classes; they describe the layers.

    Yields:
        A function that writes rows (classes, rows, W).

    Raises:
        OutputError: the file cannot be written.
    """
    with _writing(path, grid, probability_layers(names)) as write:
        yield write


@contextmanager
def making_in_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside a map, which goes in the end; see `folder_beside`.

    Raises:
        OutputError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with writing(path):
            folder = stack.enter_context(folder_beside(path))
        yield folder


def move_map(made: Path, path: Path) -> None:
    """Move a whole map, with the names of its classes, to where it is wanted.

    Raises:
        OutputError: it cannot be moved.
    """
    legend = made.with_name(made.name + LEGEND_SUFFIX)
    with writing(path):
        if legend.is_file():
            legend.replace(path.with_name(path.name + LEGEND_SUFFIX))
        made.replace(path)


def read_class_rows(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read a map of classes from the top downwards: first row, and (rows, W).

    Raises:
        RasterError: the file cannot be read.
    """
    with quiet_gdal(), open_raster(path) as dataset:
        for row in range(0, dataset.height, _ROWS):
            rows = min(_ROWS, dataset.height - row)
            place = RasterioWindow(0, row, dataset.width, rows)
            with reading(path):
                classes = dataset.read(1, window=place)
            yield row, classes


@contextmanager
def _writing(path: Path, grid: Grid, layers: Layers) -> Iterator[RowWriter]:
    with making_in_folder(path) as folder:
        made = folder / path.name
        with RowFile(folder / f"{path.name}.rows", grid, layers) as rows:
            yield rows.write
            rows.export(made)
        move_map(made, path)


def _tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    return {"TIFFTAG_SOFTWARE": f"spectralgpt {__version__}", **(tags or {})}
