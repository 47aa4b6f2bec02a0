"""The kinds of jobs: what is to be done with every scene, as plain values.

A job travels to other processes and machines, which load its model themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectralgpt.data.colours import class_colours
from spectralgpt.data.dense import CHANGE
from spectralgpt.data.formats import ImageFormat
from spectralgpt.models.building import Quantization
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters.embeddings import NumberType
from spectralgpt.rasters.maps import LEGEND_SUFFIX
from spectralgpt.reports.scene_pictures import write_component_picture, write_quick_look
from spectralgpt.scenes.cells import CellOptions
from spectralgpt.scenes.embedding_rasters import (
    RasterOptions,
    embed_to_raster,
    fingerprint,
    write_embedding_item,
)
from spectralgpt.scenes.fingerprints import digest_model
from spectralgpt.scenes.inputs import describe_input
from spectralgpt.scenes.loading import (
    Precision,
    build_mapper,
    in_precision,
    load_on_device,
    stated_contract,
)
from spectralgpt.scenes.map_names import polygons_path, probabilities_path
from spectralgpt.scenes.maps import MapOptions, map_image, write_map_item

__all__ = ["EmbedJob", "Job", "PredictJob", "ReadyJob", "Worker"]

Progress = Callable[[float], None]
Worker = Callable[[tuple[Path, ...], Path, Progress | None], list[Path]]
"""Does a scene: its dates, the raster to make, progress 0..1; returns what it made."""


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
        return {
            "command": "predict",
            "image_format": self.image_format,
            "probabilities": self.probabilities,
            "polygons": self.polygons,
            "test_flips": self.test_flips,
            "overlap": self.overlap,
            "precision": self.precision,
            "quantize": self.quantize,
        }

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
        number_type: of the rasters.
        reflectance: add the mean reflectance of cells.
        precision: see `in_precision`.
        quantize: how the encoder's weights are held.
    """

    model: str
    image_format: ImageFormat = field(default_factory=ImageFormat)
    device: str = "auto"
    batch_size: int = 32
    cell_px: int | None = None
    number_type: NumberType = "float16"
    reflectance: bool = True
    precision: Precision = "fp32"
    quantize: Quantization = "none"

    @property
    def settings(self) -> dict[str, Any]:
        """What the outputs depend on, beside the weights."""
        return {
            "command": "embed",
            "image_format": self.image_format,
            "cell_px": self.cell_px,
            "dtype": self.number_type,
            "reflectance": self.reflectance,
            "precision": self.precision,
            "quantize": self.quantize,
        }

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
        options = RasterOptions(cells, self.number_type, self.reflectance)
        encoder = fingerprint(loaded)

        def work(
            dates: tuple[Path, ...], target: Path, progress: Progress | None
        ) -> list[Path]:
            (scene,) = dates
            item = describe_input(scene, self.image_format, contract)
            with in_precision(loaded, self.precision):
                made = embed_to_raster(
                    loaded, contract, item, encoder, target, options, progress
                )
            picture = write_component_picture(made, target.with_suffix(".png"))
            described = write_embedding_item(made, item, Path(self.model).name)
            return [target, *([described] if described is not None else []), picture]

        return ReadyJob(encoder, contract, work)


Job = PredictJob | EmbedJob
"""What is to be done with every scene."""
