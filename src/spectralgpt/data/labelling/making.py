"""From scenes and labels to a folder that fine-tuning reads: the steps in order.

The set is described by labels.yaml, classes.csv, tiles.csv, statistics.json and
README.md, and for others' tools by croissant.json.
"""

import csv
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.data.classes import class_colours, to_rgb
from spectralgpt.data.dense.config import read_dense_config
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling.blocks import (
    BlockPlan,
    Scene,
    Tile,
    TileRules,
    count_classes,
    divide_tiles,
    list_scenes,
    plan_blocks,
)
from spectralgpt.data.labelling.labels import (
    UNLABELLED,
    LabelClasses,
    LabelSource,
    PainterOn,
    open_labels,
)
from spectralgpt.data.samples import SPLITS, SampleSet
from spectralgpt.data.statistics import sample_statistics
from spectralgpt.files import appearing, digest_of, read_json, write_json, write_table
from spectralgpt.rasters import Grid, OpenFiles, read_codes, read_raster, write_geotiff
from spectralgpt.rasters.write import write_numbers, write_strips
from spectralgpt.sensors import list_sensors

_PLACE = r"_(?P<place>block\d+)_r\d+_c\d+$"
_OWN_FILES = ("labels.yaml", "classes.csv", "statistics.json")
_PARTS = ("images", "masks")
_TILE = ("split", "place", "image", "mask", "image_sha256", "mask_sha256")
_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".yaml": "application/yaml",
}
_BLANK = (255, 255, 255)


@dataclass(frozen=True)
class MadeSet:
    """A labelled set on disk.

    Args:
        name: of the set.
        folder: holds `<split>/images` and `<split>/masks`.
        scenes: what tiles were cut from; their masks are gone once the set is made.
        colours: colour of each class by its name, in their order.
        plan: blocks as they came out.
        tiles: all of them, with their splits.
        notes: what a user should know.
    """

    name: str
    folder: Path
    scenes: Sequence[Scene]
    colours: Mapping[str, str]
    plan: BlockPlan
    tiles: Sequence[Tile]
    notes: tuple[str, ...]

    @property
    def splits(self) -> dict[str, tuple[int, int]]:
        """Tiles and blocks of each split that holds any."""
        counts = {}
        for split in SPLITS:
            own = self.tiles_of(split)
            if own:
                counts[split] = len(own), len({tile.cell for tile in own})
        return counts

    def tiles_of(self, split: str) -> list[Tile]:
        """Tiles of a split, in the order of their rows."""
        return [tile for tile in self.tiles if tile.split == split]

    def pixels_of(self, split: str) -> NDArray[np.int64]:
        """Labelled pixels of each class in a split, (K,)."""
        counts = [tile.counts for tile in self.tiles_of(split)]
        return np.asarray(np.sum(counts, axis=0), np.int64)

    def largest(self) -> int:
        """Number of the scene with most tiles."""
        counts = Counter(tile.scene for tile in self.tiles)
        return max(sorted(counts), key=lambda scene: counts[scene])

    def samples(self, each: int) -> list[Tile]:
        """The tiles of each split with the most classes, as evenly as they come."""
        chosen: list[Tile] = []
        for split in SPLITS:
            own = sorted(self.tiles_of(split), key=lambda tile: -_variety(tile))
            chosen += own[:each]
        return chosen


def _variety(tile: Tile) -> float:
    """Probability that two labelled pixels differ in class."""
    shares = tile.counts / max(1, int(tile.counts.sum()))
    return float(1 - (shares**2).sum())


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
        scenes: files, or folders with one file per band.
        image_format: what is stated about them.
        labels: where labels come from.
        rules: sizes of tiles and blocks.
        output: folder to make. It appears whole or not at all.
        licence: of the set, for its card.
        overwrite: replace an existing labelled set.
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
        work = folder / ".work"
        found = list_scenes(scenes, image_format, work)
        grids = {scene.mask: scene.grid for scene in found}
        classes, painter_on, repaired = open_labels(labels, list(grids.values()))
        work.mkdir()
        colours = class_colours(classes.names)
        overlaps = _write_masks(
            grids, painter_on, lambda *n: progress("laying labels", *n)
        )
        plan = plan_blocks(found, len(colours), rules)
        written = _write_tiles(
            work,
            plan.tiles,
            found,
            colours,
            rules.min_labelled * rules.tile_px**2,
            _sensor_tag(found[0], image_format),
            lambda *n: progress("cutting tiles", *n),
        )
        tiles = divide_tiles(written, plan, found, rules, classes.names)
        for tile in tiles:
            for part in _PARTS:
                there = folder / tile.split / part
                there.mkdir(parents=True, exist_ok=True)
                (work / part / f"{tile.name}.tif").replace(there / f"{tile.name}.tif")
        notes = [*repaired, *_notes_on_labels(overlaps, classes)]
        notes += _notes_on_tiles(tiles, written, plan, classes.names)
        made = MadeSet(output.name, folder, found, colours, plan, tiles, tuple(notes))
        sensor = _place_sensor(folder, found[0], image_format)
        # Reading it back the way that fine-tuning does is the last check.
        dense = read_dense(read_dense_config(_write_description(made, sensor)))
        _write_statistics(made, dense, rules.seed)
        command = _command_of(scenes, image_format, labels, rules, output, licence)
        _write_card(made, labels, rules, licence, command)
        _write_tiles_table(made)
        _write_croissant(made, rules, licence)
        if draw is not None:
            draw(made, folder / "overview.png")
        shutil.rmtree(work)
    return replace(made, folder=output)


def _write_tiles(
    folder: Path,
    tiles: Sequence[Tile],
    scenes: Sequence[Scene],
    colours: Mapping[str, str],
    least_px: float,
    sensor_tag: str | None,
    progress: Callable[[int, int], None],
) -> list[Tile]:
    """Write those tiles that still have enough labels where the image is valid.

    In the order of their rows, so that files are read once.
    """
    numbers = {cell: n for n, cell in enumerate(sorted({t.cell for t in tiles}))}
    for part in _PARTS:
        (folder / part).mkdir(parents=True)
    files, written = OpenFiles(), []
    for done, tile in enumerate(tiles, start=1):
        scene, window = scenes[tile.scene], tile.window
        raster = read_raster(scene.item, window=window, files=files)
        rows = np.arange(window.row, window.row + window.height)
        columns = np.arange(window.column, window.column + window.width)
        mask, _ = read_codes(scene.mask, 1, rows, columns)
        mask = np.where(raster.valid.any(axis=0), mask, UNLABELLED)
        counts = count_classes(mask, len(colours))
        if counts.sum() >= least_px:
            block = f"block{numbers[tile.cell]:04d}"
            name = f"{scene.name}_{block}_r{window.row:05d}_c{window.column:05d}"
            write_geotiff(folder / "images" / f"{name}.tif", raster, sensor_tag)
            path = folder / "masks" / f"{name}.tif"
            _write_mask(path, mask, scene.grid.part(window), colours)
            low = np.where(raster.valid, raster.pixels, np.inf).min(axis=(1, 2))
            high = np.where(raster.valid, raster.pixels, -np.inf).max(axis=(1, 2))
            extremes = np.stack([low, high])
            written.append(replace(tile, counts=counts, name=name, extremes=extremes))
        progress(done, len(tiles))
    files.close()
    return written


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


def _write_masks(
    masks: Mapping[Path, Grid],
    painter_on: PainterOn,
    progress: Callable[[int, int], None],
) -> int:
    """Write masks by file, and their grids; returns the pixels in several classes."""
    total, done, overlaps = sum(grid.height for grid in masks.values()), 0, 0

    def strips(grid: Grid) -> Iterator[NDArray[np.uint8]]:
        nonlocal done, overlaps
        paint = painter_on(grid)
        for window in grid.strips():
            painted, several = paint(window)
            done, overlaps = done + window.height, overlaps + several
            progress(done, total)
            yield painted

    for path, grid in masks.items():
        write_strips(path, grid, strips(grid))
    return overlaps


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
        words += [f"--{name.replace('_', '-')}", _word(value)]
    for values in (labels, rules, rules.fractions):
        prefix = "fractions." if values is rules.fractions else ""
        for field in fields(values):
            value = getattr(values, field.name)
            if field.name != "fractions" and value != field.default:
                name = field.name.replace("_", "-")
                words += [f"--{prefix}{name}", _word(value)]
    return words + (["--licence", licence] if licence else [])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def _write_description(made: MadeSet, sensor: str) -> Path:
    """Write labels.yaml, which `spectralgpt finetune segmentation --data` takes."""
    table = {
        "root": ".",
        "task": "segmentation",
        "layout": "folders",
        "sensor": sensor,
        "split": "given",
        "place": _PLACE,
        "classes": {name: code for code, name in enumerate(made.colours)},
        "ignored": [UNLABELLED],
        "colours": dict(made.colours),
    }
    heading = f"# {made.name}: made by spectralgpt {__version__}; see README.md.\n"
    text = yaml.safe_dump(table, sort_keys=False, allow_unicode=True)
    path = made.folder / "labels.yaml"
    path.write_text(heading + text, encoding="utf-8")
    return path


def _write_statistics(made: MadeSet, dense: SampleSet, seed: int) -> None:
    """Write statistics.json: `BandStatistics` of train, and its extremes."""
    bands = made.scenes[0].item.bands
    measured = asdict(sample_statistics(dense.select("train"), bands, seed=seed))
    measured["source"] = f"{made.name}, train"
    extremes = np.stack([tile.extremes for tile in made.tiles_of("train")])
    low, high = extremes[:, 0].min(axis=0), extremes[:, 1].max(axis=0)
    names = [band.name for band in bands]
    measured["min"] = dict(zip(names, low.astype(float).tolist(), strict=True))
    measured["max"] = dict(zip(names, high.astype(float).tolist(), strict=True))
    text = json.dumps(measured, indent=2, ensure_ascii=False)
    (made.folder / "statistics.json").write_text(text + "\n", encoding="utf-8")


def _write_card(
    made: MadeSet,
    labels: LabelSource,
    rules: TileRules,
    licence: str,
    command: Sequence[str],
) -> None:
    """Write classes.csv and README.md."""
    from jinja2 import Environment, StrictUndefined

    splits = made.splits
    heading = ["code", "name", "colour"]
    heading += [f"{name}_{what}" for name in splits for what in ("pixels", "share")]
    tables = [made.pixels_of(split) for split in splits]
    class_rows = []
    for code, (name, colour) in enumerate(made.colours.items()):
        row = [str(code), name, colour]
        for counts in tables:
            row += [str(counts[code]), f"{counts[code] / max(1, counts.sum()):.4f}"]
        class_rows.append(row)
    with (made.folder / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, *class_rows])
    first = made.scenes[0]
    height_m, width_m = first.pixel_m
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    text = environment.from_string(card).render(
        made=made,
        rules=rules,
        labels=labels,
        licence=licence,
        first=first,
        pixel=f"{height_m:g}" + (f" x {width_m:g}" if height_m != width_m else ""),
        scenes=[
            [s.path.resolve().name, s.date, _crs(s), f"{s.shape[0]} x {s.shape[1]}"]
            for s in made.scenes
        ],
        class_heading=heading,
        class_rows=class_rows,
        split_rows=[[s, *n, int(made.pixels_of(s).sum())] for s, n in splits.items()],
        unlabelled=UNLABELLED,
        version=__version__,
        command=shlex.join(command),
    )
    (made.folder / "README.md").write_text(text, encoding="utf-8")


def _write_tiles_table(made: MadeSet) -> None:
    """Write tiles.csv: where each image and its mask lie, with their checksums."""
    rows = []
    for tile in made.tiles:
        paths = [f"{tile.split}/{part}/{tile.name}.tif" for part in _PARTS]
        sums = [digest_of(made.folder / path) for path in paths]
        place = re.findall(_PLACE, tile.name)[0]
        rows.append(dict(zip(_TILE, (tile.split, place, *paths, *sums), strict=True)))
    write_table(made.folder / "tiles.csv", rows)


def _write_croissant(made: MadeSet, rules: TileRules, licence: str) -> None:
    """Write croissant.json: what is in the folder, for tools that read Croissant.

    What nobody has said, such as who made the set, is left out.

    Source: MLCommons, Croissant 1.0, https://docs.mlcommons.org/croissant/
    """
    template = read_json(Path(__file__).with_name("croissant.json"))
    stated = {
        "name": made.name,
        "description": f"{len(made.tiles)} tiles of {rules.tile_px} x {rules.tile_px} "
        f"px with a class for every pixel ({', '.join(made.colours)}); images of "
        f"{made.scenes[0].item.sensor.title}. See README.md.",
    } | ({"license": licence} if licence else {})
    files = [
        {
            "@type": "cr:FileObject",
            "@id": path.name,
            "name": path.name,
            "contentUrl": path.name,
            "contentSize": f"{path.stat().st_size} B",
            "encodingFormat": _MEDIA_TYPES[path.suffix],
            "sha256": digest_of(path),
        }
        for path in sorted(made.folder.iterdir())
        if path.suffix in _MEDIA_TYPES
    ]
    template["distribution"] = files + template["distribution"]
    write_json(made.folder / "croissant.json", template | stated)


def _crs(scene: Scene) -> str:
    text = str(scene.grid.crs)
    return text if len(text) <= 40 else text.split('"')[1]
