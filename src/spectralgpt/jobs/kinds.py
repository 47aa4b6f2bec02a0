"""The kinds of jobs, and the plan of one that all processes agree on, as plain values.

A job travels to other processes and machines, which load its model themselves.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from spectralgpt import __version__
from spectralgpt.building import Quantization
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.samples import CHANGE
from spectralgpt.errors import ConfigError
from spectralgpt.files import read_json, write_json
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile
from spectralgpt.rasters.embeddings import EmbeddingRaster, open_embeddings
from spectralgpt.rasters.styles import style_paths
from spectralgpt.rasters.write import NumberType
from spectralgpt.reports.scene_pictures import write_component_picture, write_quick_look
from spectralgpt.scenes.embedding import (
    cell_side,
    embed_to_raster,
    fingerprint,
    write_embedding_item,
)
from spectralgpt.scenes.inputs import Progress, describe_input, on_same_pixels
from spectralgpt.scenes.loading import (
    Precision,
    in_precision,
    load_on_device,
    stated_contract,
)
from spectralgpt.scenes.maps import Mapper, SceneMap, build_mapper, map_image
from spectralgpt.scenes.unfinished import digest_facts, digest_model, scene_facts

_FILE = "job.json"
_APART = ("model", "device", "batch_size")
"""Weights say which model it is; the others leave outputs as they are."""
_OTHERS = ("torch", "rasterio")


@dataclass(frozen=True)
class _ReadyMaps:
    """What is done with each scene to map it, step by step; its model is loaded.

    `weights` is the model's digest; `computing` gives the context that it runs in.
    """

    mapper: Mapper
    image_format: ImageFormat = field(default_factory=ImageFormat)
    num_dates: int = 1
    weights: str = ""
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext
    table = "maps.csv"

    @property
    def contract(self) -> Preprocessing:
        """Which bands and scaling the model takes."""
        return self.mapper.preprocessing

    def describe(self, dates: Sequence[Path]) -> tuple[RasterFile, ...]:
        """Describe a scene, or two dates; they are cut to the ground of both."""
        items = tuple(
            describe_input(date, self.image_format, self.contract) for date in dates
        )
        return on_same_pixels(items, [self.mapper.bands(item) for item in items])

    def make(
        self, items: tuple[RasterFile, ...], target: Path, progress: Progress | None
    ) -> SceneMap:
        """Map a scene; `progress` is called with the share that is done."""
        with self.computing():
            return map_image(self.mapper, items, target, progress)

    def finish(self, made: SceneMap) -> list[Path]:
        """Add picture and STAC item; returns all files that were made."""
        mapper, target = self.mapper, made.path
        picture = write_quick_look(made, mapper)
        described = mapper.write_item(made)
        probabilities, polygons = mapper.beside(target)
        others = [*style_paths(target)] if mapper.unit is None else []
        others += [probabilities] if mapper.probabilities else []
        others += [polygons] if mapper.polygons else []
        others += [described] if described is not None else []
        return [target, *others, picture]

    def digest(self, items: tuple[RasterFile, ...], target: Path) -> str:
        """Tell what a map depends on from all else; empty if that is not known."""
        mapper, facts = self.mapper, self.mapper.facts(items)
        if facts is None:
            return ""
        beside = (mapper.probabilities, mapper.polygons)
        options = (mapper.colours, *beside, mapper.overwrite)
        return digest_facts(facts, mapper.layers(target, items), options)

    def look_at(self, items: tuple[RasterFile, ...], target: Path) -> SceneMap:
        """Return what `make` does, of a map that is there."""
        return self.mapper.look_at(items, target)

    def beside(self, target: Path) -> tuple[Path, ...]:
        """Return files that `make` may write beside a map."""
        return self.mapper.beside(target)

    def rows(self, scene: Path, made: SceneMap) -> list[dict[str, Any]]:
        """Return what the table says of a scene: pixels of each class, or numbers."""
        if self.mapper.unit is not None:
            least, mean, most = (f"{value:.6g}" for value in made.values)
            about = {"image": str(scene), "map": made.path.name}
            about |= {"target": self.mapper.class_names[0], "unit": self.mapper.unit}
            found = {"least": least, "mean": mean, "most": most}
            return [{**about, "pixels": int(made.pixels[0]), **found}]
        total = int(made.pixels.sum())
        return [
            {
                "image": str(scene),
                "map": made.path.name,
                "class": name,
                "pixels": int(count),
                "share": f"{count / total:.6f}",
            }
            for name, count in zip(self.mapper.class_names, made.pixels, strict=True)
        ]


@dataclass(frozen=True)
class _ReadyEmbeddings:
    """What is done with each scene to embed it, as `_ReadyMaps` says of maps."""

    loaded: LoadedModel
    contract: Preprocessing
    job: "EmbedJob"
    weights: str
    num_dates = 1
    table = "embeddings.csv"

    def describe(self, dates: Sequence[Path]) -> tuple[RasterFile, ...]:
        """Describe a scene."""
        (scene,) = dates
        return (describe_input(scene, self.job.image_format, self.contract),)

    def make(
        self, items: tuple[RasterFile, ...], target: Path, progress: Progress | None
    ) -> tuple[EmbeddingRaster, RasterFile]:
        """Embed a scene, see `embed_to_raster`; returns it with the scene."""
        job = self.job
        with in_precision(self.loaded, job.precision):
            made = embed_to_raster(
                self.loaded,
                self.contract,
                items[0],
                self.weights,
                target,
                cell_px=job.cell_px,
                batch_size=job.batch_size,
                number_type=job.dtype,
                reflectance=job.reflectance,
                progress=progress,
            )
        return made, items[0]

    def finish(self, made: tuple[EmbeddingRaster, RasterFile]) -> list[Path]:
        """Add picture and STAC item; returns all files that were made."""
        raster, item = made
        picture = write_component_picture(raster, raster.path.with_suffix(".png"))
        described = write_embedding_item(raster, item, Path(self.job.model).name)
        others = [described] if described is not None else []
        return [raster.path, *others, picture]

    def digest(self, items: tuple[RasterFile, ...], target: Path) -> str:
        """Tell what a raster depends on from all else."""
        device = next(self.loaded.model.parameters()).device.type
        facts = scene_facts(items, self.contract)
        return digest_facts(facts, self.weights, self.job, device, target.name)

    def look_at(
        self, items: tuple[RasterFile, ...], target: Path
    ) -> tuple[EmbeddingRaster, RasterFile]:
        """Return a raster that is there, with its scene."""
        return open_embeddings(target), items[0]

    def beside(self, target: Path) -> tuple[Path, ...]:
        """Return no files: there are none but the raster."""
        return ()

    def rows(
        self, scene: Path, made: tuple[EmbeddingRaster, RasterFile]
    ) -> list[dict[str, Any]]:
        """Return the size of the raster."""
        raster = made[0]
        return [
            {
                "scene": scene,
                "raster": raster.path.name,
                "rows": raster.grid.height,
                "columns": raster.grid.width,
                "layers": len(raster.source.layer_names),
            }
        ]


@dataclass(frozen=True)
class PredictJob:
    """Map every scene, as `spectralgpt predict` does.

    Args:
        model: a model of segmentation, regression or change: a path or a Hub name.
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

    def load(self) -> _ReadyMaps:
        """Load the model.

        Raises:
            CheckpointError: it cannot be read, or makes no maps.
            ConfigError: there is no such device.
        """
        loaded = load_on_device(self.model, self.device, quantize=self.quantize)
        # Whoever holds the scene's lock may begin anew what another model left.
        ready = self.prepare(loaded, overwrite=True)
        return replace(ready, weights=digest_model(loaded.model))

    def prepare(self, loaded: LoadedModel, overwrite: bool = False) -> _ReadyMaps:
        """Make maps with a model that is loaded.

        Raises:
            CheckpointError: it makes no maps.
            ConfigError: numbers are to have what only classes have.
        """
        mapper, task = build_mapper(loaded, self.model, self.test_flips, self.precision)
        of_classes = [n for n in ("probabilities", "polygons") if getattr(self, n)]
        if mapper.unit is not None and of_classes:
            raise ConfigError(
                f"{self.model} maps numbers, and --{of_classes[0]} is for classes: "
                "leave it out."
            )
        mapper = replace(
            mapper,
            probabilities=self.probabilities,
            polygons=self.polygons,
            batch_size=self.batch_size,
            overlap=self.overlap,
            overwrite=overwrite,
        )
        computing = partial(in_precision, loaded, self.precision)
        dates = 2 if task == CHANGE else 1
        return _ReadyMaps(mapper, self.image_format, dates, computing=computing)


@dataclass(frozen=True)
class EmbedJob:
    """Write a raster of embeddings of every scene, as `spectralgpt embed` does.

    Args:
        model: a path, a Hub name, or a size for random weights.
        image_format: what is stated about the scenes.
        device: see `load_on_device`.
        batch_size: windows encoded at once.
        cell_px: side of a cell, px; None is the model's patch.
        image_size: side of the windows, px; None keeps the checkpoint's.
        dtype: of the numbers in the rasters.
        reflectance: add mean and deviation of the reflectance in cells.
        precision: see `in_precision`.
        quantize: how the encoder's weights are held.
    """

    model: str
    image_format: ImageFormat = field(default_factory=ImageFormat)
    device: str = "auto"
    batch_size: int = 32
    cell_px: int | None = None
    image_size: int | None = None
    dtype: NumberType = "float16"
    reflectance: bool = True
    precision: Precision = "fp32"
    quantize: Quantization = "none"

    @property
    def settings(self) -> dict[str, Any]:
        """What the outputs depend on, beside the weights."""
        return _settings("embed", self)

    def load(self) -> _ReadyEmbeddings:
        """Load the model.

        Raises:
            CheckpointError: it cannot be read, or does not say what it takes.
            ConfigError: there is no such device, or cells do not fit.
        """
        sensor = self.image_format.sensor
        loaded = load_on_device(
            self.model, self.device, sensor, self.image_size, self.quantize
        )
        return self.prepare(loaded)

    def prepare(self, loaded: LoadedModel) -> _ReadyEmbeddings:
        """Embed with a model that is loaded.

        Raises:
            CheckpointError: it does not say what it takes.
            ConfigError: cells do not fit.
        """
        contract = stated_contract(loaded, self.model)
        cell_side(loaded.encoder.patch_size, self.cell_px)
        return _ReadyEmbeddings(loaded, contract, self, fingerprint(loaded))


def _settings(command: str, job: Any) -> dict[str, Any]:
    each = {one.name: getattr(job, one.name) for one in fields(job)}
    return {"command": command, **{k: v for k, v in each.items() if k not in _APART}}


ReadyJob = _ReadyMaps | _ReadyEmbeddings
"""A job whose model is loaded."""
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

    @classmethod
    def of(cls, job: Job, output: Path) -> Self:
        """Load a job's model, and say what its outputs will depend on.

        Raises:
            CheckpointError: the model cannot be read, or is for something else.
            ConfigError: options do not fit it.
        """
        # Other processes start in other folders.
        if Path(job.model).exists():
            job = replace(job, model=str(Path(job.model).absolute()))
        return cls(job, output.absolute(), load_job(job).weights)

    @cached_property
    def configuration(self) -> str:
        """Digest of model and options: outputs of the same are not made again."""
        return digest_facts(self.facts)

    @property
    def facts(self) -> dict[str, str]:
        """Model and options, by the words that a user knows them by."""
        plain = {name: _plain(value) for name, value in self.job.settings.items()}
        return {"model": self.weights, **plain}

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the programs that matter for the outputs, in this process."""
        others = {name: version(name) for name in _OTHERS}
        python = platform.python_version()
        return {"spectralgpt": __version__, "python": python, **others}

    def target(self, name: str) -> Path:
        """Return the raster that is made of a scene."""
        return self.output / "scenes" / f"{name}.tif"

    def check(self) -> None:
        """Refuse a folder that another job was done in.

        Raises:
            ConfigError: it was; says what differs.
        """
        path = self.output / _FILE
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
        stated = self.facts
        differing = [k for k in {**stated, **found} if stated.get(k) != found.get(k)]
        if differing:
            raise ConfigError(
                f"{self.output} holds scenes done with another "
                f"{' and '.join(differing)}: pass --overwrite to do the scenes again, "
                "or choose another --output."
            )

    def write(self) -> None:
        """Write the file that says what is done with every scene.

        Raises:
            OSError: it cannot be written.
        """
        said = {
            "model": self.job.model,
            "configuration": self.configuration,
            "facts": self.facts,
            "versions": self.versions,
        }
        write_json(self.output / _FILE, said)


def _plain(value: Any) -> str:
    """Say a setting in words; of what is stated about images what is not as usual."""
    if not isinstance(value, ImageFormat):
        return str(value)
    usual = ImageFormat()
    rows = [(each.name, getattr(value, each.name)) for each in fields(value)]
    return ", ".join(f"{k}={v}" for k, v in rows if v != getattr(usual, k))


@lru_cache(maxsize=1)
def load_job(job: Job) -> ReadyJob:
    """Load the model of a job, once per process."""
    return job.load()
