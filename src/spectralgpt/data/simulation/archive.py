"""A simulated satellite archive on disk: images of any sensor, labels for all tasks.

Layout below the output folder:

    classification/<split>/<Class>/<image>.tif     ten scene classes, EuroSAT's names
    multilabel/images/<image>.tif, labels.csv      covers that hold more than some share
    segmentation/<split>/{images,masks}/<image>.tif
    change/<split>/{before,after,masks}/<image>.tif
    scenes/<split>/<image>.tif                     unlabelled, for pretraining
    dataset.json, README.md, <task>.yaml           what it is, and how to pretrain on it
    <task>_labels.yaml                             images and masks, for fine-tuning

Splits hold different regions. Every file says that it is simulated.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spectralgpt.atomic_files import appearing
from spectralgpt.data.simulation.cards import write_cards, write_label_table
from spectralgpt.data.simulation.files import (
    IGNORED,
    FileStamp,
    write_image,
    write_mask,
)
from spectralgpt.data.simulation.materials import Cover
from spectralgpt.data.simulation.observation import PixelGrid
from spectralgpt.data.simulation.places import Region, make_region
from spectralgpt.data.simulation.rendering import Picture, View, render, render_pair
from spectralgpt.data.simulation.scenes import (
    SCENE_CLASSES,
    paint_landscape,
    paint_scene,
)
from spectralgpt.data.simulation.sensor_response import optical_bands
from spectralgpt.errors import ConfigError
from spectralgpt.rasters.numbers import NorthUpPlace
from spectralgpt.sensors import load_sensor
from spectralgpt.threads import follow_parent

__all__ = ["TASKS", "SimulationConfig", "simulate_archive"]

TASKS: Final = ("classification", "multilabel", "segmentation", "change", "scenes")
SPLITS: Final = ("train", "val", "test")
_OPAQUE = 0.5
_FEWEST = 3
_SPLIT_STREAM = 7
_SNOW_SHARE = 0.3
_COLUMNS, _SPACING = 100, 1.25
_CHUNK = 8


@dataclass(frozen=True)
class SimulationConfig:
    """What to simulate.

    Args:
        tasks: any of classification, multilabel, segmentation, change and scenes
            (unlabelled, for pretraining).
        sensor: name of a sensor in the registry.
        images: images of each task, over all splits (pairs for change).
        image_size: side of an image in pixels of the sensor's finest band.
        seed: fixes every number of the archive.
        regions: number of simulated regions, each in one split only.
        train_share: share of images and regions for training, 0..1.
        val_share: the same for validation; the rest is for testing.
        cloudy_share: share of images with clouds, 0..1.
        label_share: least share of an image for a cover to be a label, 0..1.
        workers: processes to use.
    """

    tasks: tuple[str, ...] = ("classification",)
    sensor: str = "sentinel-2-l2a"
    images: int = 1000
    image_size: int = 64
    seed: int = 0
    regions: int = 40
    train_share: float = 0.6
    val_share: float = 0.2
    cloudy_share: float = 0.1
    label_share: float = 0.1
    workers: int = 1

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(
                f"tasks must be some of {', '.join(TASKS)}, each once (found: "
                f"{', '.join(self.tasks) or 'none'})."
            )
        for name, least in (
            ("images", _FEWEST * max(map(_num_kinds, self.tasks))),
            ("image_size", 8),
            ("seed", 0),
            ("regions", _FEWEST),
            ("workers", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} must be at least {least}, found {getattr(self, name)}."
                )
        for name in ("train_share", "val_share", "cloudy_share", "label_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"{name} must lie in 0..1, found {getattr(self, name)}."
                )
        if self.train_share <= 0.0 or self.train_share + self.val_share > 1.0:
            raise ConfigError(
                f"train_share {self.train_share} must be above 0, and with val_share "
                f"{self.val_share} sum to 1 at most."
            )

    @property
    def view(self) -> View:
        """Sensor and sky."""
        sensor = load_sensor(self.sensor)
        surface = sensor.name.endswith(("l2", "l2a"))
        pixels = PixelGrid(optical_bands(sensor), self.image_size)
        return View(pixels, not surface, self.cloudy_share, _SNOW_SHARE)

    def regions_of(self, split: str) -> tuple[int, ...]:
        """Numbers of the regions of a split; splits share none."""
        rng = np.random.default_rng((self.seed, _SPLIT_STREAM))
        numbers = rng.permutation(self.regions)
        first, second = self._cuts(self.regions)
        limits = {"train": (0, first), "val": (first, second), "test": (second, None)}
        low, high = limits[split]
        return tuple(int(n) for n in numbers[low:high])

    def split_of(self, task: str, number: int) -> str:
        """Split of an image; each scene class is split in the same shares."""
        kinds = _num_kinds(task)
        first, second = self._cuts(self.images // kinds)
        turn = number // kinds
        return "train" if turn < first else "val" if turn < second else "test"

    def _cuts(self, count: int) -> tuple[int, int]:
        """Where validation and testing begin; each split gets one at least."""
        first = min(max(1, round(self.train_share * count)), count - 2)
        second = first + max(1, round(self.val_share * count))
        return first, min(second, count - 1)


@dataclass(frozen=True)
class _Job:
    config: SimulationConfig
    output: Path
    task: str
    number: int

    @property
    def split(self) -> str:
        return self.config.split_of(self.task, self.number)

    @property
    def key(self) -> tuple[int, ...]:
        return (self.config.seed, TASKS.index(self.task), self.number)

    @property
    def scene_class(self) -> str:
        return SCENE_CLASSES[self.number % len(SCENE_CLASSES)]


def simulate_archive(
    output: Path, config: SimulationConfig | None = None, *, overwrite: bool = False
) -> Path:
    """Simulate an archive; the same configuration gives the same pixels.

    Args:
        output: folder to make. It appears whole or not at all.
        config: what to simulate; the defaults if None.
        overwrite: replace a folder that `simulate_archive` made before.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder exists, and may not be replaced.
        BandError: the sensor has no optical band.
    """
    config = config or SimulationConfig()
    with appearing(
        output, "simulated archive", ["dataset.json"], overwrite=overwrite
    ) as building:
        for task in config.tasks:
            jobs = [_Job(config, building, task, n) for n in range(config.images)]
            rows = list(_run(jobs, config.workers))
            if task == "multilabel":
                write_label_table(building / task / "labels.csv", rows)
        write_cards(building, config, SPLITS)
    return output


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[str, str, str]]:
    if workers == 1:
        yield from map(_simulate, jobs)
        return
    with ProcessPoolExecutor(workers, initializer=follow_parent) as pool:
        yield from pool.map(_simulate, jobs, chunksize=_CHUNK)


def _simulate(job: _Job) -> tuple[str, str, str]:
    """Simulate and write one image; returns its name, its covers and its split."""
    config, view = job.config, job.config.view
    regions = config.regions_of(job.split)
    turn = job.number // _num_kinds(job.task)
    region = make_region(config.seed, regions[turn % len(regions)])
    stamp = _stamp(job, view, region)
    name = f"{region.name}_{job.number:06d}.tif"
    folder = job.output / job.task / job.split
    if job.task == "change":
        pair = render_pair(view, region, job.key, paint_landscape)
        _write_pair(folder, name, stamp, *pair)
        return name, "", job.split
    if job.task == "classification":
        painter = partial(paint_scene, name=job.scene_class)
        picture = render(view, region, job.key, painter)
        name = f"{job.scene_class}_{name}"
        write_image(folder / job.scene_class / name, picture, stamp)
        return name, job.scene_class, job.split
    picture = render(view, region, job.key, paint_landscape)
    if job.task == "multilabel":
        write_image(job.output / job.task / "images" / name, picture, stamp)
    elif job.task == "segmentation":
        mask = np.where(picture.cloud > _OPAQUE, IGNORED, picture.cover_map())
        write_image(folder / "images" / name, picture, stamp)
        write_mask(folder / "masks" / name, mask, stamp, _cover_names())
    else:
        write_image(folder / name, picture, stamp)
    return name, ";".join(_labels(picture, config.label_share)), job.split


def _stamp(job: _Job, view: View, region: Region) -> FileStamp:
    """Give the image a place of its own in its region, apart from all others."""
    gsd_m = view.pixels.gsd_m
    spacing_m = _SPACING * job.config.image_size * gsd_m
    row, column = divmod(job.number, _COLUMNS)
    # Places of tasks take turns going south.
    south = row * len(TASKS) + TASKS.index(job.task)
    place = NorthUpPlace(
        region.epsg,
        region.easting_m + column * spacing_m,
        region.northing_m - south * spacing_m,
        gsd_m,
    )
    sensor = load_sensor(job.config.sensor)
    return FileStamp(sensor, view.pixels.bands, place, region.name, job.config.seed)


def _write_pair(
    folder: Path,
    name: str,
    stamp: FileStamp,
    before: Picture,
    after: Picture,
    changed: NDArray[np.bool_],
) -> None:
    hidden = np.maximum(before.cloud, after.cloud) > _OPAQUE
    mask = np.where(hidden, IGNORED, changed)
    write_image(folder / "before" / name, before, stamp)
    write_image(folder / "after" / name, after, stamp)
    write_mask(folder / "masks" / name, mask, stamp, ("unchanged", "changed"))


def _num_kinds(task: str) -> int:
    """Scene classes that the images of a task take turns in."""
    return len(SCENE_CLASSES) if task == "classification" else 1


def _cover_names() -> tuple[str, ...]:
    return tuple(cover.name.lower() for cover in Cover)


def _labels(picture: Picture, least: float) -> list[str]:
    """Covers that hold a share of the image, the largest one in any case."""
    shares = picture.covers.mean(axis=(1, 2))
    kept = [cover for cover in Cover if shares[cover] >= least]
    kept = kept or [Cover(int(shares.argmax()))]
    return [cover.name.lower() for cover in kept]
