"""A labelled set on disk: its splits and classes, and the files that describe it."""

import csv
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.data.labelling.blocks import BlockPlan, Tile, TileRules
from spectralgpt.data.labelling.labels import UNLABELLED, LabelSource
from spectralgpt.data.labelling.scenes import LabelledScenes, Scene
from spectralgpt.data.samples import SPLITS, SampleSet
from spectralgpt.data.statistics import sample_statistics

_PLACE = r"_(?P<place>block\d+)_r\d+_c\d+$"


@dataclass(frozen=True)
class MadeSet:
    """A labelled set on disk.

    Args:
        name: of the set.
        folder: holds `<split>/images` and `<split>/masks`.
        labelled: what tiles were cut from; its masks are gone once the set is made.
        plan: blocks as they came out.
        tiles: all of them, with their splits.
        notes: what a user should know.
    """

    name: str
    folder: Path
    labelled: LabelledScenes
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
        counts = [0] * len(self.labelled.scenes)
        for tile in self.tiles:
            counts[tile.scene] += 1
        return counts.index(max(counts))

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


def write_description(made: MadeSet, sensor: str) -> Path:
    """Write labels.yaml, which `spectralgpt finetune segmentation --data` takes.

    Args:
        made: the set.
        sensor: name, or file beside the description.
    """
    table = {
        "root": ".",
        "task": "segmentation",
        "layout": "folders",
        "sensor": sensor,
        "split": "given",
        "place": _PLACE,
        "classes": {name: code for code, name in enumerate(made.labelled.colours)},
        "ignored": [UNLABELLED],
        "colours": dict(made.labelled.colours),
    }
    heading = f"# {made.name}: made by spectralgpt {__version__}; see README.md.\n"
    text = yaml.safe_dump(table, sort_keys=False, allow_unicode=True)
    path = made.folder / "labels.yaml"
    path.write_text(heading + text, encoding="utf-8")
    return path


def write_statistics(made: MadeSet, dense: SampleSet, seed: int) -> None:
    """Write statistics.json: `BandStatistics` of train, and its extremes.

    Args:
        made: the set.
        dense: the same set, as fine-tuning reads it.
        seed: of the windows that are measured.
    """
    bands = made.labelled.scenes[0].item.bands
    measured = asdict(sample_statistics(dense.select("train"), bands, seed=seed))
    measured["source"] = f"{made.name}, train"
    extremes = np.stack([tile.extremes for tile in made.tiles_of("train")])
    low, high = extremes[:, 0].min(axis=0), extremes[:, 1].max(axis=0)
    names = [band.name for band in bands]
    measured["min"] = dict(zip(names, low.astype(float).tolist(), strict=True))
    measured["max"] = dict(zip(names, high.astype(float).tolist(), strict=True))
    text = json.dumps(measured, indent=2, ensure_ascii=False)
    (made.folder / "statistics.json").write_text(text + "\n", encoding="utf-8")


def write_card(
    made: MadeSet,
    labels: LabelSource,
    rules: TileRules,
    licence: str,
    command: Sequence[str],
) -> None:
    """Write classes.csv and README.md.

    Args:
        made: the set.
        labels: where labels come from.
        rules: how tiles were cut.
        licence: of the set, "" if not stated.
        command: that made it.
    """
    from jinja2 import Environment, StrictUndefined

    splits = made.splits
    heading = ["code", "name", "colour"]
    heading += [f"{name}_{what}" for name in splits for what in ("pixels", "share")]
    class_rows = list(_class_rows(made))
    with (made.folder / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, *class_rows])
    first = made.labelled.scenes[0]
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
            for s in made.labelled.scenes
        ],
        class_heading=heading,
        class_rows=class_rows,
        split_rows=[[s, *n, int(made.pixels_of(s).sum())] for s, n in splits.items()],
        unlabelled=UNLABELLED,
        version=__version__,
        command=shlex.join(command),
    )
    (made.folder / "README.md").write_text(text, encoding="utf-8")


def _class_rows(made: MadeSet) -> Iterator[list[str]]:
    """Yield number, name, colour, and pixels and share in each split, of each class."""
    tables = [made.pixels_of(split) for split in made.splits]
    for code, (name, colour) in enumerate(made.labelled.colours.items()):
        row = [str(code), name, colour]
        for counts in tables:
            row += [str(counts[code]), f"{counts[code] / max(1, counts.sum()):.4f}"]
        yield row


def _crs(scene: Scene) -> str:
    text = str(scene.grid.crs)
    return text if len(text) <= 40 else text.split('"')[1]
