"""How the images of a data set are read, where their files do not say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spectralgpt.data.layouts import Sizes, StatedLayout, describe_stated
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import Bounds, RasterItem, describe_raster, make_mosaic
from spectralgpt.sensors import find_sensor

__all__ = ["ImageFormat"]


@dataclass(frozen=True)
class ImageFormat:
    """What is stated about all images of a data set; None and auto ask the files.

    Args:
        sensor: sensor of the images, such as sentinel-2-l2a, or the path of a YAML
            file that describes one.
        bands: names of the layers in the order of the files.
        unit: `digital-numbers`, `reflectance` or `auto`.
        offset: added to digital numbers before scaling, or `auto`.
        quantification: digital numbers per unit of reflectance, or `auto`.
        assumed_sensor: sensor of files that do not say theirs, where `sensor` is None;
            commands that have a model put its sensor here.
        sizes: see `spectralgpt.data.layouts.StatedLayout`: images are then described
            without opening them; needs the sensor. None opens them.
        nodata: numbers that mean no measurement, or `auto`.
        pattern: regular expression with a group `band` for the names of band files.
        area: rectangle that is read of an image; None for all of it.
        below: further images, which fill what the one described does not show.
    """

    sensor: str | None = None
    bands: tuple[str, ...] | None = None
    unit: str = "auto"
    offset: float | Literal["auto"] = "auto"
    quantification: float | Literal["auto"] = "auto"
    assumed_sensor: str | None = None
    sizes: Sizes | None = None
    nodata: tuple[float, ...] | Literal["auto"] = "auto"
    pattern: str | None = None
    area: Bounds | None = None
    below: tuple[Path, ...] = ()

    def describe(self, path: Path) -> RasterItem:
        """Describe an image, or the mosaic of it and those below.

        See `spectralgpt.rasters.describe_raster` and `make_mosaic`.
        """
        items = [self._describe_one(each) for each in (path, *self.below)]
        return make_mosaic(items, self.area)

    def _describe_one(self, path: Path) -> RasterItem:
        if self.sizes is not None and self.sensor is not None:
            layout = StatedLayout(
                find_sensor(self.sensor),
                self.sizes,
                self.bands,
                None if self.quantification == "auto" else self.quantification,
                self.offset,
                None if self.nodata == "auto" else self.nodata,
                self.pattern,
            )
            return describe_stated(path, layout, None, str(path))
        try:
            return self._describe(path, self.sensor)
        except ConfigError:
            if self.sensor is not None or self.assumed_sensor is None:
                raise
        return self._describe(path, self.assumed_sensor)

    def _describe(self, path: Path, sensor: str | None) -> RasterItem:
        return describe_raster(
            path,
            sensor=sensor,
            bands=self.bands,
            unit=self.unit,
            offset=self.offset,
            quantification=self.quantification,
            nodata=self.nodata,
            pattern=self.pattern,
        )
