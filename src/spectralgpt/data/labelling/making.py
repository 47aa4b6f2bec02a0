"""From scenes and labels to a folder that fine-tuning reads: the steps in order."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spectralgpt.data.colours import class_colours
from spectralgpt.data.dense import read_dense, read_dense_config
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling.apart import keep_apart
from spectralgpt.data.labelling.blocks import (
    Layout,
    assign_splits,
    choose_layout,
)
from spectralgpt.data.labelling.classes import LabelClasses
from spectralgpt.data.labelling.config import LabelSource, TileRules
from spectralgpt.data.labelling.layers import open_labels, write_scene_masks
from spectralgpt.data.labelling.output import command_of
from spectralgpt.data.labelling.overview import Overview
from spectralgpt.data.labelling.papers import (
    Papers,
    write_description,
    write_papers,
    write_statistics,
)
from spectralgpt.data.labelling.scenes import LabelledScenes, Scene, list_scenes
from spectralgpt.data.labelling.tiles import WrittenTile, move_tiles, write_tiles
from spectralgpt.data.splits import refuse_untaught, wanted_splits
from spectralgpt.errors import DataError
from spectralgpt.outputs import appearing
from spectralgpt.sensors import list_sensors

__all__ = ["MadeSet", "make_labelled_set"]

_Progress = Callable[[str, int, int], None]
_OWN_FILES = ("labels.yaml", "classes.csv", "statistics.json")


@dataclass(frozen=True)
class MadeSet:
    """A labelled set on disk.

    Args:
        folder: where.
        splits: tiles and blocks by split.
        notes: what a user should know.
    """

    folder: Path
    splits: dict[str, tuple[int, int]]
    notes: tuple[str, ...]


def make_labelled_set(
    scenes: Sequence[Path],
    image_format: ImageFormat,
    labels: LabelSource,
    rules: TileRules,
    output: Path,
    *,
    licence: str = "",
    overwrite: bool = False,
    draw: Callable[[Overview, Path], None] | None = None,
    progress: _Progress = lambda step, done, total: None,
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
        layout = choose_layout(labelled, rules)
        written = write_tiles(
            work,
            layout.tiles,
            labelled,
            rules.min_labelled * rules.tile_px**2,
            _sensor_tag(found[0], image_format),
            lambda *n: progress("cutting tiles", *n),
        )
        tiles = _divide(written, layout, found, rules, classes.names)
        move_tiles(work, tiles, folder)
        notes = [*layer.notes, *_notes_on_labels(overlaps, classes)]
        notes += _notes_on_tiles(tiles, written, layout, classes.names)
        papers = Papers(
            output.name,
            labelled,
            labels,
            rules,
            layout,
            tiles,
            _place_sensor(folder, found[0], image_format),
            licence,
            command_of(scenes, image_format, labels, rules, output, licence),
            notes,
        )
        description = write_description(folder, papers)
        # Reading it back the way that fine-tuning does is the last check.
        dense = read_dense(read_dense_config(description))
        write_statistics(folder, dense, papers)
        write_papers(folder, papers)
        if draw is not None:
            picture = Overview(folder, labelled, tiles, output.name)
            draw(picture, folder / "overview.png")
        shutil.rmtree(work)
    rows = {split: (tiles, blocks) for split, tiles, blocks, _ in papers.split_rows()}
    return MadeSet(output, rows, tuple(notes))


def _divide(
    written: Sequence[WrittenTile],
    layout: Layout,
    scenes: Sequence[Scene],
    rules: TileRules,
    names: Sequence[str],
) -> list[WrittenTile]:
    """Give each tile the split of its block; refuse splits that stay empty.

    Raises:
        DataError: a split stays empty, or train would learn nothing of a class.
    """
    wanted = wanted_splits(rules.fractions)
    kept: list[WrittenTile] = []
    if written:
        split_of = assign_splits([w.tile for w in written], rules.fractions, rules.seed)
        dealt = [replace(w, split=split_of[w.tile.cell]) for w in written]
        kept = keep_apart(dealt, scenes, layout.gap_m)
    empty = [name for name in wanted if name not in {tile.split for tile in kept}]
    if empty:
        raise DataError(
            f"{', '.join(empty)} would be empty: of {len(layout.tiles)} labelled tiles "
            f"in {layout.num_blocks} blocks, {len(kept)} show enough valid pixels. "
            f"A block_m below {layout.block_m:g}, a smaller tile_px or min_labelled, "
            "or more scenes would help."
        )
    held = [np.flatnonzero(tile.tile.counts).tolist() for tile in kept]
    splits = [tile.split for tile in kept]
    refuse_untaught(splits, held, names, "the labelled tiles", rules.fractions)
    return kept


def _notes_on_labels(overlaps: int, classes: LabelClasses) -> Iterator[str]:
    if overlaps:
        yield (
            f"{overlaps} pixels lie in polygons of different classes; they have the "
            "class of the later one."
        )
    if classes.unseen:
        yield f"Classes that no label has: {', '.join(classes.unseen)}."


def _notes_on_tiles(
    tiles: Sequence[WrittenTile],
    written: Sequence[WrittenTile],
    layout: Layout,
    names: Sequence[str],
) -> Iterator[str]:
    invalid, near = len(layout.tiles) - len(written), len(written) - len(tiles)
    if invalid:
        yield f"{invalid} tiles were left out: too little of them is valid."
    if near:
        yield (
            f"{near} tiles were left out: they lie within {layout.gap_m:g} m of a tile "
            "of another split, in a scene of other pixels."
        )
    for split in dict.fromkeys(tile.split for tile in tiles):
        own = [tile.tile.counts for tile in tiles if tile.split == split]
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
