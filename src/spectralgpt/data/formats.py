"""What is stated of the images of a data set, or of those that a user hands in."""

import functools
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt.errors import ConfigError
from spectralgpt.rasters import (
    Assumed,
    Bounds,
    RasterFile,
    Sizes,
    Stated,
    describe_raster,
    make_mosaic,
)
from spectralgpt.resampling import resample_file

if TYPE_CHECKING:
    from pystac import Item

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageFormat(Stated):
    """What is stated about all images of a data set; None and auto ask the files.

    Args:
        assumed: what is so where neither the files nor what is stated say; commands
            that have a model put here what it was trained on.
        sizes: see `spectralgpt.rasters.describe_raster`; needs the sensor. None opens
            the files.
        area: rectangle that is read of an image; None for all of it.
        below: further images, which fill what the one described does not show.
    """

    assumed: Stated = field(default_factory=Stated)
    sizes: Sizes | None = None
    area: Bounds | None = None
    below: tuple[Path, ...] = ()

    def assuming(self, assumed: Stated) -> "ImageFormat":
        """Return it with what is so otherwise; reports what contradicts that."""
        _tell_contradictions(Stated.of(self.facts), assumed)
        return replace(self, assumed=assumed)

    @property
    def of_files(self) -> Stated:
        """What is stated that belongs to files of this kind, whoever took them when.

        An archive's offset is that of its years, and no offset of other images.
        """
        facts = {name: v for name, v in self.facts.items() if name != "offset"}
        return Stated.of(facts)

    def describe(self, path: "Path | Item") -> RasterFile:
        """Describe an image, or the mosaic of it and those below.

        See `describe_raster` and `make_mosaic` of `spectralgpt.rasters`. Where it is
        stated, the image is brought into the bands of the model that is assumed; how is
        said, once a sensor.

        Raises:
            ConfigError: that is stated where there is no model.
        """
        items = [
            describe_raster(each, stated=self, sizes=self.sizes, assumed=self.assumed)
            for each in (path, *self.below)
        ]
        item = make_mosaic(items, self.area)
        if not self.resamples:
            known = self.assumed.sensor if isinstance(self.assumed, Assumed) else None
            if known not in (None, item.sensor.name):
                _tell_other_sensor(item.sensor.name, known)
            return item
        if not isinstance(self.assumed, Assumed):
            raise ConfigError(
                "bands 'resample' are those of a model, and none takes the images "
                "here: leave it out, or make files of them by `spectralgpt resample`."
            )
        resampled = resample_file(item, self.assumed)
        _tell_summary(item.sensor.name, resampled.resampling.summary)
        return resampled


@functools.lru_cache
def _tell_summary(sensor: str, summary: str) -> None:
    """Say once how a sensor's bands become those of a model."""
    _LOG.warning("bands of %s are resampled: %s.", sensor, summary)


@functools.lru_cache
def _tell_other_sensor(sensor: str, known: str | None) -> None:
    """Say once that images are of another sensor than the model knows."""
    _LOG.warning(
        "images are of %s, and the model was trained on %s: expect worse results than "
        "for images of its own sensor.",
        sensor,
        known,
    )


@functools.lru_cache
def _tell_contradictions(stated: Stated, assumed: Stated) -> None:
    """Warn once of what is stated otherwise of the images that a model knows."""
    differing = stated.contradicts(assumed)
    if differing:
        _LOG.warning(
            "what is stated now counts: %s of the images the model was trained on.",
            ", ".join(differing),
        )
