"""Writing tiles: reflectance as float, and masks on the same pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.colours import to_rgb
from spectralgpt.data.labelling.blocks import Tile, count_classes
from spectralgpt.data.labelling.config import UNLABELLED
from spectralgpt.data.labelling.lattice import Cell
from spectralgpt.data.labelling.scenes import LabelledScenes, Scene
from spectralgpt.rasters import Grid, OpenFiles, read_codes, read_raster, write_geotiff
from spectralgpt.rasters.write import write_numbers

__all__ = ["WrittenTile", "move_tiles", "write_tiles"]

_PARTS = ("images", "masks")
_BLANK = (255, 255, 255)


@dataclass(frozen=True)
class WrittenTile:
    """A tile on disk.

    Args:
        tile: which; its counts are those of the mask as written.
        name: of its files.
        low: least reflectance of each band, (C,), inf where none is valid.
        high: largest reflectance of each band, (C,), -inf where none is valid.
        split: "" until its block is dealt out.
    """

    tile: Tile
    name: str
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    split: str = ""


def write_tiles(
    folder: Path,
    tiles: Sequence[Tile],
    labelled: LabelledScenes,
    least_px: float,
    sensor_tag: str | None,
    progress: Callable[[int, int], None],
) -> list[WrittenTile]:
    """Write those tiles that still have enough labels where the image is valid.

    Args:
        folder: gets `images` and `masks`.
        tiles: in the order of their rows, so that files are read once.
        labelled: what they are cut from.
        least_px: pixels that must be labelled and valid.
        sensor_tag: name of the sensor for the files' tag.
        progress: called with tiles done and all.
    """
    numbers = {cell: n for n, cell in enumerate(sorted({t.cell for t in tiles}))}
    for part in _PARTS:
        (folder / part).mkdir(parents=True)
    files, written = OpenFiles(), []
    for done, tile in enumerate(tiles, start=1):
        scene, window = labelled.scenes[tile.scene], tile.window
        raster = read_raster(scene.item, window=window, files=files)
        rows = np.arange(window.row, window.row + window.height)
        columns = np.arange(window.column, window.column + window.width)
        mask, _ = read_codes(labelled.masks[tile.scene], 1, rows, columns)
        mask = np.where(raster.valid.any(axis=0), mask, UNLABELLED)
        counts = count_classes(mask, len(labelled.colours))
        if counts.sum() >= least_px:
            name = _name(scene, tile, numbers)
            write_geotiff(folder / "images" / f"{name}.tif", raster, sensor_tag)
            path = folder / "masks" / f"{name}.tif"
            _write_mask(path, mask, scene.grid.part(window), labelled.colours)
            low = np.where(raster.valid, raster.pixels, np.inf).min(axis=(1, 2))
            high = np.where(raster.valid, raster.pixels, -np.inf).max(axis=(1, 2))
            written.append(WrittenTile(replace(tile, counts=counts), name, low, high))
        progress(done, len(tiles))
    files.close()
    return written


def move_tiles(folder: Path, written: Sequence[WrittenTile], target: Path) -> None:
    """Move the files of tiles into the folders of their splits."""
    for tile in written:
        for part in _PARTS:
            there = target / tile.split / part
            there.mkdir(parents=True, exist_ok=True)
            (folder / part / f"{tile.name}.tif").replace(there / f"{tile.name}.tif")


def _write_mask(
    path: Path, mask: NDArray[Any], grid: Grid, classes: Mapping[str, str]
) -> None:
    colours = {code: to_rgb(colour) for code, colour in enumerate(classes.values())}
    write_numbers(
        path,
        mask[None].astype(np.uint8),
        grid,
        ["class"],
        nodata=UNLABELLED,
        tags={f"CLASS_{code}": name for code, name in enumerate(classes)},
        colours=colours | {UNLABELLED: _BLANK},
    )


def _name(scene: Scene, tile: Tile, numbers: Mapping[Cell, int]) -> str:
    window = tile.window
    block = f"block{numbers[tile.cell]:04d}"
    return f"{scene.name}_{block}_r{window.row:05d}_c{window.column:05d}"
