"""The scenes that tiles are cut from, and what is known about each."""

import datetime
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.listings import list_candidates
from spectralgpt.data.series import SeriesRule, find_day
from spectralgpt.errors import DataError, DatasetNotFoundError, RasterError
from spectralgpt.rasters import Grid, RasterFile
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.sensors import find_sensor

_EPOCH = datetime.date(1970, 1, 1)
_NAMED = 3
"""A scene's own name and those of the folders above it that may hold its date."""


@dataclass(frozen=True)
class Scene:
    """A scene with its place.

    Args:
        name: short, different for each scene; begins the names of its tiles.
        path: the file or folder.
        item: where its bands lie.
        grid: that of its finest band.
        pixel_m: (height, width) of a pixel on the ground, m.
        date: of acquisition, "unknown" where neither name nor metadata say.
    """

    name: str
    path: Path
    item: RasterFile
    grid: Grid
    pixel_m: tuple[float, float]
    date: str

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the finest band."""
        return self.grid.height, self.grid.width

    @property
    def coarsest_px(self) -> int:
        """Side of a pixel of the coarsest band, in pixels of the finest."""
        largest = max(file.grid.pixel_area for file in self.item.files.values())
        return math.ceil(math.sqrt(largest / self.grid.pixel_area) - 1e-6)


@dataclass(frozen=True)
class LabelledScenes:
    """Scenes, and the labels that were laid on them.

    Args:
        scenes: all of the same bands.
        masks: a file with the class numbers of each whole scene.
        colours: colour of each class by its name, in their order.
    """

    scenes: Sequence[Scene]
    masks: Sequence[Path]
    colours: Mapping[str, str]


def list_scenes(paths: Sequence[Path], image_format: ImageFormat) -> list[Scene]:
    """Describe scenes; reads headers only.

    A folder is one scene with a file a band; where the sensor is stated, all scenes
    below it are taken.

    Raises:
        DatasetNotFoundError: a path does not exist.
        DataError: a scene has no place, or scenes have different bands.
        SpectralGPTError: a file cannot be read, or what it holds is in doubt.
    """
    found = [scene for path in paths for scene in _list(path, image_format.sensor)]
    if not found:
        raise DataError(f"There are no scenes in {', '.join(map(str, paths))}.")
    found = list(dict.fromkeys(found))
    names = _short_names(found)
    scenes = [
        _describe(path, name, image_format)
        for path, name in zip(found, names, strict=True)
    ]
    first = scenes[0].item
    for scene in scenes[1:]:
        if scene.item.bands != first.bands or scene.item.sensor != first.sensor:
            shown = [
                f"{s.sensor.name} {' '.join(b.name for b in s.bands)}"
                for s in (first, scene.item)
            ]
            raise DataError(
                f"{found[0]} and {scene.path} have different bands ({shown[0]} against "
                f"{shown[1]}). Make a data set of each, or name the bands to take."
            )
    return scenes


def _list(path: Path, sensor: str | None) -> list[Path]:
    if not path.exists():
        raise DatasetNotFoundError(f"There is no scene at {path}.")
    if path.is_file() or sensor is None or path.suffix == ".SAFE":
        return [path]
    known = find_sensor(sensor)
    candidates = list_candidates(path, known)
    return [candidate.path for candidate in candidates]


def _short_names(paths: Sequence[Path]) -> list[str]:
    stems = [path.resolve().name.removesuffix(path.suffix) for path in paths]
    # A folder such as 10.5_R has no ending.
    stems = [
        p.resolve().name if p.is_dir() else s for p, s in zip(paths, stems, strict=True)
    ]
    plain = ["".join(c if c.isalnum() or c == "-" else "_" for c in s) for s in stems]
    twice = Counter(name.lower() for name in plain)
    return [
        name if twice[name.lower()] == 1 else f"{name}-{number}"
        for number, name in enumerate(plain, start=1)
    ]


def _describe(path: Path, name: str, image_format: ImageFormat) -> Scene:
    item = image_format.describe(path)
    grid = item.grid()
    if grid.crs is None or grid.transform is None:
        raise RasterError(
            f"{path} has no georeference (CRS and transform), so labels cannot be laid "
            "on it. Set one with gdal_edit.py."
        )
    pixel_m = pixel_size_m(grid)
    if pixel_m is None:
        raise RasterError(f"{path}: nothing is known of its reference system.")
    return Scene(name, path, item, grid, pixel_m, _date(path))


def _date(path: Path) -> str:
    try:
        # Folders further up belong to others.
        name = "/".join(path.resolve().parts[-_NAMED:])
        day = find_day(name, path, SeriesRule(1))
    except DataError:
        return "unknown"
    return (_EPOCH + datetime.timedelta(days=day)).isoformat()
