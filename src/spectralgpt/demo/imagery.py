"""The demo's imagery: the scene in the package, or a folder of the user's.

Either way there are images to train on, parts that training never sees, and a scene to
map.
"""

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.sources import Source, find_items, read_source
from spectralgpt.errors import BandError, DatasetNotFoundError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterItem, Stated, Window, read_raster
from spectralgpt.rasters.footprints import pixel_size_m
from spectralgpt.scenes.windows import choose_bands

__all__ = ["Imagery", "Strip", "own_imagery", "read_pixels", "shipped_imagery"]

_LARGEST_MAP_PX = 640
_SHIPPED = ("scene", "held-out", "bigearthnet")
_STRIPS = ("scene/north", "held-out/middle", "scene/south")


@dataclass(frozen=True)
class Strip:
    """A part of the mapped scene, as wide as the scene.

    Args:
        item: the image.
        window: the part of it; its sides are multiples of the patch.
        is_held_out: whether training never sees it.
    """

    item: RasterItem
    window: Window
    is_held_out: bool


@dataclass(frozen=True)
class Imagery:
    """What the demo runs on.

    Args:
        title: what it is, for people.
        root: folder that holds it.
        items: all images, held out or not.
        strips: the scene to map, from north to south.
        descriptions: YAML descriptions of the images; none for a plain folder.
        labels: GeoJSON of known land cover; None if there is none.
        stated: what was stated of the images of a plain folder.
    """

    title: str
    root: Path
    items: tuple[RasterItem, ...]
    strips: tuple[Strip, ...]
    descriptions: tuple[Path, ...] = ()
    labels: Path | None = None
    stated: Stated = field(default_factory=Stated)

    @property
    def pixel_width_m(self) -> float | None:
        """Width of a pixel of the scene on the ground, None without georeference."""
        size = pixel_size_m(self.strips[0].item.grid())
        return None if size is None else size[1]


def shipped_imagery(patch_px: int = 8) -> Imagery:
    """Return the imagery that ships with the package.

    Args:
        patch_px: side of a token, px; the scene is cut to a multiple of it.
    """
    root = Path(str(files("spectralgpt"))) / "demo_data"
    descriptions = tuple(root / f"{name}.yaml" for name in _SHIPPED)
    items = find_items([read_source(path) for path in descriptions], root)
    by_name = {item.name: item for item in items}
    strips = tuple(
        Strip(
            by_name[name],
            _whole_patches(by_name[name], patch_px),
            is_held_out=name == _STRIPS[1],
        )
        for name in _STRIPS
    )
    return Imagery(
        "Virginia's Eastern Shore, Sentinel-2 L1C",
        root,
        tuple(items),
        strips,
        descriptions,
        root / "labels.geojson",
    )


def own_imagery(folder: Path, stated: Stated, patch_px: int = 8) -> Imagery:
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
            f"{folder} has images of {', '.join(sensors)}: the demo takes one sensor. "
            "Name it with --sensor, or give a folder with one."
        )
    largest = max(items, key=lambda item: item.shape()[0] * item.shape()[1])
    strip = Strip(largest, _whole_patches(largest, patch_px), is_held_out=False)
    title = f"{folder.resolve().name} ({sensors[0]})"
    return Imagery(title, folder, tuple(items), (strip,), stated=stated)


def read_pixels(imagery: Imagery, contract: Preprocessing) -> NDArray[np.float32]:
    """Read the mapped scene as reflectance (C, H, W), NaN where there is no data."""
    parts = []
    for strip in imagery.strips:
        bands = choose_bands(contract, strip.item)
        raster = read_raster(strip.item, bands, strip.window)
        parts.append(np.where(raster.valid, raster.pixels, np.float32(np.nan)))
    return np.concatenate(parts, axis=1)


def _whole_patches(item: RasterItem, patch_px: int) -> Window:
    height, width = (
        min(side, _LARGEST_MAP_PX) // patch_px * patch_px for side in item.shape()
    )
    return Window(0, 0, max(height, 1), max(width, 1))
