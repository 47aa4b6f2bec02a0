"""Writing maps of classes a few rows at a time, as GeoTIFFs that say what they are.

A map may be larger than memory, so it is written as it is made. It appears under its
name when it is whole; until then, and if anything fails, there is no file.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.rasters.files import quiet_gdal
from spectralgpt.rasters.geometry import Grid

__all__ = ["NO_CLASS", "RowWriter", "writing_class_map", "writing_probabilities"]

NO_CLASS = 255
"""What a map of classes holds where the image shows nothing."""
RowWriter = Callable[[int, NDArray[Any]], None]
"""Takes the first row and the numbers (layers, rows, W)."""
_BLOCK_PX = 256
_HEX = 16


@contextmanager
def writing_class_map(
    path: Path, grid: Grid, names: Sequence[str], colours: Sequence[str]
) -> Iterator[RowWriter]:
    """Write class indices as 8-bit numbers, with the names and colours of the classes.

    Names stand in tags CLASS_0, CLASS_1, ..., which `spectralgpt.data.dense` reads in
    masks, and in a file `.aux.xml` beside the map, from which QGIS and GDAL make their
    legend.

    Args:
        path: where to; a file that is there is replaced.
        grid: where the pixels lie.
        names: of the classes, in the order of their indices.
        colours: one a class, such as "#1b7837".

    Yields:
        A function that writes rows (1, rows, W); `NO_CLASS` is nodata.

    Raises:
        ConfigError: there are more classes than 8-bit numbers.
        RasterError: the file cannot be written.
    """
    if len(names) > NO_CLASS:
        raise ConfigError(
            f"{len(names)} classes do not fit a map of 8-bit numbers, which holds "
            f"{NO_CLASS}. Fine-tune with fewer classes."
        )
    profile = {"count": 1, "dtype": "uint8", "nodata": NO_CLASS}
    with _writing(path, grid, profile) as dataset:
        dataset.write_colormap(1, dict(enumerate(map(_to_rgba, colours))))
        dataset.update_tags(**{f"CLASS_{i}": name for i, name in enumerate(names)})
        dataset.descriptions = ("class",)
        yield _row_writer(path, dataset)
    _write_legend(path, names)


@contextmanager
def writing_probabilities(
    path: Path, grid: Grid, names: Sequence[str]
) -> Iterator[RowWriter]:
    """Write a layer of probabilities 0..1 for each class, float32, NaN for nodata.

    Args:
        path: where to; a file that is there is replaced.
        grid: where the pixels lie.
        names: of the classes; they describe the layers.

    Yields:
        A function that writes rows (classes, rows, W).

    Raises:
        RasterError: the file cannot be written.
    """
    profile = {
        "count": len(names),
        "dtype": "float32",
        "nodata": float("nan"),
        "predictor": 3,
    }
    with _writing(path, grid, profile) as dataset:
        dataset.descriptions = tuple(names)
        yield _row_writer(path, dataset)


@contextmanager
def _writing(
    path: Path, grid: Grid, profile: dict[str, Any]
) -> Iterator[rasterio.io.DatasetWriter]:
    """Open a file near `path` that takes its place in the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _cannot_write(path, error) from None
    # In a folder of its own, so that the file gets the permissions of any new file.
    temporary = Path(folder) / path.name
    try:
        with quiet_gdal(), _create(path, temporary, grid, profile) as dataset:
            yield dataset
        temporary.replace(path)
    except RasterioError as error:
        raise _cannot_write(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create(
    path: Path, temporary: Path, grid: Grid, profile: dict[str, Any]
) -> rasterio.io.DatasetWriter:
    try:
        return rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            height=grid.height,
            width=grid.width,
            crs=grid.crs,
            transform=grid.transform,
            tiled=True,
            blockxsize=_BLOCK_PX,
            blockysize=_BLOCK_PX,
            compress="deflate",
            bigtiff="if_safer",
            **profile,
        )
    except (RasterioError, OSError, ValueError) as error:
        raise _cannot_write(path, error) from None


def _row_writer(path: Path, dataset: rasterio.io.DatasetWriter) -> RowWriter:
    def write(row: int, numbers: NDArray[Any]) -> None:
        height, width = numbers.shape[1:]
        place = RasterioWindow(0, row, width, height)
        try:
            dataset.write(np.ascontiguousarray(numbers), window=place)
        except (RasterioError, OSError) as error:
            raise _cannot_write(path, error) from None

    return write


def _write_legend(path: Path, names: Sequence[str]) -> None:
    rows = "".join(f"<Category>{escape(name)}</Category>" for name in names)
    text = (
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{rows}</CategoryNames>'
        "</PAMRasterBand></PAMDataset>\n"
    )
    legend = path.with_name(f"{path.name}.aux.xml")
    try:
        legend.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(legend, error) from None


def _to_rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = (int(colour[i : i + 2], _HEX) for i in (1, 3, 5))
    return red, green, blue, NO_CLASS


def _cannot_write(path: Path, error: Exception) -> RasterError:
    return RasterError(f"{path} cannot be written: {' '.join(str(error).split())}")
