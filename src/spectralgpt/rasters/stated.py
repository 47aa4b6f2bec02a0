"""What is stated of images: by people, and by the files and metadata of products.

Zip archives of products are read in place, nothing is unpacked. Names that lead out of
the archive, as in `../x`, make it refused.
"""

import datetime
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.etree import ElementTree

from spectralgpt.errors import RasterError, UnitError
from spectralgpt.rasters.gdal import (
    BROKEN_ZIP,
    Location,
    VirtualFile,
    is_litter,
    list_folder,
    read_metadata,
)

UNIT_TAG = "SPECTRALGPT_UNIT"
SENSOR_TAG = "SPECTRALGPT_SENSOR"
MODEL_TAG = "SPECTRALGPT_MODEL"
"""What our own files state of themselves."""

_NUMERIC = ("bands", "unit", "offset", "quantification", "nodata")
_LEAST, _MOST = 1e-30, 1e30
"""What pixels in 32 bits can be added to and divided by."""
_UNITS = ("auto", "digital-numbers", "reflectance")
_SAME_SCALE = 1e-6
_ALL_PERCENT = 100
_DATE = re.compile(r"(?<!\d)(\d{4})([-_]?)(\d{2})\2(\d{2})(?=T\d{2,}|\D|$)")
"""20200813, 2020-08-13 or 2020_08_13, alone or before a time of day."""
ZIP_SUFFIX = ".zip"
STAC_SUFFIXES = (".json", ".geojson")
SAFE_SUFFIX = ".SAFE"
_MTL = re.compile(r"_MTL\.(json|txt)$", re.IGNORECASE)
_MOST_MEMBERS = 20_000
_MASK_SUFFIX = (".tif.msk", ".tiff.msk", ".jp2.msk")


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What is stated of image files; None and auto ask the files.

    Args:
        sensor: sensor of the images, such as sentinel-2-l2a, or the path of a YAML file
            that describes one.
        bands: names of the files' layers in their order ("-" leaves one out,
            "sensor-order" alone names all); for a folder with one file a band, the
            bands to take.
        unit: `digital-numbers`, `reflectance` or `auto`.
        offset: added to digital numbers before scaling, or `auto`.
        quantification: digital numbers per unit of reflectance, or `auto`.
        nodata: all numbers that mean no measurement, or `auto`.
        band_pattern: regular expression with a group `band` for the names of files of
            one band.

    Raises:
        UnitError: the unit is unknown, or a number cannot be what it is stated to be.
    """

    sensor: str | None = None
    bands: tuple[str, ...] | None = None
    unit: Literal["auto", "digital-numbers", "reflectance"] = "auto"
    offset: float | Literal["auto"] = "auto"
    quantification: float | Literal["auto"] = "auto"
    nodata: tuple[float, ...] | Literal["auto"] = "auto"
    band_pattern: str | None = None

    def __post_init__(self) -> None:
        """Check what can be seen without the files."""
        for name, kind in (("bands", str), ("nodata", int | float)):
            value = getattr(self, name)
            if isinstance(value, list):
                # As YAML and JSON have them.
                value = tuple(value)
                object.__setattr__(self, name, value)
            is_tuple = isinstance(value, tuple)
            if is_tuple and not all(isinstance(each, kind) for each in value):
                raise UnitError(f"{name} cannot be {value!r:.80}.")
        if self.unit not in _UNITS:
            raise UnitError(f"unknown unit '{self.unit}' (known: {', '.join(_UNITS)}).")
        quantification = 1.0 if self.quantification == "auto" else self.quantification
        offset = 0.0 if self.offset == "auto" else self.offset
        Scale(quantification, offset, "what is stated")
        if self.nodata != "auto" and not isinstance(self.nodata, tuple):
            raise UnitError(
                f"nodata must be numbers or 'auto', found {self.nodata!r:.80}."
            )
        if self.bands is not None and not isinstance(self.bands, tuple):
            raise UnitError(f"bands must be a list of names, found {self.bands!r:.80}.")

    @property
    def facts(self) -> dict[str, Any]:
        """What is stated and not left to the files, by name."""
        usual = Stated()
        named = {each.name: getattr(self, each.name) for each in fields(Stated)}
        return {name: v for name, v in named.items() if v != getattr(usual, name)}

    def contradicts(self, other: "Stated") -> list[str]:
        """Say which facts both state, and otherwise; sensor and names left out."""
        own, others = self.facts, other.facts
        both = [name for name in _NUMERIC if name in own and name in others]
        return [
            f"{name} {own[name]} where {others[name]} was stated"
            for name in both
            if own[name] != others[name]
        ]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Stated":
        """Build from `facts`, as JSON may have kept them.

        Raises:
            UnitError: a fact is unknown or of the wrong kind.
        """
        try:
            return Stated(**facts)
        except TypeError as error:
            raise UnitError(f"what is stated cannot be read: {error}.") from None


@dataclass(frozen=True)
class Scale:
    """Reflectance = (number in the file + offset) / quantification.

    Args:
        quantification: numbers per unit of reflectance.
        offset: added before dividing.
        source: what says so, for people.

    Raises:
        UnitError: the quantification is not above 0, or one of both not finite.
    """

    quantification: float
    offset: float
    source: str

    def __post_init__(self) -> None:
        """Refuse what cannot turn numbers into reflectance."""
        try:
            is_usable = (
                _LEAST < self.quantification < _MOST and abs(self.offset) < _MOST
            )
        except TypeError:
            is_usable = False
        if not is_usable:
            raise UnitError(
                f"{self.source}: the quantification is {self.quantification} and the "
                f"offset {self.offset}; digital numbers per unit of reflectance must "
                "be above 0, and both finite and no further than 1e30. State the right "
                "ones."
            )

    @classmethod
    def common(
        cls, shown: str, factors: Mapping[str, tuple[float, float]], source: str
    ) -> "Scale | None":
        """Return the scale that all bands have in common, None without bands.

        Args:
            shown: the product, for messages.
            factors: (m, a) of reflectance = m * number + a, by band.
            source: what says so.

        Raises:
            UnitError: bands differ, or a factor is not above 0.
        """
        if not factors:
            return None
        (gain, added), *others = dict.fromkeys(factors.values())
        if others:
            raise UnitError(
                f"{shown} states other scales for some of its bands: "
                f"{', '.join(f'{m:g} * DN + {a:g}' for m, a in factors.values())}. "
                "Convert it to reflectance first."
            )
        if not (math.isfinite(gain) and gain > 0):
            raise UnitError(f"{shown} states a scale of {gain:g}; it must be above 0.")
        return cls(1 / gain, added / gain, source)

    def agrees(self, quantification: float | str, offset: float | str) -> bool:
        """Whether it is what was stated; `auto` states nothing."""
        pairs = ((quantification, self.quantification), (offset, self.offset))
        return all(
            one == "auto" or math.isclose(float(one), other, rel_tol=_SAME_SCALE)
            for one, other in pairs
        )


@dataclass(frozen=True)
class ProductMetadata:
    """What the metadata of a product say of it, before its rasters are opened.

    Args:
        sensor: name in the registry.
        files: file and layer (from 1) of each band, by canonical name.
        scale: what its numbers mean, None if the metadata do not say.
        date: day it was taken, None if nothing says.
        nodata: number that means no measurement by band, where they say one.
        cloud_percent: share of the scene that the metadata call cloud, 0 to 100, None
            if they do not say.
    """

    sensor: str
    files: Mapping[str, tuple[Location, int]]
    scale: Scale | None = None
    date: datetime.date | None = None
    nodata: Mapping[str, float] = field(default_factory=dict)
    cloud_percent: float | None = None


def day_in(text: str) -> datetime.date | None:
    """Return the first date in a text, None without one.

    Eight digits that are no day of the calendar are no date.
    """
    for match in _DATE.finditer(text):
        year, month, day = (int(match[group]) for group in (1, 3, 4))
        try:
            return datetime.date(year, month, day)
        except ValueError:
            continue
    return None


def percent_in(text: object) -> float | None:
    """Return a number from 0 to 100, None if it is something else."""
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if 0 <= number <= _ALL_PERCENT else None


@dataclass(frozen=True)
class ProductFiles:
    """The files of one product.

    Args:
        path: the folder or archive that a user named.
        name: the product's name: that of the folder, in an archive of the one inside.
        files: where each is, by its path below the product's folder.
    """

    path: Path
    name: str
    files: Mapping[str, Location]

    @classmethod
    def of_folder(cls, folder: Path) -> "ProductFiles":
        """List the usual places of a folder.

        Raises:
            RasterError: it cannot be read.
        """
        found = [entry for entry in list_folder(folder) if entry.is_file()]
        for granule in folder.glob("GRANULE/*"):
            found += [file for file in granule.glob("*.xml") if file.is_file()]
            found += [file for file in granule.glob("IMG_DATA/**/*") if file.is_file()]
        kept = sorted(file for file in found if not is_litter(file.name))
        files = {file.relative_to(folder).as_posix(): file for file in kept}
        return cls(folder, folder.absolute().name, files)

    @classmethod
    def of_archive(cls, path: Path) -> "ProductFiles":
        """List the files of a product in a zip archive.

        Raises:
            RasterError: it is broken, or refused: its names lead out of it, it holds
                masks or several products, or it is encrypted.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except BROKEN_ZIP as error:
            raise RasterError(
                f"{path} cannot be read as a zip archive: {error}. It is corrupt or "
                "truncated: fetch it again."
            ) from None
        if len(infos) > _MOST_MEMBERS:
            raise RasterError(
                f"{path} has {len(infos)} members, more than the {_MOST_MEMBERS} of "
                "any product. Unpack what is needed of it."
            )
        for info in infos:
            _check_member(path, info)
        names = [
            info.filename
            for info in infos
            if not info.is_dir()
            if not any(map(is_litter, PurePosixPath(info.filename).parts))
        ]
        products = sorted(set(filter(None, map(_product_folder, names))))
        if len(products) > 1:
            raise RasterError(
                f"{path} holds {len(products)} products, {products[0]} and "
                f"{products[1]} among them: unpack it, or zip each of them alone."
            )
        root = _common_folder(names)
        name = PurePosixPath(root).name if root else path.stem
        files = {
            name.removeprefix(root): VirtualFile.in_zip(path, name)
            for name in sorted(names)
            if name.startswith(root)
        }
        return cls(path, name, files)

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that a regular expression matches as a whole, sorted."""
        return sorted(
            name for name in self.files if re.fullmatch(pattern, name, re.IGNORECASE)
        )

    def read_text(self, name: str) -> str:
        """Read a text file of the product; see `read_metadata`."""
        return read_metadata(self.files[name])

    def read_xml(self, name: str) -> ElementTree.Element:
        """Read an XML file of the product; its tags lose their namespaces.

        Raises:
            RasterError: it is no XML; see `read_metadata`.
        """
        try:
            root = ElementTree.fromstring(self.read_text(name))
        except ElementTree.ParseError as error:
            raise RasterError(
                f"{self.files[name]} is no valid XML ({error}): fetch the product "
                "again."
            ) from None
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2]
        return root


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in name or "\0" in name:
        raise RasterError(
            f"{path} is refused: its member {name!r} leads out of the archive. Fetch "
            "the product from where it was published."
        )
    if name.lower().endswith(_MASK_SUFFIX):
        raise RasterError(
            f"{path} holds a mask, {name}, which is not read inside of archives. "
            "Unpack it first."
        )
    if info.flag_bits & 1:
        raise RasterError(f"{path} is encrypted. Unpack it first.")


def _product_folder(name: str) -> str | None:
    """Return the folder that makes a member part of a product, by its names."""
    parts = PurePosixPath(name).parts
    for depth, part in enumerate(parts, start=1):
        if part.upper().endswith(SAFE_SUFFIX) and depth < len(parts):
            return "/".join(parts[:depth])
    return "/".join(parts[:-1]) or None if _MTL.search(name) else None


def _common_folder(names: list[str]) -> str:
    """Return the folder of the product with a slash, or ""."""
    root = ""
    while True:
        inside = [name.removeprefix(root) for name in names]
        tops = {name.partition("/")[0] for name in inside}
        is_product = root.upper().endswith(f"{SAFE_SUFFIX}/")
        if is_product or len(tops) != 1 or any("/" not in name for name in inside):
            return root
        root += f"{tops.pop()}/"
