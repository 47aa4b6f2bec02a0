"""Map many images: a GeoTIFF of classes for each, and a table of what was found."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import write_atomically
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError, DataError, RasterError
from spectralgpt.rasters import (
    MODEL_TAG,
    NO_CLASS,
    Grid,
    Layers,
    RasterItem,
    class_layers,
    probability_layers,
    read_class_rows,
    write_polygons,
)
from spectralgpt.scenes.fingerprints import digest_facts, scene_facts
from spectralgpt.scenes.inputs import describe_input, for_each_input
from spectralgpt.scenes.map_names import name_maps, polygons_path, probabilities_path
from spectralgpt.scenes.mapping import Mapper, map_scene
from spectralgpt.scenes.pairs import on_same_pixels
from spectralgpt.scenes.runs import Outcome
from spectralgpt.scenes.stac import (
    class_asset,
    measure_asset,
    picture_asset,
    polygon_asset,
    write_item,
)
from spectralgpt.scenes.unfinished import (
    forget_finished,
    making_maps,
    note_finished,
    read_finished,
)

__all__ = ["MapOptions", "SceneMap", "map_files", "map_image", "write_map_item"]

_TABLE = "maps.csv"
_PREVIEW_PX = 900
"""Longest side of the thinned-out map that is kept for a picture."""


@dataclass(frozen=True)
class MapOptions:
    """How maps are made and written.

    Args:
        colours: one a class, such as "#1b7837".
        probabilities: write them too.
        polygons: write the outlines of classes too.
        batch_size: windows predicted at once.
        overwrite: replace maps that are there.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
    """

    colours: tuple[str, ...]
    probabilities: bool = False
    polygons: bool = False
    batch_size: int = 16
    overwrite: bool = False
    overlap: float = 0.5


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
    progress: Callable[[float], None] | None = None,
    then: Callable[[SceneMap], object] | None = None,
) -> Outcome:
    """Map images; write the files of each, see `map_image`, and maps.csv.

    Args:
        mapper: predicts.
        inputs: an image each, or before and after.
        output: folder of the maps; they are named after the image, or the one before.
        options: what is written.
        image_format: what is stated about the files.
        strict: stop at the first bad image.
        progress: called with the share of an image that was done since the last call;
            it adds up to the number of images.
        then: called with each map that was made, such as to draw it.

    Raises:
        ConfigError: a map would replace another one, or an image.
        DataError: no image could be mapped.
    """
    dates = {paths[0]: paths for paths in inputs}
    targets = name_maps(list(dates), output)
    # Of a run that was stopped; each map appears after the files that belong to it.
    finished = {
        name: digest
        for name, digest in read_finished(output).items()
        if (output / name).is_file()
    }
    others = [path for path in targets.values() if path.name not in finished]
    _check_targets(others, inputs, options)
    rows: list[dict[str, str | int]] = []
    done = 0.0

    def advance(share: float) -> None:
        nonlocal done
        if progress is not None:
            progress(share - done)
        done = share % 1

    def work(path: Path) -> None:
        stated = image_format or ImageFormat()
        items = tuple(
            describe_input(date, stated, mapper.preprocessing) for date in dates[path]
        )
        items = on_same_pixels(items, [mapper.bands(item) for item in items])
        target, facts = targets[path], _facts(mapper, items, options)
        digest = digest_facts(facts, _plan_maps(mapper, target, options), options)
        if facts is not None and finished.get(target.name) == digest:
            made = _look_at(mapper, items, target)
        else:
            if target.name in finished and not options.overwrite:
                raise ConfigError(
                    f"{target} is there already, made of another model, image or "
                    "settings: pass --overwrite."
                )
            made = map_image(mapper, items, target, options, advance)
            if facts is not None:
                note_finished(output, target.name, digest)
        rows.extend(_rows(path, made, mapper.class_names))
        if then is not None:
            then(made)
        write_map_item(mapper, made, options)

    failures = for_each_input(list(dates), work, strict=strict, progress=advance)
    table = output / _TABLE
    write_atomically(table, lambda temporary: _write_csv(temporary, rows))
    forget_finished(output)
    return Outcome(table, len(inputs) - len(failures), failures)


def map_image(
    mapper: Mapper,
    items: tuple[RasterItem, ...],
    path: Path,
    options: MapOptions,
    progress: Callable[[float], None] | None = None,
) -> SceneMap:
    """Map one image, or what two dates both show, on the finest band that is read.

    The files appear when they are whole, or not at all. A run that was stopped is
    continued, and gives the same bytes as one that was not.

    Args:
        mapper: predicts.
        items: the image, or before and after.
        path: the map of classes; other files are named after it.
        options: what is written.
        progress: called with the share that is done, 0..1.

    Raises:
        RasterError: the dates do not lie on each other, or a file cannot be read or
            written.
        DataError: there is no valid pixel.
        ConfigError: another run was stopped here, with another model or image.
    """
    bands = [mapper.bands(item) for item in items]
    items = on_same_pixels(items, bands)
    grid = items[0].grid(bands[0])
    if options.polygons and grid.crs is None:
        raise RasterError(f"{items[0].name} has no georeference: leave out --polygons.")
    maps = _plan_maps(mapper, path, options)
    facts = _facts(mapper, items, options)
    with making_maps(maps, grid, facts, options.overwrite) as made:
        for strip in map_scene(
            mapper,
            items,
            overlap=options.overlap,
            batch_size=options.batch_size,
            first_row=made.next_row,
        ):
            # In the order of `maps`.
            numbers: list[NDArray[Any]] = [strip.classes[None], strip.probabilities]
            made.write(strip.row, numbers[: len(maps)])
            if progress is not None:
                progress(made.next_row / grid.height)
        whole = made.export()[0]
        pixels, preview = _count_pixels(whole, grid)
        if not pixels[:NO_CLASS].any():
            raise DataError(f"{items[0].name} has no valid pixel: leave it out.")
        if options.polygons:
            outlines = polygons_path(path)
            write_polygons(whole, made.folder / outlines.name, mapper.class_names)
            made.place(outlines)
        made.publish()
    return SceneMap(path, items, pixels[: len(mapper.class_names)], preview)


def _facts(
    mapper: Mapper, items: Sequence[RasterItem], options: MapOptions
) -> dict[str, str] | None:
    """Return what a map depends on, None if the mapper does not say."""
    if not mapper.digest:
        return None
    settings = {
        "batch size": str(options.batch_size),
        "overlap": str(options.overlap),
        "model": mapper.digest,
    }
    return scene_facts(items, mapper.preprocessing) | settings


def _plan_maps(mapper: Mapper, path: Path, options: MapOptions) -> dict[Path, Layers]:
    """Return what each map holds, the map of classes first."""
    names, tags = mapper.class_names, {MODEL_TAG: mapper.name} if mapper.name else {}
    maps = {path: class_layers(names, options.colours, tags)}
    if options.probabilities:
        maps[probabilities_path(path)] = probability_layers(names, tags)
    return maps


def _look_at(mapper: Mapper, items: tuple[RasterItem, ...], path: Path) -> SceneMap:
    """Return a map that is there."""
    pixels, preview = _count_pixels(path, items[0].grid(mapper.bands(items[0])))
    return SceneMap(path, items, pixels[: len(mapper.class_names)], preview)


def _count_pixels(
    path: Path, grid: Grid
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the pixels of each class and of none, and the map thinned out."""
    pixels = np.zeros(NO_CLASS + 1, dtype=np.int64)
    step = -(-max(grid.height, grid.width) // _PREVIEW_PX)
    preview = []
    for row, classes in read_class_rows(path):
        pixels += np.bincount(classes.ravel(), minlength=len(pixels))
        preview.append(classes[-row % step :: step, ::step])
    return pixels, np.concatenate(preview)


def write_map_item(mapper: Mapper, made: SceneMap, options: MapOptions) -> Path | None:
    """Describe the map and the files beside it as a STAC item, if it can be one."""
    path, first = made.path, made.items[0]
    classes = list(zip(mapper.class_names, options.colours, strict=True))
    assets = {"classes": class_asset(path, classes)}
    if options.probabilities:
        assets["probabilities"] = measure_asset(
            probabilities_path(path), "Probability of each class", mapper.class_names
        )
    if options.polygons:
        assets["polygons"] = polygon_asset(polygons_path(path))
    picture = path.with_suffix(".png")
    if picture.is_file():
        assets["quicklook"] = picture_asset(picture)
    dates = [item.date for item in made.items]
    grid = first.grid(mapper.bands(first))
    return write_item(path.with_suffix(".json"), grid, assets, dates, mapper.name)


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
        for target in (path, probabilities_path(path), polygons_path(path)):
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
