"""Describing an image on disk: its bands, unit, scale and offset.

Nothing is guessed: what neither the files nor the caller say is an error that asks.
"""

import contextlib
import datetime
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spectralgpt.errors import BandError, ConfigError, RasterError, UnitError
from spectralgpt.rasters.bands import find_bands, open_bands
from spectralgpt.rasters.files import Header, open_raster
from spectralgpt.rasters.gdal import is_first, quiet_gdal, warn_once
from spectralgpt.rasters.locations import Location, ProductFiles, is_path
from spectralgpt.rasters.products.enmap import files_beside, read_enmap
from spectralgpt.rasters.products.gaofen import read_gaofen
from spectralgpt.rasters.products.landsat import read_landsat
from spectralgpt.rasters.products.safe import offset_from_texts, read_safe
from spectralgpt.rasters.products.stac import (
    STAC_SUFFIXES,
    is_stac_member,
    read_stac_item,
)
from spectralgpt.rasters.products.zip import SAFE_SUFFIX, ZIP_SUFFIX, list_archive
from spectralgpt.rasters.read import BandFile, RasterFile, find_darkness
from spectralgpt.rasters.stated import (
    SENSOR_TAG,
    UNIT_TAG,
    ProductMetadata,
    Scale,
    Stated,
    day_in,
)
from spectralgpt.rasters.thumbnail import (
    Thumbnail,
    as_option,
    offset_from_pixels,
)
from spectralgpt.rasters.unopened import Sizes, describe_unopened
from spectralgpt.sensors import Sensor, find_sensor, list_sensors, load_sensor

_LANDSAT = r"L[A-Z]\d\d_.*_MTL\.(json|txt)"
_ENMAP = r"ENMAP01-____L2A-.*-SPECTRAL_IMAGE[^/]*\.TIFF?"
_GAOFEN = r"(?!.*PAN\d?\.tiff?$)GF\d[A-D]?_(PMS|WFV)[^/]*\.tiff?"
_READERS = (
    (r"MTD_MSI(L1C|L2A)\.xml", read_safe),
    (_LANDSAT, read_landsat),
    (_ENMAP, read_enmap),
    (_GAOFEN, read_gaofen),
)
"""What tells a kind of product by the names of its files, and what reads it."""
_MARKS = (r"(.*/)?IMG_DATA/.*\.jp2", _LANDSAT)
_IMAGES = (
    (r"ENMAP01-.*\.TIFF?", r"ENMAP01-.*-SPECTRAL_IMAGE[^/]*"),
    (r"GF\d[A-D]?_(PMS|WFV).*\.tiff?", _GAOFEN),
)
"""What all rasters of a product's folder are called, and its one image among them."""
_REFLECTANCE_BELOW = 2.0
_NUMBERS_ABOVE = 20.0
"""Between the two, a 99th percentile of float values could be either unit."""
_BRIGHT_PERCENT = 99.0


def describe_raster(
    path: Path | str,
    sensor: Sensor | str | None = None,
    stated: Stated | None = None,
    *,
    sizes: Sizes | None = None,
    assumed: Stated | None = None,
    members: Sequence[Path] | None = None,
    name: str | None = None,
) -> RasterFile:
    """Find out where the bands of an image lie and what its numbers mean.

    What is stated counts; then what the files, product metadata and tags say (bands by
    their descriptions, wavelengths or file names); then what is assumed; then the
    sensor's rules, and the pixels where they leave no doubt. Saturation is invalid in
    any case.

    Args:
        path: a raster file (GeoTIFF, JP2, VRT, ENVI, .npy), a folder with one file a
            band, a product of a known kind as folder or zip archive, or a STAC item
            (see `spectralgpt.rasters.products`).
        sensor: in place of the stated one: from the registry, or the path of a YAML
            file like those in `sensors/`; without either, the file's tag or the
            product's name tell.
        stated: what is so whatever the files say; what contradicts them is an error.
        sizes: side of the image in px: one number for all bands, or one for each ground
            sampling distance in m, or `FILE_SIZES` for that in each file's own first
            bytes. With the sensor, they say that these are digital numbers in files
            that need not be opened; what is assumed then does not count.
        assumed: what is so where the files do not say, such as what was stated of the
            images that a model was trained on.
        members: the files of a folder that belong to the image; all if None.
        name: for messages; the path if None.

    Raises:
        RasterError: a file is missing or cannot be read.
        BandError: bands are in doubt.
        UnitError: the unit or offset is in doubt or contradicts the file.
        ConfigError: the sensor is in doubt, or sizes make no sense for it.
    """
    path, stated, assumed = Path(path), stated or Stated(), assumed or Stated()
    name = name or str(path)
    sensor = sensor or stated.sensor
    if sensor is not None and not isinstance(sensor, Sensor):
        sensor = find_sensor(sensor)
    if sizes is not None and sensor is not None:
        item = describe_unopened(path, sensor, stated, sizes, members, name)
        if item is not None:
            return item
        # Neither names nor metadata tell the offset, so the pixels must.
        stated, assumed = replace(stated, unit="digital-numbers"), Stated()
    if not is_path(str(path)) or not (path.exists() or is_stac_member(path)):
        raise RasterError(f"{path} does not exist. Check the path.")
    is_described = stated.band_pattern is not None or members is not None
    product = None if is_described else _read_product(path)
    sensor = sensor or _find_sensor(path, assumed, product)
    if product is not None and product.sensor != sensor.name:
        # What the user states wins: then the metadata are those of something else.
        product = None
    if assumed.sensor not in (None, sensor.name):
        # It is of images of another sensor.
        assumed = Stated()
    bands = stated.bands
    if product is not None and not (path.is_file() and bands is not None):
        files, headers = open_bands(path, sensor, product.files, bands)
    else:
        files, headers = _find_bands(path, sensor, stated, assumed, members)
    image = _Image(path, sensor, files, headers, stated, assumed, product)
    return image.describe(name)


def is_product(path: Path) -> bool:
    """Whether a path is one scene by its looks: nothing of it is opened."""
    if not path.is_dir():
        return path.suffix.lower() in (ZIP_SUFFIX, *STAC_SUFFIXES, ".vrt")
    if path.suffix == SAFE_SUFFIX:
        return True
    product = ProductFiles.of_folder(path)
    if any(product.matching(mark) for mark in _MARKS):
        return True
    rasters = product.matching(r".*\.(tiff?|jp2)")
    return any(
        product.matching(every) == rasters and len(product.matching(image)) == 1
        for every, image in _IMAGES
    )


def _read_product(path: Path) -> ProductMetadata | None:
    """Read what a product says of itself; None if it is a plain raster or folder."""
    is_folder, suffix = path.is_dir(), path.suffix.lower()
    if is_folder:
        product = ProductFiles.of_folder(path)
    elif suffix == ZIP_SUFFIX and path.is_file():
        product = list_archive(path)
    elif suffix in STAC_SUFFIXES or not path.exists():
        return read_stac_item(path)
    elif re.fullmatch(_ENMAP, path.name, re.IGNORECASE):
        return read_enmap(files_beside(path), [path.name])
    else:
        return None
    for mark, read in _READERS:
        names = product.matching(mark)
        metadata = read(product, names) if names else None
        if metadata is not None:
            return metadata
    if path.suffix == SAFE_SUFFIX and not product.matching(r".*\.(jp2|tiff?)"):
        raise RasterError(
            f"{path} has neither metadata nor images: it is an incomplete product. "
            "Fetch it again."
        )
    if not is_folder:
        raise RasterError(
            f"{path} holds no product that is known: no metadata of Sentinel-2, "
            "Landsat, EnMAP or Gaofen. Unpack it, and name a file or folder."
        )
    return None


def _find_bands(
    path: Path,
    sensor: Sensor,
    stated: Stated,
    assumed: Stated,
    members: Sequence[Path] | None,
) -> tuple[dict[str, BandFile], dict[Location, Header]]:
    try:
        return find_bands(path, sensor, stated.bands, stated.band_pattern, members)
    except BandError:
        if stated.bands is not None or stated.band_pattern is not None:
            raise
        if assumed.bands is None and assumed.band_pattern is None:
            raise
    # The files do not say their bands.
    return find_bands(path, sensor, assumed.bands, assumed.band_pattern, members)


def _find_sensor(
    path: Path, assumed: Stated, product: ProductMetadata | None
) -> Sensor:
    if product is not None:
        return load_sensor(product.sensor)
    if path.is_file():
        with quiet_gdal(), open_raster(path) as dataset:
            tag = dataset.tags().get(SENSOR_TAG)
        if tag is not None:
            return load_sensor(tag)
    for known in map(load_sensor, list_sensors()):
        if known.product_name and re.search(known.product_name, str(path.absolute())):
            return known
    if assumed.sensor in list_sensors():
        return load_sensor(assumed.sensor)
    raise ConfigError(
        f"{path} does not say which sensor took it. State one of: "
        f"{', '.join(list_sensors())}, or the path of a YAML file that describes yours."
    )


@dataclass(frozen=True)
class _Image:
    """What is known of an image whose bands are found, and what follows from it.

    Args:
        path: the image.
        sensor: that took it.
        files: where its bands lie.
        headers: of its files.
        stated: see `describe_raster`.
        assumed: see `describe_raster`.
        product: what the metadata say where it is one.
    """

    path: Path
    sensor: Sensor
    files: Mapping[str, BandFile]
    headers: Mapping[Location, Header]
    stated: Stated
    assumed: Stated
    product: ProductMetadata | None

    def describe(self, name: str) -> RasterFile:
        """Describe it; see `describe_raster`."""
        product, unit = self.product, self.unit()
        scale = self.scale(unit)
        invalid, own = self.nodata(unit)
        item = RasterFile(
            name=name,
            sensor=self.sensor,
            files={n: replace(f, nodata=own.get(n)) for n, f in self.files.items()}
            if own
            else self.files,
            quantification=scale.quantification,
            offset=scale.offset,
            nodata=invalid[0] if invalid else None,
            unit=unit,
            offset_source=scale.source,
            other_invalid=tuple(invalid[1:]),
            place=name,
            date=product.date if product is not None else _date_in_names(self.path),
            cloud_percent=None if product is None else product.cloud_percent,
        )
        if product is None and not self._is_tagged:
            # What cannot be read to its end is told by whoever reads it.
            with contextlib.suppress(RasterError):
                self.look_at_numbers(item)
        return item

    def look_at_numbers(self, item: RasterFile) -> None:
        """Hold the scale against some numbers of a plain file, and look for fill.

        Raises:
            RasterError: they cannot be read.
            UnitError: the usual scale does not fit them.
        """
        known = (self.stated.quantification, self.assumed.quantification)
        is_all_stated = "auto" not in (self.stated.quantification, self.stated.nodata)
        # What is stated is right or wrong for all alike: one look is enough.
        if is_all_stated and not is_first(f"stated in {self.path.parent}"):
            return
        is_usual = item.unit != "reflectance" and self._own_scale() is None
        dark, is_wrong = find_darkness(item, self.numbers)
        if is_wrong and is_usual and known == ("auto", "auto"):
            raise UnitError(
                f"{dark} look like 8-bit ones or percent. State the quantification "
                "(such as 255 or 100) and offset."
            )
        if dark:
            warn_once(
                f"dark in {self.path.parent}",
                f"{dark}. Unless it shows deep water or night, state another scale: "
                "8-bit numbers are divided by 255, percent by 100.",
            )
        self.tell_fill(item.unit)

    def unit(self) -> str:
        """Return what the files hold: stated, tagged, or told by type and values."""
        stated = self.stated.unit
        if self._is_tagged:
            if stated == "digital-numbers":
                raise UnitError(
                    f"{self.path} is tagged as reflectance: read as digital numbers it "
                    "would get a twice-applied offset. Leave the unit out."
                )
            return "reflectance"
        if stated != "auto":
            return stated
        is_whole = all(
            self.headers[file.path].dtypes[file.index - 1].startswith(("int", "uint"))
            for file in self.files.values()
        )
        if is_whole or self._own_scale() is not None:
            return "digital-numbers"
        if self.assumed.unit != "auto":
            return self.assumed.unit
        values = np.concatenate(self.numbers).astype(np.float64)
        bright = float(np.percentile(values, _BRIGHT_PERCENT)) if values.size else 0.0
        if bright <= _REFLECTANCE_BELOW:
            return "reflectance"
        per_unit = (self.stated.quantification, self.assumed.quantification)
        if bright >= _NUMBERS_ABOVE or per_unit != ("auto", "auto"):
            return "digital-numbers"
        raise UnitError(
            f"{self.path} holds float values whose {_BRIGHT_PERCENT:g}th percentile is "
            f"{bright:.4g}: neither clearly reflectance nor digital numbers. State the "
            "unit."
        )

    def scale(self, unit: str) -> Scale:
        """Return how numbers become reflectance.

        What is stated counts, then what the files and the product's metadata say, then
        what is assumed, then the sensor's rule.
        """
        stated, own = self.stated, self._own_scale()
        is_stated = not Scale(1.0, 0.0, "").agrees(stated.quantification, stated.offset)
        said = f"quantification ({stated.quantification}) or offset ({stated.offset})"
        if unit == "reflectance":
            if is_stated or own is not None:
                other = f"a stated {said}" if is_stated else f"its own scale {own}"
                raise UnitError(
                    f"{self.path} already holds reflectance: {other} would be a "
                    "twice-applied offset. Leave out one of the two, or state the unit "
                    "digital-numbers if that is what they are."
                )
            return Scale(1.0, 0.0, "the file holds reflectance")
        if own is not None:
            found = Scale(1 / own[0], own[1] / own[0], "the file's own scale")
            if is_stated and not found.agrees(stated.quantification, stated.offset):
                raise UnitError(
                    f"{self.path} states its own scale and offset {own}: a stated "
                    f"{said} would be a twice-applied offset. Leave both out."
                )
            return found
        known = None if self.product is None else self.product.scale
        if known is not None and stated.quantification == stated.offset == "auto":
            return known
        return self._stated_scale(known)

    def _stated_scale(self, known: Scale | None) -> Scale:
        per_unit: float | str | None = self.stated.quantification
        if per_unit == "auto" and known is not None:
            per_unit = known.quantification
        if per_unit == "auto":
            per_unit = self.assumed.quantification
        if per_unit == "auto":
            per_unit = self.sensor.quantification
        if per_unit is None:
            raise UnitError(
                f"{self.path}: {self.sensor.name} has no fixed scale. State the "
                "quantification: digital numbers per unit of reflectance."
            )
        if self.stated.offset != "auto":
            offset, source = float(self.stated.offset), "stated"
        elif known is not None:
            offset, source = known.offset, known.source
        else:
            offset, source = self._find_offset()
        return Scale(float(per_unit), offset, source)

    def _find_offset(self) -> tuple[float, str]:
        rule, assumed = self.sensor.baseline, self.assumed.offset
        kept = None
        if assumed != "auto":
            kept = float(assumed), "stated for the images that the model learned from"
        if rule is None:
            return kept or (self.sensor.offset, f"{self.sensor.name} always")
        inside = next(iter(self.files.values())).path
        found = offset_from_texts(self.path, inside, rule)
        if found is not None:
            return found
        if not any(numbers.size for numbers in self.numbers):
            raise UnitError(
                f"{self.path}: no pixel that was looked at is valid, and no processing "
                "baseline in its name or metadata tells the offset. Leave the file "
                "out, or state the offset."
            )
        found = offset_from_pixels(self.numbers, rule) or kept
        if found is not None:
            return found
        fill = self.fill("digital-numbers")
        but = f" (but for {as_option(fill)}, which looks like fill)" if fill else ""
        raise UnitError(
            f"{self.path}: the offset is in doubt: no processing baseline in its name "
            f"or metadata, and no pixel dark enough to tell{but}. State the offset: "
            f"{rule.offset:g} from baseline 04.00 (January 2022) on, "
            f"{rule.offset_before:g} before."
        )

    def nodata(self, unit: str) -> tuple[list[float], dict[str, float | None]]:
        """Return which numbers are no measurement: in all bands, and by band."""
        is_scaled = unit != "reflectance" and self.sensor.saturated is not None
        more = [float(self.sensor.saturated or 0)] if is_scaled else []
        if self.stated.nodata != "auto":
            return [*map(float, self.stated.nodata), *more], {}
        assumed = self.assumed.nodata
        kept = [] if assumed == "auto" else [*map(float, assumed)]
        usual = self.sensor.nodata if unit != "reflectance" and not kept else None
        own = {
            name: usual if value is None or np.isnan(value) else value
            for name, value in self._own_nodata().items()
        }
        if len(set(own.values())) == 1:
            common = [value for value in list(own.values())[:1] if value is not None]
            return list(dict.fromkeys([*common, *kept, *more])), {}
        return [*kept, *more], own

    def tell_fill(self, unit: str) -> None:
        """Say aloud that there is fill which nobody declared.

        Raises:
            RasterError: the numbers cannot be read.
        """
        fill = self.fill(unit)
        if fill and self.stated.nodata == self.assumed.nodata == "auto":
            numbers = as_option(fill)
            warn_once(
                f"fill {numbers} in {self.path.parent}",
                f"{self.path} holds {numbers} at its edge or in all bands at once, "
                "which looks like fill that nobody declared and counts as reflectance: "
                f"state nodata (--nodata {numbers}) if nothing was measured there.",
            )

    def fill(self, unit: str) -> tuple[float, ...]:
        """Return numbers that look like fill that nobody declared."""
        invalid = tuple(self.nodata(unit)[0])
        if invalid not in self._fills:
            self._fills[invalid] = self.thumbnail.fill(invalid)
        return self._fills[invalid]

    @functools.cached_property
    def _fills(self) -> dict[tuple[float, ...], tuple[float, ...]]:
        """What was found, by what is declared."""
        return {}

    @functools.cached_property
    def thumbnail(self) -> Thumbnail:
        """Some numbers of each band, read at most once."""
        is_stated = self.stated.nodata != "auto"
        declared: dict[Location, Sequence[float | None]] = {
            path: [None] * header.count if is_stated else header.nodata
            for path, header in self.headers.items()
        }
        return Thumbnail.read(self.files, declared)

    @functools.cached_property
    def numbers(self) -> list[npt.NDArray[np.generic]]:
        """Those that are measured, by band: not even fill that nobody declared."""
        invalid, _ = self.nodata("digital-numbers")
        return self.thumbnail.valid([*invalid, *self.fill("digital-numbers")])

    @property
    def _is_tagged(self) -> bool:
        tags = {header.tags.get(UNIT_TAG, "") for header in self.headers.values()}
        return tags == {"reflectance"}

    def _own_nodata(self) -> dict[str, float | None]:
        stated = {} if self.product is None else self.product.nodata
        return {
            name: stated.get(name, self.headers[file.path].nodata[file.index - 1])
            for name, file in self.files.items()
        }

    def _own_scale(self) -> tuple[float, float] | None:
        """Return the scale of the layers that are bands; others may have their own."""
        scales = {
            self.headers[file.path].scales[file.index - 1]
            for file in self.files.values()
        }
        for scale, offset in scales:
            if not (math.isfinite(scale) and math.isfinite(offset) and scale > 0):
                raise UnitError(
                    f"{self.path} states a scale of {scale:g} and an offset of "
                    f"{offset:g}: a scale must be above 0, and both finite. Correct "
                    "its header."
                )
        if len(scales) > 1:
            raise UnitError(
                f"{self.path}: bands state different scales {sorted(scales)}."
            )
        own = scales.pop()
        return None if own == (1.0, 0.0) else own


def _date_in_names(path: Path) -> datetime.date | None:
    """The date in a file's name, or that of its folder; names of products have one."""
    absolute = path.absolute()
    return day_in(absolute.name) or day_in(absolute.parent.name)
