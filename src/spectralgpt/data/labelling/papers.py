"""The papers of a labelled set: description, class table, statistics, card."""

import csv
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.data.dense import DenseSet, dense_statistics
from spectralgpt.data.labelling.blocks import Layout
from spectralgpt.data.labelling.config import UNLABELLED, LabelSource, TileRules
from spectralgpt.data.labelling.scenes import LabelledScenes, Scene
from spectralgpt.data.labelling.tiles import WrittenTile
from spectralgpt.data.splits import SPLITS

__all__ = ["Papers", "write_description", "write_papers", "write_statistics"]

_PLACE = r"_(?P<place>block\d+)_r\d+_c\d+$"


@dataclass(frozen=True)
class Papers:
    """What a set is, for its papers.

    Args:
        name: of the set.
        labelled: what tiles were cut from.
        labels: where labels come from.
        rules: how tiles were cut.
        layout: blocks as they came out.
        tiles: all of them, with their splits.
        sensor: name, or file beside the description.
        licence: of the set, "" if not stated.
        command: that made it.
        notes: what a user should know.
    """

    name: str
    labelled: LabelledScenes
    labels: LabelSource
    rules: TileRules
    layout: Layout
    tiles: Sequence[WrittenTile]
    sensor: str
    licence: str
    command: Sequence[str]
    notes: Sequence[str]

    @property
    def splits(self) -> list[str]:
        """Splits that hold tiles."""
        there = {tile.split for tile in self.tiles}
        return [name for name in SPLITS if name in there]

    def counts(self, split: str) -> NDArray[np.int64]:
        """Labelled pixels of each class in a split, (K,)."""
        counts = [tile.tile.counts for tile in self.tiles if tile.split == split]
        return np.asarray(np.sum(counts, axis=0), np.int64)

    def split_rows(self) -> list[tuple[str, int, int, int]]:
        """Name, tiles, blocks and labelled pixels of each split."""
        rows = []
        for split in self.splits:
            own = [tile for tile in self.tiles if tile.split == split]
            blocks = len({tile.tile.cell for tile in own})
            rows.append((split, len(own), blocks, int(self.counts(split).sum())))
        return rows

    def class_rows(self) -> list[list[str]]:
        """Number, name, colour, and pixels and share in each split, of each class."""
        tables = [self.counts(split) for split in self.splits]
        rows = []
        for code, (name, colour) in enumerate(self.labelled.colours.items()):
            row = [str(code), name, colour]
            for counts in tables:
                row += [str(counts[code]), f"{counts[code] / max(1, counts.sum()):.4f}"]
            rows.append(row)
        return rows


def write_description(folder: Path, papers: Papers) -> Path:
    """Write labels.yaml, which `spectralgpt finetune segmentation --data` takes."""
    table = {
        "root": ".",
        "task": "segmentation",
        "layout": "folders",
        "sensor": papers.sensor,
        "split": "given",
        "place": _PLACE,
        "classes": {name: code for code, name in enumerate(papers.labelled.colours)},
        "ignored": [UNLABELLED],
        "colours": dict(papers.labelled.colours),
    }
    heading = f"# {papers.name}: made by spectralgpt {__version__}; see README.md.\n"
    text = yaml.safe_dump(table, sort_keys=False, allow_unicode=True)
    path = folder / "labels.yaml"
    path.write_text(heading + text, encoding="utf-8")
    return path


def write_statistics(folder: Path, dense: DenseSet, papers: Papers) -> None:
    """Write statistics.json: `BandStatistics` of train, and its extremes."""
    train = dense.select("train")
    bands = papers.labelled.scenes[0].item.bands
    measured = asdict(dense_statistics(train, bands, seed=papers.rules.seed))
    measured["source"] = f"{papers.name}, train"
    own = [tile for tile in papers.tiles if tile.split == "train"]
    low = np.min([tile.low for tile in own], axis=0)
    high = np.max([tile.high for tile in own], axis=0)
    names = [band.name for band in bands]
    measured["min"] = dict(zip(names, low.astype(float).tolist(), strict=True))
    measured["max"] = dict(zip(names, high.astype(float).tolist(), strict=True))
    text = json.dumps(measured, indent=2, ensure_ascii=False)
    (folder / "statistics.json").write_text(text + "\n", encoding="utf-8")


def write_papers(folder: Path, papers: Papers) -> None:
    """Write classes.csv and README.md."""
    heading = ["code", "name", "colour"]
    for split in papers.splits:
        heading += [f"{split}_pixels", f"{split}_share"]
    rows = papers.class_rows()
    with (folder / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, *rows])
    text = _fill_card(papers, heading, rows)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _fill_card(
    papers: Papers, heading: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    from jinja2 import Environment, StrictUndefined

    first = papers.labelled.scenes[0]
    height_m, width_m = first.pixel_m
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return environment.from_string(card).render(
        papers=papers,
        rules=papers.rules,
        labels=papers.labels,
        first=first,
        pixel=f"{height_m:g}" + (f" x {width_m:g}" if height_m != width_m else ""),
        scenes=[
            [s.path.resolve().name, s.date, _crs(s), f"{s.shape[0]} x {s.shape[1]}"]
            for s in papers.labelled.scenes
        ],
        class_heading=heading,
        class_rows=rows,
        unlabelled=UNLABELLED,
        version=__version__,
        command=shlex.join(papers.command),
    )


def _crs(scene: Scene) -> str:
    text = str(scene.grid.crs)
    return text if len(text) <= 40 else text.split('"')[1]
