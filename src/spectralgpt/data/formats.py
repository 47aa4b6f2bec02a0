"""How the images of a data set are read, where their files do not say."""

import functools
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectralgpt.data.layouts import Sizes, StatedLayout, describe_stated
from spectralgpt.rasters import (
    Bounds,
    RasterItem,
    Stated,
    describe_file,
    make_mosaic,
)
from spectralgpt.sensors import find_sensor

__all__ = ["ImageFormat"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageFormat(Stated):
    """What is stated about all images of a data set; None and auto ask the files.

    Args:
        assumed: what is so where neither the files nor what is stated say; commands
            that have a model put here what it was trained on.
        sizes: see `spectralgpt.data.layouts.StatedLayout`: images are then described
            without opening them; needs the sensor. None opens them.
        area: rectangle that is read of an image; None for all of it.
        below: further images, which fill what the one described does not show.
    """

    assumed: Stated = field(default_factory=Stated)
    sizes: Sizes | None = None
    area: Bounds | None = None
    below: tuple[Path, ...] = ()

    def assuming(self, assumed: Stated) -> "ImageFormat":
        """Return it with what is so otherwise; says aloud what contradicts that."""
        _tell_contradictions(Stated.of(self.facts), assumed)
        return replace(self, assumed=assumed)

    @property
    def of_files(self) -> Stated:
        """What is stated that belongs to files of this kind, whoever took them when.

        An archive's offset is that of its years, and no offset of other images.
        """
        facts = {name: v for name, v in self.facts.items() if name != "offset"}
        return Stated.of(facts)

    def describe(self, path: Path) -> RasterItem:
        """Describe an image, or the mosaic of it and those below.

        See `spectralgpt.rasters.describe_raster` and `make_mosaic`.
        """
        items = [self._describe_one(each) for each in (path, *self.below)]
        return make_mosaic(items, self.area)

    def _describe_one(self, path: Path) -> RasterItem:
        if self.sizes is not None and self.sensor is not None:
            layout = StatedLayout(find_sensor(self.sensor), self.sizes, self)
            return describe_stated(path, layout, None, str(path))
        return describe_file(path, self, assumed=self.assumed)


@functools.lru_cache
def _tell_contradictions(stated: Stated, assumed: Stated) -> None:
    """Warn once of what is stated otherwise of the images that a model knows."""
    differing = stated.contradicts(assumed)
    if differing:
        _LOG.warning(
            "stated are %s of the images that the model was trained on: what is stated "
            "now counts.",
            ", ".join(differing),
        )
