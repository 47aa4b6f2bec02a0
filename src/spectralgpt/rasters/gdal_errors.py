"""GDAL's errors in this package's words: the one place that knows what kinds there are.

rasterio has errors of its own, and lets GDAL's through where it has none that fits:
they share no base. Who calls either does it inside of `reading` or `writing`, and moves
coordinates by `move_points` or `move_shapes`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Nowhere else does rasterio name them.
from rasterio._err import CPLE_BaseError, CPLE_NotSupportedError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from spectralgpt.errors import OutputError, RasterError, SpectralGPTError
from spectralgpt.files import explain_failure
from spectralgpt.outputs import name_openly
from spectralgpt.rasters.locations import Location, VirtualFile, no_answer

__all__ = [
    "GDAL_ERRORS",
    "as_raster_error",
    "move_points",
    "move_shapes",
    "output_error",
    "reading",
    "writing",
]

GDAL_ERRORS = (RasterioError, CRSError, CPLE_BaseError, SystemError)
"""rasterio raises SystemError where GDAL failed without a word."""
_NAME = re.compile(r'"([^"]+)"')
_NO_ANSWER = re.compile(
    r"operation too slow|(operation|connection|resolving) timed out|timeout was",
    re.IGNORECASE,
)
"""How curl says that a server is silent."""


@contextmanager
def reading(path: Location) -> Iterator[None]:
    """Raise what is raised of a file that is read as our error.

    Raises:
        RasterError: the file cannot be read.
    """
    try:
        yield
    except SpectralGPTError:
        raise
    except (*GDAL_ERRORS, OSError, ValueError, IndexError) as error:
        raise as_raster_error(path, error) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise what is raised of a file that is written as our error.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        yield
    except SpectralGPTError:
        raise
    except (*GDAL_ERRORS, OSError) as error:
        raise output_error(path, error) from None


def as_raster_error(path: Location, error: Exception) -> RasterError:
    """Say in one line that a file cannot be read, and why."""
    reason = _one_line(error)
    cause = f" ({_one_line(error.__cause__)})" if error.__cause__ else ""
    if isinstance(path, VirtualFile) and path.is_remote:
        if _NO_ANSWER.search(" ".join(map(str, _causes(error)))):
            return RasterError(f"{path} cannot be read: {no_answer(str(path))}")
        return RasterError(
            f"{path} cannot be read as a raster: {reason}{cause}. Its server broke "
            "off or has no raster there: check address and network, or fetch the file."
        )
    return RasterError(
        f"{path} cannot be read as a raster: {reason}{cause}. The file is corrupt, "
        "truncated or of another kind: fetch it again, or leave it out."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def output_error(path: Path, error: Exception) -> OutputError:
    """Say in one line that a file cannot be written, why, and what to do."""
    text = f"{path} cannot be written: {explain_failure(path, error)}"
    return OutputError(name_openly(text))


def move_points(
    source: str | CRS | None,
    target: str | CRS | None,
    xs: Sequence[float] | NDArray[np.float64],
    ys: Sequence[float] | NDArray[np.float64],
) -> tuple[list[float], list[float]]:
    """Bring points to another reference system.

    Returns:
        xs and ys there, infinite for points that have no place in it.

    Raises:
        RasterError: there is no way from the one system to the other, such as from that
            of a building site.
    """
    try:
        systems = CRS.from_user_input(source), CRS.from_user_input(target)
        moved = transform(*systems, list(xs), list(ys))
    except (CRSError, CPLE_NotSupportedError):
        raise _apart(source, target) from None
    except GDAL_ERRORS:
        # One point without a place fails them all.
        if len(xs) == 1:
            return [math.inf], [math.inf]
        half = len(xs) // 2
        parts = [
            move_points(source, target, xs[part], ys[part])
            for part in (slice(0, half), slice(half, None))
        ]
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    return list(map(float, moved[0])), list(map(float, moved[1]))


def move_shapes(shapes: Any, target: Any) -> Any:
    """Bring shapes of geopandas to another reference system.

    Raises:
        RasterError: see `move_points`.
    """
    from pyproj.exceptions import ProjError

    try:
        return shapes.to_crs(target)
    except ProjError:
        raise _apart(shapes.crs, target) from None


def _apart(source: Any, target: Any) -> RasterError:
    names = []
    for system in (source, target):
        text = system.to_wkt() if hasattr(system, "to_wkt") else str(system)
        found = _NAME.search(text)
        names.append(found.group(1) if found else text)
    return RasterError(
        f"there is no way from the reference system '{names[0]}' to '{names[1]}': one "
        "of them is local or unknown. Assign the right one with gdal_edit.py -a_srs."
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
