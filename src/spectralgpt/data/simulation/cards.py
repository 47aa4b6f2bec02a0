"""The papers of a simulated archive: what it is, how to read it, its label table."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt import __version__
from spectralgpt.data.simulation.materials import Cover
from spectralgpt.data.simulation.observation import quantification_of
from spectralgpt.data.simulation.places import make_region
from spectralgpt.data.simulation.scenes import SCENE_CLASSES
from spectralgpt.sensors import Sensor, load_sensor

if TYPE_CHECKING:
    from spectralgpt.data.simulation.archive import SimulationConfig

__all__ = ["write_cards", "write_label_table"]

_TASK_TEXT = {
    "classification": "`classification/<split>/<Class>/`: one scene class an image "
    "(folder layout).",
    "multilabel": "`multilabel/labels.csv` (columns image, labels parted by `;`, "
    "split) and `multilabel/images/`.",
    "segmentation": "`segmentation/<split>/images/` and `masks/` of the same names: "
    "land cover of each pixel, 255 where clouds hide it. `segmentation_labels.yaml` "
    "describes them for fine-tuning.",
    "change": "`change/<split>/before/`, `after/` and `masks/` of the same names: 1 "
    "where land cover was replaced, 0 elsewhere (season, light and haze differ too and "
    "are no change), 255 where clouds hide it. `change_labels.yaml` describes them for "
    "fine-tuning.",
    "scenes": "`scenes/<split>/`: mixed landscapes without labels, for pretraining.",
}

_MASK_CLASSES = {
    "segmentation": {cover.name.lower(): int(cover) for cover in Cover},
    "change": {"unchanged": 0, "changed": 1},
}


def write_label_table(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write rows of image name, labels and split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "labels", "split"))
        writer.writerows(
            (f"images/{name}", labels, split) for name, labels, split in rows
        )


def write_cards(
    folder: Path, config: "SimulationConfig", splits: Sequence[str]
) -> None:
    """Write README.md, dataset.json and descriptions of each task.

    `<task>.yaml` describes the images for pretraining, `<task>_labels.yaml` images and
    masks for fine-tuning.
    """
    sensor = load_sensor(config.sensor)
    regions = {split: config.regions_of(split) for split in splits}
    (folder / "dataset.json").write_text(
        json.dumps(_facts(config, sensor, regions), indent=2) + "\n", encoding="utf-8"
    )
    (folder / "README.md").write_text(_readme(config, sensor), encoding="utf-8")
    for task in config.tasks:
        # The images of `multilabel` lie in one folder: no glob keeps its test set out.
        if task != "multilabel":
            text = _description(task, sensor)
            (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
        if task in _MASK_CLASSES:
            text = _mask_description(task)
            (folder / f"{task}_labels.yaml").write_text(text, encoding="utf-8")


def _facts(
    config: "SimulationConfig", sensor: Sensor, regions: dict[str, tuple[int, ...]]
) -> dict[str, object]:
    pixels = config.view.pixels
    return {
        "simulated": True,
        "generator": f"spectralgpt {__version__} simulate",
        "config": asdict(config),
        "sensor": sensor.name,
        "bands": {band.name: band.wavelength_nm for band in pixels.bands},
        "gsd_m": pixels.gsd_m,
        "quantification": quantification_of(sensor),
        "quantification_is_stated": sensor.quantification is None,
        "offset": sensor.offset,
        "scene_classes": list(SCENE_CLASSES),
        "covers": [cover.name.lower() for cover in Cover],
        "regions": {
            split: [asdict(make_region(config.seed, n)) for n in numbers]
            for split, numbers in regions.items()
        },
    }


def _readme(config: "SimulationConfig", sensor: Sensor) -> str:
    tasks = "\n".join(f"- {_TASK_TEXT[task]}" for task in config.tasks)
    covers = ", ".join(f"{c.value} {c.name.lower()}" for c in Cover)
    scale = f"{quantification_of(sensor):g}"
    stated = (
        " The sensor's products have no fixed scale: this one was chosen here."
        if sensor.quantification is None
        else ""
    )
    return f"""# SIMULATED imagery of {sensor.title}

No satellite took these images. They were computed by spectralgpt {__version__}
(`spectralgpt simulate`, seed {config.seed}) from formulas of reflectance, drawn
landscapes and a model of air and sensor. Say so wherever they or results on them are
shown.

- Sensor: {sensor.name}; {len(config.view.pixels.bands)} bands in the order of
  wavelength, named in each file, on pixels of {config.view.pixels.gsd_m:g} m.
- Reflectance = (digital number + {sensor.offset:g}) / {scale}, which each file
  states as its scale and offset.{stated} State no offset of your own when reading.
- Splits hold different regions, each with soils, crops, roofs, waters, haze and growing
  season of its own. `dataset.json` lists them.
- Rows of permanent crops are spaced as wide plantings, so that they show at 10 m.

{tasks}

Covers: {covers}.
"""


def _description(task: str, sensor: Sensor) -> str:
    """Description for `spectralgpt pretrain`; the training regions only."""
    items = {
        "classification": "train/*/*.tif",
        "segmentation": "train/images/*.tif",
        "change": "train/*/*.tif",
        "scenes": "train/*.tif",
    }[task]
    exclude = {"change": "exclude: [train/masks/*]\n"}.get(task, "")
    return f"""# SIMULATED. Paths are relative to the folder of this file.
name: simulated-{task}
sensor: {sensor.name}
root: {task}
items: "{items}"
{exclude}# Each file states its own scale and offset.
unit: digital-numbers
place: "(?P<place>region[0-9]+)"
holdout: place
"""


def _mask_description(task: str) -> str:
    """Description of images and masks for fine-tuning; each file states its sensor."""
    rows = "\n".join(f"  {name}: {c}" for name, c in _MASK_CLASSES[task].items())
    return f"""# SIMULATED. Read with spectralgpt.data.dense.read_dense_config.
root: {task}
task: {task}
layout: folders
place: "(?P<place>region[0-9]+)"
split: given
classes:
{rows}
"""
