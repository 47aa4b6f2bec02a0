"""From scenes and labels to a folder that fine-tuning reads: the steps in order."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.data.classes import class_colours, to_rgb
from spectralgpt.data.dense import read_dense, read_dense_config
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling.blocks import (
    BlockPlan,
    Tile,
    TileRules,
    count_classes,
    divide_tiles,
    plan_blocks,
)
from spectralgpt.data.labelling.description import (
    MadeSet,
    write_card,
    write_description,
    write_statistics,
)
from spectralgpt.data.labelling.labels import UNLABELLED, LabelClasses, LabelSource
from spectralgpt.data.labelling.layers import open_labels, write_scene_masks
from spectralgpt.data.labelling.scenes import LabelledScenes, Scene, list_scenes
from spectralgpt.files import appearing
from spectralgpt.rasters import Grid, OpenFiles, read_codes, read_raster, write_geotiff
from spectralgpt.rasters.write import write_numbers
from spectralgpt.sensors import list_sensors

_OWN_FILES = ("labels.yaml", "classes.csv", "statistics.json")
_PARTS = ("images", "masks")
_BLANK = (255, 255, 255)


def make_labelled_set(
    scenes: Sequence[Path],
    image_format: ImageFormat,
    labels: LabelSource,
    rules: TileRules,
    output: Path,
    *,
    licence: str = "",
    overwrite: bool = False,
    draw: Callable[[MadeSet, Path], None] | None = None,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> MadeSet:
    """Cut aligned tiles with masks from scenes, in spatially separate splits.

    Args:
        scenes: files, or folders with one file a band.
        image_format: what is stated about them.
        labels: where labels come from.
        rules: sizes of tiles and blocks.
        output: folder to make. It appears whole or not at all.
        licence: of the set, for its card.
        overwrite: replace a labelled set that is there.
        draw: writes the picture of the set to a path; None leaves it out.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        ConfigError: the folder is there, and may not be replaced.
        DataError: labels do not fit, or splits cannot be filled.
        SpectralGPTError: scenes or labels cannot be read, or are in doubt.
    """
    with appearing(
        output,
        "labelled set",
        _OWN_FILES,
        overwrite=overwrite,
        inputs=[*scenes, labels.labels],
    ) as folder:
        found = list_scenes(scenes, image_format)
        layer, classes = open_labels(labels, [scene.grid for scene in found])
        work = folder / ".work"
        work.mkdir()
        masks = [work / f"{number}.tif" for number in range(len(found))]
        labelled = LabelledScenes(found, masks, class_colours(classes.names))
        overlaps = write_scene_masks(
            layer, classes, labelled, lambda *n: progress("laying labels", *n)
        )
        plan = plan_blocks(labelled, rules)
        written = _write_tiles(
            work,
            plan.tiles,
            labelled,
            rules.min_labelled * rules.tile_px**2,
            _sensor_tag(found[0], image_format),
            lambda *n: progress("cutting tiles", *n),
        )
        tiles = divide_tiles(written, plan, found, rules, classes.names)
        _move_tiles(work, tiles, folder)
        notes = [*layer.notes, *_notes_on_labels(overlaps, classes)]
        notes += _notes_on_tiles(tiles, written, plan, classes.names)
        made = MadeSet(output.name, folder, labelled, plan, tiles, tuple(notes))
        sensor = _place_sensor(folder, found[0], image_format)
        # Reading it back the way that fine-tuning does is the last check.
        dense = read_dense(read_dense_config(write_description(made, sensor)))
        write_statistics(made, dense, rules.seed)
        command = _command_of(scenes, image_format, labels, rules, output, licence)
        write_card(made, labels, rules, licence, command)
        if draw is not None:
            draw(made, folder / "overview.png")
        shutil.rmtree(work)
    return replace(made, folder=output)


def _write_tiles(
    folder: Path,
    tiles: Sequence[Tile],
    labelled: LabelledScenes,
    least_px: float,
    sensor_tag: str | None,
    progress: Callable[[int, int], None],
) -> list[Tile]:
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
            block = f"block{numbers[tile.cell]:04d}"
            name = f"{scene.name}_{block}_r{window.row:05d}_c{window.column:05d}"
            write_geotiff(folder / "images" / f"{name}.tif", raster, sensor_tag)
            path = folder / "masks" / f"{name}.tif"
            _write_mask(path, mask, scene.grid.part(window), labelled.colours)
            low = np.where(raster.valid, raster.pixels, np.inf).min(axis=(1, 2))
            high = np.where(raster.valid, raster.pixels, -np.inf).max(axis=(1, 2))
            extremes = np.stack([low, high])
            written.append(replace(tile, counts=counts, name=name, extremes=extremes))
        progress(done, len(tiles))
    files.close()
    return written


def _move_tiles(folder: Path, written: Sequence[Tile], target: Path) -> None:
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


def _notes_on_labels(overlaps: int, classes: LabelClasses) -> Iterator[str]:
    if overlaps:
        yield (
            f"{overlaps} pixels lie in polygons of different classes; they have the "
            "class of the later one."
        )
    if classes.unseen:
        yield f"Classes that no label has: {', '.join(classes.unseen)}."


def _notes_on_tiles(
    tiles: Sequence[Tile],
    written: Sequence[Tile],
    plan: BlockPlan,
    names: Sequence[str],
) -> Iterator[str]:
    invalid, near = len(plan.tiles) - len(written), len(written) - len(tiles)
    if invalid:
        yield f"{invalid} tiles were left out: too little of them is valid."
    if near:
        yield (
            f"{near} tiles were left out: they lie within {plan.gap_m:g} m of a tile "
            "of another split, in a scene of other pixels."
        )
    for split in dict.fromkeys(tile.split for tile in tiles):
        own = [tile.counts for tile in tiles if tile.split == split]
        counts = np.sum(own, axis=0).tolist()
        missing = [name for name, count in zip(names, counts, strict=True) if not count]
        if missing:
            yield f"{split} holds no pixel of {', '.join(missing)}."


def _is_described(image_format: ImageFormat) -> bool:
    """Whether the sensor is one that the user's own file describes."""
    return str(image_format.sensor).endswith(".yaml")


def _sensor_tag(scene: Scene, image_format: ImageFormat) -> str | None:
    is_known = scene.item.sensor.name in list_sensors()
    return (
        scene.item.sensor.name if is_known and not _is_described(image_format) else None
    )


def _place_sensor(folder: Path, scene: Scene, image_format: ImageFormat) -> str:
    """Return what the description says of the sensor; a file of it lies beside."""
    if not _is_described(image_format):
        return scene.item.sensor.name
    source = Path(str(image_format.sensor))
    shutil.copyfile(source, folder / source.name)
    return source.name


def _command_of(
    scenes: Sequence[Path],
    image_format: ImageFormat,
    labels: LabelSource,
    rules: TileRules,
    output: Path,
    licence: str,
) -> list[str]:
    """Return the command line that does the same."""
    words = ["spectralgpt", "data", "label", "--scenes", *map(str, scenes)]
    words += ["--output", str(output)]
    for name, value in image_format.facts.items():
        words += [f"--{name}", _word(value)]
    for values in (labels, rules, rules.fractions):
        prefix = "fractions." if values is rules.fractions else ""
        for field in fields(values):
            value = getattr(values, field.name)
            if field.name != "fractions" and value != field.default:
                words += [f"--{prefix}{field.name}", _word(value)]
    return words + (["--licence", licence] if licence else [])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, tuple) else str(value)
