"""The kinds of jobs, and the plan of one that all processes agree on, as plain values.

A job travels to other processes and machines, which load its model themselves.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from spectralgpt import __version__
from spectralgpt.data.colours import class_colours
from spectralgpt.data.dense import CHANGE
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError
from spectralgpt.files import read_json, write_json
from spectralgpt.models.building import Quantization
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters.embeddings import NumberType
from spectralgpt.rasters.write import LEGEND_SUFFIX
from spectralgpt.reports.scene_pictures import write_component_picture, write_quick_look
from spectralgpt.scenes.embedding import CellOptions
from spectralgpt.scenes.embedding_rasters import (
    embed_to_raster,
    fingerprint,
    write_embedding_item,
)
from spectralgpt.scenes.inputs import describe_input, polygons_path, probabilities_path
from spectralgpt.scenes.loading import (
    Precision,
    build_mapper,
    in_precision,
    load_on_device,
    stated_contract,
)
from spectralgpt.scenes.maps import MapOptions, map_image, write_map_item
from spectralgpt.scenes.unfinished import digest_facts, digest_model

__all__ = [
    "EmbedJob",
    "Job",
    "Plan",
    "PredictJob",
    "ReadyJob",
    "Worker",
    "check_plan",
    "load_job",
    "versions",
    "write_plan",
]

Progress = Callable[[float], None]
Worker = Callable[[tuple[Path, ...], Path, Progress | None], list[Path]]
"""Does a scene: its dates, the raster to make, progress 0..1; returns what it made."""
_FILE = "job.json"
_APART = ("model", "device", "batch_size")
"""Weights say which model it is; the others leave outputs as they are."""
_OTHERS = ("torch", "rasterio")


@dataclass(frozen=True)
class ReadyJob:
    """A job whose model is loaded.

    Args:
        weights: digest of the model's weights.
        contract: which bands and scaling the model takes.
        work: does a scene.
        num_dates: that a scene has.
    """

    weights: str
    contract: Preprocessing
    work: Worker
    num_dates: int = 1


@dataclass(frozen=True)
class PredictJob:
    """Map every scene, as `spectralgpt predict` does.

    Args:
        model: a model of segmentation or change: a path or a Hub name.
        image_format: what is stated about the scenes.
        device: see `load_on_device`.
        batch_size: windows predicted at once.
        probabilities: write them, too.
        polygons: write the outlines of classes, too.
        test_flips: average over mirror images.
        overlap: share of a window that its neighbour covers again.
        precision: see `in_precision`.
        quantize: how the encoder's weights are held.
    """

    model: str
    image_format: ImageFormat = field(default_factory=ImageFormat)
    device: str = "auto"
    batch_size: int = 32
    probabilities: bool = False
    polygons: bool = False
    test_flips: bool = False
    overlap: float = 0.5
    precision: Precision = "fp32"
    quantize: Quantization = "none"

    @property
    def settings(self) -> dict[str, Any]:
        """What the outputs depend on, beside the weights."""
        return _settings("predict", self)

    def load(self) -> ReadyJob:
        """Load the model.

        Raises:
            CheckpointError: it cannot be read, or makes no maps.
            ConfigError: there is no such device.
        """
        loaded = load_on_device(self.model, self.device, quantize=self.quantize)
        mapper, task = build_mapper(loaded, self.model, self.test_flips, self.precision)
        stated = loaded.extra.get("colours")
        colours = tuple(stated or class_colours(mapper.class_names).values())
        options = MapOptions(
            colours,
            self.probabilities,
            self.polygons,
            self.batch_size,
            # Whoever holds the scene's lock may begin anew what another model left.
            overwrite=True,
            overlap=self.overlap,
        )

        def work(
            dates: tuple[Path, ...], target: Path, progress: Progress | None
        ) -> list[Path]:
            stated, contract = self.image_format, mapper.preprocessing
            items = tuple(describe_input(date, stated, contract) for date in dates)
            with in_precision(loaded, self.precision):
                made = map_image(mapper, items, target, options, progress)
            picture = write_quick_look(made, mapper, colours)
            described = write_map_item(mapper, made, options)
            others = [target.with_name(target.name + LEGEND_SUFFIX)]
            others += [probabilities_path(target)] if self.probabilities else []
            others += [polygons_path(target)] if self.polygons else []
            others += [described] if described is not None else []
            return [target, *others, picture]

        num_dates = 2 if task == CHANGE else 1
        weights = digest_model(loaded.model)
        return ReadyJob(weights, mapper.preprocessing, work, num_dates)


@dataclass(frozen=True)
class EmbedJob:
    """Write a raster of embeddings of every scene, as `spectralgpt embed` does.

    Args:
        model: a path, a Hub name, or a size for random weights.
        image_format: what is stated about the scenes.
        device: see `load_on_device`.
        batch_size: windows encoded at once.
        cell_px: side of a cell, px; None is the model's patch.
        dtype: of the numbers in the rasters.
        reflectance: add the mean reflectance of cells.
        precision: see `in_precision`.
        quantize: how the encoder's weights are held.
    """

    model: str
    image_format: ImageFormat = field(default_factory=ImageFormat)
    device: str = "auto"
    batch_size: int = 32
    cell_px: int | None = None
    dtype: NumberType = "float16"
    reflectance: bool = True
    precision: Precision = "fp32"
    quantize: Quantization = "none"

    @property
    def settings(self) -> dict[str, Any]:
        """What the outputs depend on, beside the weights."""
        return _settings("embed", self)

    def load(self) -> ReadyJob:
        """Load the model.

        Raises:
            CheckpointError: it cannot be read, or does not say what it takes.
            ConfigError: there is no such device, or cells do not fit.
        """
        loaded = load_on_device(
            self.model, self.device, self.image_format.sensor, quantize=self.quantize
        )
        contract = stated_contract(loaded, self.model)
        cells = CellOptions(self.cell_px, batch_size=self.batch_size)
        cells.side(loaded.encoder.patch_size)
        encoder = fingerprint(loaded)

        def work(
            dates: tuple[Path, ...], target: Path, progress: Progress | None
        ) -> list[Path]:
            (scene,) = dates
            item = describe_input(scene, self.image_format, contract)
            with in_precision(loaded, self.precision):
                made = embed_to_raster(
                    loaded,
                    contract,
                    item,
                    encoder,
                    target,
                    cells,
                    number_type=self.dtype,
                    reflectance=self.reflectance,
                    progress=progress,
                )
            picture = write_component_picture(made, target.with_suffix(".png"))
            described = write_embedding_item(made, item, Path(self.model).name)
            return [target, *([described] if described is not None else []), picture]

        return ReadyJob(encoder, contract, work)


def _settings(command: str, job: Any) -> dict[str, Any]:
    each = {one.name: getattr(job, one.name) for one in fields(job)}
    return {"command": command, **{k: v for k, v in each.items() if k not in _APART}}


Job = PredictJob | EmbedJob
"""What is to be done with every scene."""


@dataclass(frozen=True)
class Plan:
    """A job and where its outputs go.

    Args:
        job: what is done with every scene.
        output: its folder, an absolute path.
        weights: digest of the model.
        run: id of this run, unlike those of all others.
        version: of this package, which all processes must have.
    """

    job: Job
    output: Path
    weights: str
    run: str = field(default_factory=lambda: uuid4().hex)
    version: str = __version__

    @cached_property
    def configuration(self) -> str:
        """Digest of model and options: outputs of the same are not made again."""
        return digest_facts(self.facts)

    @property
    def facts(self) -> dict[str, str]:
        """Model and options, by the words that a user knows them by."""
        plain = {name: _plain(value) for name, value in self.job.settings.items()}
        return {"model": self.weights, **plain}

    def target(self, name: str) -> Path:
        """Return the raster that is made of a scene."""
        return self.output / "scenes" / f"{name}.tif"


def _plain(value: Any) -> str:
    """Say a setting in words; of what is stated about images what is not as usual."""
    if not isinstance(value, ImageFormat):
        return str(value)
    usual = ImageFormat()
    rows = [(each.name, getattr(value, each.name)) for each in fields(value)]
    return ", ".join(f"{k}={v}" for k, v in rows if v != getattr(usual, k))


@lru_cache(maxsize=1)
def load_job(job: Job) -> ReadyJob:
    """Load the model of a job, once a process."""
    return job.load()


def check_plan(plan: Plan) -> None:
    """Refuse a folder that another job was done in.

    Raises:
        ConfigError: it was; says what differs.
    """
    path = plan.output / _FILE
    if not path.is_file():
        return
    try:
        found = read_json(path)["facts"]
        is_known = isinstance(found, Mapping)
    except (OSError, ValueError, KeyError, TypeError):
        is_known = False
    if not is_known:
        raise ConfigError(
            f"{path} cannot be read: choose another --output, or pass --overwrite."
        )
    stated = plan.facts
    differing = [
        key for key in {**stated, **found} if stated.get(key) != found.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{plan.output} holds scenes done with another {' and '.join(differing)}: "
            "pass --overwrite to do the scenes again, or choose another --output."
        )


def write_plan(plan: Plan) -> None:
    """Write the file that says what is done with every scene.

    Raises:
        OSError: it cannot be written.
    """
    said = {
        "model": plan.job.model,
        "configuration": plan.configuration,
        "facts": plan.facts,
        "versions": versions(),
    }
    write_json(plan.output / _FILE, said)


def versions() -> dict[str, str]:
    """Return the versions of the programs that matter for the outputs."""
    others = {name: version(name) for name in _OTHERS}
    return {"spectralgpt": __version__, "python": platform.python_version(), **others}
