"""Map many images: a GeoTIFF of classes for each, and a table of what was found."""

import csv
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import write_atomically
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import (
    NO_CLASS,
    RasterItem,
    writing_class_map,
    writing_probabilities,
)
from spectralgpt.scenes.inputs import describe_input, for_each_input
from spectralgpt.scenes.mapping import Mapper, map_scene
from spectralgpt.scenes.pairs import check_same_pixels
from spectralgpt.scenes.runs import Outcome

__all__ = ["MapOptions", "SceneMap", "map_files", "map_image", "name_maps"]

_TABLE = "maps.csv"
_PREVIEW_PX = 900
"""Longest side of the thinned-out map that is kept for a picture."""


@dataclass(frozen=True)
class MapOptions:
    """How maps are made and written.

    Args:
        colours: one a class, such as "#1b7837".
        probabilities: write them too.
        batch_size: windows predicted at once.
        overwrite: replace maps that are there.
    """

    colours: tuple[str, ...]
    probabilities: bool = False
    batch_size: int = 16
    overwrite: bool = False


@dataclass(frozen=True)
class SceneMap:
    """A map that was made.

    Args:
        path: its file.
        items: the image, or before and after.
        pixels: (K,) pixels of each class.
        preview: the map thinned out without blending, (h, w); `NO_CLASS` is nothing.
    """

    path: Path
    items: tuple[RasterItem, ...]
    pixels: NDArray[np.int64]
    preview: NDArray[np.uint8]


def map_files(
    mapper: Mapper,
    inputs: Sequence[tuple[Path, ...]],
    output: Path,
    options: MapOptions,
    *,
    image_format: ImageFormat | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
    then: Callable[[SceneMap], object] | None = None,
) -> Outcome:
    """Map images; write NAME.tif, NAME_probabilities.tif if asked for, and maps.csv.

    Args:
        mapper: predicts.
        inputs: an image each, or before and after.
        output: folder of the maps; they are named after the image, or the one before.
        options: what is written.
        image_format: what is stated about the files.
        strict: stop at the first bad image.
        progress: called with 1 after each image.
        then: called with each map that was made, such as to draw it.

    Raises:
        ConfigError: a map would replace another one, or an image.
        DataError: no image could be mapped.
    """
    dates = {paths[0]: paths for paths in inputs}
    targets = name_maps(list(dates), output)
    _check_targets(targets.values(), inputs, options)
    rows: list[dict[str, str | int]] = []

    def work(path: Path) -> None:
        stated = image_format or ImageFormat()
        items = tuple(
            describe_input(date, stated, mapper.preprocessing) for date in dates[path]
        )
        made = map_image(mapper, items, targets[path], options)
        rows.extend(_rows(path, made, mapper.class_names))
        if then is not None:
            then(made)

    failures = for_each_input(list(dates), work, strict=strict, progress=progress)
    table = output / _TABLE
    write_atomically(table, lambda temporary: _write_csv(temporary, rows))
    return Outcome(table, len(inputs) - len(failures), failures)


def map_image(
    mapper: Mapper, items: tuple[RasterItem, ...], path: Path, options: MapOptions
) -> SceneMap:
    """Map one image, or two dates, onto the grid of the finest band that is read.

    The files appear when they are whole, or not at all.

    Raises:
        RasterError: the dates do not lie on each other, or a file cannot be read or
            written.
        DataError: there is no valid pixel.
    """
    bands = [mapper.bands(item) for item in items]
    for other, used in zip(items[1:], bands[1:], strict=True):
        check_same_pixels(items[0], other, bands[0], used)
    grid = items[0].grid(bands[0])
    names = mapper.class_names
    pixels = np.zeros(NO_CLASS + 1, dtype=np.int64)
    step = -(-max(grid.height, grid.width) // _PREVIEW_PX)
    preview = []
    with ExitStack() as stack:
        write = stack.enter_context(
            writing_class_map(path, grid, names, options.colours)
        )
        write_shares = None
        if options.probabilities:
            write_shares = stack.enter_context(
                writing_probabilities(_probabilities_path(path), grid, names)
            )
        for strip in map_scene(mapper, items, batch_size=options.batch_size):
            classes = strip.classes
            write(strip.row, classes[None])
            if write_shares is not None:
                write_shares(strip.row, strip.probabilities)
            pixels += np.bincount(classes.ravel(), minlength=len(pixels))
            preview.append(classes[-strip.row % step :: step, ::step])
        if not pixels[:NO_CLASS].any():
            raise DataError(f"{items[0].name} has no valid pixel: leave it out.")
    return SceneMap(path, items, pixels[: len(names)], np.concatenate(preview))


def name_maps(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Return the file of each image's map: its name, with folders if need be.

    Raises:
        ConfigError: two images would share a map.
    """
    most = max(len(path.absolute().parts) for path in paths)
    for depth in range(1, most + 1):
        names = ["_".join(_plain(path).parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return {
                path: output / f"{name}.tif"
                for path, name in zip(paths, names, strict=True)
            }
    twice = [
        str(path)
        for path, name in zip(paths, names, strict=True)
        if names.count(name) > 1
    ]
    raise ConfigError(
        f"{' and '.join(twice[:2])} would be mapped to the same file. Map them into "
        "different folders."
    )


def _plain(path: Path) -> Path:
    """Return the absolute path without the drive, and the ending of a file."""
    path = path.absolute()
    return (path if path.is_dir() else path.with_suffix("")).relative_to(path.anchor)


def _probabilities_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_probabilities.tif")


def _check_targets(
    paths: Iterable[Path], inputs: Sequence[tuple[Path, ...]], options: MapOptions
) -> None:
    """Refuse to replace maps, unless asked to, and images in any case."""
    folders = {date.resolve().parent for dates in inputs for date in dates}
    for path in paths:
        if path.resolve().parent in folders:
            raise ConfigError(
                f"{path.parent} holds the images themselves: choose another --output."
            )
        for target in (path, _probabilities_path(path)):
            if target.exists() and not options.overwrite:
                raise ConfigError(f"{target} is there already: pass --overwrite.")


def _rows(
    image: Path, made: SceneMap, names: Sequence[str]
) -> list[dict[str, str | int]]:
    total = int(made.pixels.sum())
    return [
        {
            "image": str(image),
            "map": made.path.name,
            "class": name,
            "pixels": int(count),
            "share": f"{count / total:.6f}",
        }
        for name, count in zip(names, made.pixels, strict=True)
    ]


def _write_csv(path: Path, rows: Sequence[dict[str, str | int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
