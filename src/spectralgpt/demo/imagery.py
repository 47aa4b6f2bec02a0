"""The demo's imagery: the scene in the package, or a folder of the user's.

Either way there are images to train on, parts that training never sees, and a scene to
map. Of the scene in the package some land cover is known, cell by cell; a cell is a
token's patch.
"""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.sources import Source, find_items, read_source
from spectralgpt.errors import BandError, DataError, DatasetNotFoundError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile, Stated, Window, read_raster
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.scenes.windows import choose_bands

_LARGEST_MAP_PX = 640
_SHIPPED = ("scene", "held-out", "bigearthnet")
_STRIPS = ("scene/north", "held-out/middle", "scene/south")
_HELD_OUT = 1
# Every third rectangle of a class chooses the strength of the probe's penalty.
_VAL_EVERY = 3


@dataclass(frozen=True)
class Imagery:
    """What the demo runs on.

    Args:
        title: what it is, for people.
        root: folder that holds it.
        items: all images, held out or not.
        strips: the scene to map, from north to south: images, and the parts of them,
            with sides that are multiples of the patch; all as wide as the scene.
        descriptions: YAML descriptions of the images; none for a plain folder.
        labels: GeoJSON of known land cover; None if there is none.
        stated: what was stated of the images of a plain folder.
        held_out: number of the strip that training never sees; None if there is none.
    """

    title: str
    root: Path
    items: tuple[RasterFile, ...]
    strips: tuple[tuple[RasterFile, Window], ...]
    descriptions: tuple[Path, ...] = ()
    labels: Path | None = None
    stated: Stated = field(default_factory=Stated)
    held_out: int | None = None

    @classmethod
    def shipped(cls, patch_px: int = 8) -> Self:
        """Return the imagery that ships with the package.

        Args:
            patch_px: side of a token, px; the scene is cut to a multiple of it.
        """
        root = Path(str(files("spectralgpt"))) / "demo_data"
        descriptions = tuple(root / f"{name}.yaml" for name in _SHIPPED)
        items = find_items([read_source(path) for path in descriptions], root)
        by_name = {item.name: item for item in items}
        strips = tuple(
            (by_name[n], _whole_patches(by_name[n], patch_px)) for n in _STRIPS
        )
        return cls(
            "Virginia's Eastern Shore, Sentinel-2 L1C",
            root,
            tuple(items),
            strips,
            descriptions,
            labels=root / "labels.geojson",
            held_out=_HELD_OUT,
        )

    @classmethod
    def of_folder(cls, folder: Path, stated: Stated, patch_px: int = 8) -> Self:
        """Return a user's folder as the demo's imagery.

        The largest image is mapped, its north-western part if it is very large.

        Args:
            folder: of rasters; searched with its sub-folders.
            stated: what its files do not say.
            patch_px: side of a token, px.

        Raises:
            DatasetNotFoundError: there is no such folder.
            BandError: the images are not all of one sensor.
            DataError: there is no usable image in it.
        """
        if not folder.is_dir():
            raise DatasetNotFoundError(f"{folder} is no folder: name one with images.")
        source = Source(folder.resolve().name, **stated.facts)
        items = find_items([source], folder)
        sensors = sorted({item.sensor.name for item in items})
        if len(sensors) > 1:
            raise BandError(
                f"{folder} has images of {', '.join(sensors)}: the demo takes one "
                "sensor. Name it with --sensor, or give a folder with one."
            )
        largest = max(items, key=lambda item: item.shape()[0] * item.shape()[1])
        strip = largest, _whole_patches(largest, patch_px)
        title = f"{folder.resolve().name} ({sensors[0]})"
        return cls(title, folder, tuple(items), (strip,), stated=stated)

    @property
    def pixel_width_m(self) -> float | None:
        """Width of a pixel of the scene on the ground, None without georeference."""
        size = pixel_size_m(self.strips[0][0].grid())
        return None if size is None else size[1]

    @property
    def borders(self) -> list[int]:
        """Rows of the scene where training and held-out parts meet."""
        heights = [window.height for _, window in self.strips]
        return [int(row) for row in np.cumsum(heights)[:-1]]

    def read_pixels(self, contract: Preprocessing) -> NDArray[np.float32]:
        """Read the mapped scene as reflectance (C, H, W), NaN where no data are."""
        parts = []
        for item, window in self.strips:
            bands = choose_bands(contract, item)
            raster = read_raster(item, bands, window)
            parts.append(np.where(raster.valid, raster.pixels, np.float32(np.nan)))
        return np.concatenate(parts, axis=1)


def _whole_patches(item: RasterFile, patch_px: int) -> Window:
    height, width = (
        min(side, _LARGEST_MAP_PX) // patch_px * patch_px for side in item.shape()
    )
    return Window(0, 0, max(height, 1), max(width, 1))


@dataclass(frozen=True)
class CellLabels:
    """Labels of the cells of a scene, and their split.

    Which cells train and which test is decided by strip: the middle one, which
    pretraining never saw, tests.

    Args:
        class_names: names of the classes.
        classes: (rows, columns) class of each cell, -1 where it is not known.
        rectangles: (rows, columns) number of the rectangle a cell is in, -1 for none.
        split: (rows, columns) of `train`, `val`, `test`, and `` where not known.
    """

    class_names: tuple[str, ...]
    classes: NDArray[np.int64]
    rectangles: NDArray[np.int64]
    split: NDArray[np.str_]

    @classmethod
    def read(cls, path: Path, imagery: Imagery, cell_px: int) -> Self:
        """Read rectangles of land cover onto the cells of a scene.

        Args:
            path: GeoJSON of rectangles with a property `class`, in the scene's
                coordinates.
            imagery: the scene; its strips lie below each other.
            cell_px: side of a cell, px.

        Raises:
            DataError: a rectangle is not on the grid of cells, or crosses strips.
        """
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        class_names = tuple(sorted({f["properties"]["class"] for f in features}))
        held_out = np.repeat(
            [number == imagery.held_out for number in range(len(imagery.strips))],
            [window.height // cell_px for _, window in imagery.strips],
        )
        shape = (len(held_out), imagery.strips[0][1].width // cell_px)
        classes, rectangles = (np.full(shape, -1, dtype=np.int64) for _ in range(2))
        split = np.full(shape, "", dtype="<U5")
        seen = dict.fromkeys(class_names, 0)
        for number, feature in enumerate(features):
            rows, columns = _cells(feature, imagery, cell_px)
            name = feature["properties"]["class"]
            is_test = bool(held_out[rows].all())
            if held_out[rows].any() != is_test or (classes[rows, columns] >= 0).any():
                raise DataError(
                    f"{path}: rectangle {number} crosses strips or another one."
                )
            classes[rows, columns] = class_names.index(name)
            rectangles[rows, columns] = number
            seen[name] += not is_test
            is_val = seen[name] % _VAL_EVERY == 0
            split[rows, columns] = "test" if is_test else "val" if is_val else "train"
        return cls(class_names, classes, rectangles, split)

    def count(self, split: str, name: str | None = None) -> tuple[int, int]:
        """Count cells and rectangles of a split, of one class or of all."""
        chosen = self.split == split
        if name is not None:
            chosen &= self.classes == self.class_names.index(name)
        return int(chosen.sum()), len(np.unique(self.rectangles[chosen]))


def _cells(
    feature: dict[str, Any], imagery: Imagery, cell_px: int
) -> tuple[slice, slice]:
    """Return the rows and columns of cells that a rectangle covers."""
    transform = imagery.strips[0][0].grid().transform
    corners = feature["geometry"]["coordinates"][0]
    assert transform is not None, "the scene of the package has a georeference"
    origin = np.array([transform.c, transform.f])
    cell = np.array([transform.a, transform.e]) * cell_px
    positions = (np.array(corners) - origin) / cell
    if not np.allclose(positions, positions.round(), atol=1e-6):
        raise DataError(f"{corners} is not on the grid of {cell_px} px cells.")
    (left, top), (right, bottom) = positions.min(axis=0), positions.max(axis=0)
    return slice(round(top), round(bottom)), slice(round(left), round(right))
