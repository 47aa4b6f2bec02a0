"""Opening raster files: which kinds, what they say of themselves, and what is stated.

People state what files do not say, and the metadata of products do.
"""

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp, MaskFlags

from spectralgpt.errors import RasterError, UnitError
from spectralgpt.rasters.gdal import (
    Location,
    VirtualFile,
    check_memory,
    quiet_gdal,
    read_metadata,
    reading,
    warn_once,
)
from spectralgpt.rasters.grid import Flags, Grid, Numbers, Window
from spectralgpt.rasters.virtual import (
    ARRAY_START,
    is_virtual,
    open_array,
    open_virtual,
)
from spectralgpt.sensors import Band

UNIT_TAG = "SPECTRALGPT_UNIT"
SENSOR_TAG = "SPECTRALGPT_SENSOR"
MODEL_TAG = "SPECTRALGPT_MODEL"
"""What our own files state of themselves."""
RESAMPLE = "resample"
RESAMPLING_TAG = "RESAMPLING"
"""Says of a file how its bands were made of those of another sensor."""
"""Stated as a band: bring the images into the bands of the model that takes them."""
_NUMERIC = ("bands", "unit", "offset", "quantification", "nodata")
_LEAST, _MOST = 1e-30, 1e30
"""What pixels in 32 bits can be added to and divided by."""
_UNITS = ("auto", "digital-numbers", "reflectance")
_SAME_SCALE = 1e-6
_ALL_PERCENT = 100
_DATE = re.compile(r"(?<!\d)(\d{4})([-_]?)(\d{2})\2(\d{2})(?=T\d{2,}|\D|$)")
"""20200813, 2020-08-13 or 2020_08_13, alone or before a time of day."""
_ARRAY, _VIRTUAL = "array", "VRT"
_DRIVER_BY_START = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xffO\xffQ": "JP2OpenJPEG",
    ARRAY_START: _ARRAY,
}
"""By the first bytes, whatever the name says; the bytes of BigTIFF come with a plus."""
_START_LENGTH = 1024
"""Bytes that tell the kind of a file; comments may come before a virtual raster."""
_PICTURE_DRIVER_BY_START = {b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP"}
"""Masks are often pictures."""
_DESCRIPTION = "describes imagery for `pretrain` and `data check`: name the images"
_TABLE = "is a table: name images, or rasters that `embed --format geotiff` made"
_NO_RASTERS = {".yaml": _DESCRIPTION, ".yml": _DESCRIPTION}
_NO_RASTERS |= dict.fromkeys((".csv", ".npz", ".parquet"), _TABLE)
"""What else of ours is given for an image, by its suffix."""
_FILE_MASK = 0
"""Stands for the mask that a file has beside its layers, which count from 1."""
_NO_MASK = ([MaskFlags.all_valid], [MaskFlags.nodata])
_ALPHA_MASK = [MaskFlags.per_dataset, MaskFlags.alpha]
_LEAST_POINTS = 3
_POINTS_PX = 0.1
"""Ground control points that lie this near to a transform, px, are explained by it."""
_MASK_SUFFIX = ".msk"
_SIDECARS = (_MASK_SUFFIX, ".ovr")
_SHOWN = 60
_LONGEST_NAME = 1000
"""Characters of a layer's description that are read."""


@dataclass(frozen=True)
class Header:
    """What a raster file says about itself.

    Args:
        path: the file.
        grid: where its pixels lie.
        dtypes: numpy type name of each layer.
        descriptions: one text per layer, "" where there is none.
        nodata: number that means no measurement, one per layer; None if not set.
        scales: (scale, offset) that the file states of each layer, (1, 0) if it does
            not.
        tags: text by key.
        alpha: layers, from 1, that say how opaque a pixel is.
        masks: what says which pixels of each layer are measurements, see `read_masks`.
        wavelengths_nm: centre of each layer's band; None where it says none.
    """

    path: Location
    grid: Grid
    dtypes: tuple[str, ...]
    descriptions: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[tuple[float, float], ...]
    tags: dict[str, str]
    alpha: tuple[int, ...] = ()
    masks: tuple[tuple[int, ...], ...] = ()
    wavelengths_nm: tuple[float | None, ...] = ()

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self.descriptions)

    @property
    def measured(self) -> tuple[int, ...]:
        """The layers, from 1, that hold something else than opacity."""
        layers = range(1, self.count + 1)
        return tuple(layer for layer in layers if layer not in self.alpha)


def open_raster(path: Location) -> rasterio.DatasetReader:
    """Open a raster file, inside `quiet_gdal`.

    Raises:
        RasterError: the file is missing, not a raster, or has no layer.
    """
    if isinstance(path, Path) and not path.is_file():
        raise RasterError(f"{path} does not exist. Check the path.")
    with reading(path):
        if isinstance(path, VirtualFile):
            # What lies beside it could be anything, and is not asked for.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
                dataset = rasterio.open(path.address, driver=path.driver)
        else:
            dataset = _open_local(path)
    if dataset.count == 0:
        dataset.close()
        raise RasterError(f"{path} has no bands. Fetch it again, or leave it out.")
    _check_texts(path, dataset)
    return dataset


def _check_texts(path: Location, dataset: rasterio.DatasetReader) -> None:
    """Refuse texts that fail wherever they are read, or that GDAL would follow."""
    try:
        _ = dataset.descriptions, dataset.tags()
        overviews = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    except UnicodeDecodeError as error:
        dataset.close()
        raise RasterError(
            f"{path} has band descriptions or tags that are not UTF-8, such as "
            f"{error.object[:_SHOWN]!r}. Write them anew, or fetch the file again."
        ) from None
    if overviews is not None:
        dataset.close()
        raise RasterError(
            f"{path} says that its overviews are in '{overviews[:_SHOWN]}', which is "
            "not followed. Take that out of its metadata."
        )


def _open_local(path: Path) -> rasterio.DatasetReader:
    driver = _find_driver(path)
    _check_sidecars(path)
    if driver == _ARRAY:
        return open_array(path)
    if driver == _VIRTUAL:
        return open_virtual(path, read_metadata(path), partial(_is_masked, path))
    dataset = rasterio.open(path, driver=driver)
    try:
        _check_whole(path, dataset)
    except RasterError:
        dataset.close()
        raise
    return dataset


def _check_whole(path: Path, dataset: rasterio.DatasetReader) -> None:
    """Refuse what GDAL would pass over: masks that it cannot read, missing numbers."""
    mask = path.with_name(path.name + _MASK_SUFFIX)
    if mask.is_file() and any(f in _NO_MASK for f in dataset.mask_flag_enums):
        raise RasterError(
            f"{mask} is no mask of {path.name}, or is not whole. Fetch it again, or "
            "remove it if nothing is to be masked."
        )
    header = dataset.tags(ns="ENVI") if dataset.driver == "ENVI" else {}
    if dataset.driver == "ENVI" and header.get("file_compression", "0") == "0":
        itemsize = sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
        needed = dataset.height * dataset.width * itemsize
        needed += int(header.get("header_offset", 0))
        found = path.stat().st_size
        if found < needed:
            raise RasterError(
                f"{path} is truncated: {found} bytes of {needed}. Fetch it again, or "
                "correct its header."
            )


def _is_masked(path: Path, source: Path) -> bool:
    """Whether GDAL knows a mask of a file that a virtual raster names."""
    if _find_driver(source) in (_VIRTUAL, _ARRAY):
        raise RasterError(
            f"{path} names {source}, which is no raster of its own. Turn that into a "
            "GeoTIFF."
        )
    with _open_local(source) as dataset:
        _check_texts(source, dataset)
        return any(flags not in _NO_MASK for flags in dataset.mask_flag_enums)


def _check_sidecars(path: Path) -> None:
    """Refuse what GDAL would open beside a file, if it is no TIFF but may be a VRT."""
    for suffix in _SIDECARS:
        sidecar = path.with_name(path.name + suffix)
        if not sidecar.is_file():
            continue
        with sidecar.open("rb") as file:
            start = file.read(_START_LENGTH)
        if not start.startswith((b"II", b"MM")):
            raise RasterError(f"{sidecar} is no TIFF. Fetch it again, or remove it.")


def _find_driver(path: Path) -> str:
    """Return the one driver to use: formats like VRT can make GDAL open any address.

    Of arrays and virtual rasters GDAL only gets descriptions that we write ourselves.
    """
    with path.open("rb") as file:
        start = file.read(_START_LENGTH)
    for beginning, driver in _DRIVER_BY_START.items():
        if start.startswith(beginning):
            return driver
    # What names other files may not come under the name of something else.
    if path.suffix.lower() == ".vrt" and is_virtual(start):
        return _VIRTUAL
    headers = (path.with_suffix(s) for s in (".hdr", ".HDR"))
    appended = (path.with_name(path.name + s) for s in (".hdr", ".HDR"))
    if any(header.is_file() for header in (*headers, *appended)):
        return "ENVI"
    # After ENVI, whose pixels may begin with any bytes.
    for beginning, driver in _PICTURE_DRIVER_BY_START.items():
        if start.startswith(beginning):
            return driver
    other = _NO_RASTERS.get(path.suffix.lower())
    if other is not None:
        raise RasterError(f"{path} is no raster; it {other}.")
    raise ValueError(
        "not a GeoTIFF, JPEG 2000, VRT, ENVI, PNG or BMP file, nor a NumPy array"
    )


def read_header(path: Location) -> Header:
    """Read what a raster file says about itself, none of its pixels.

    Raises:
        RasterError: the file is missing, corrupt, or holds complex numbers.
    """
    with quiet_gdal(), open_raster(path) as dataset, reading(path):
        if any("complex" in str(dtype) for dtype in dataset.dtypes):
            raise RasterError(f"{path} holds complex numbers. Write their magnitude.")
        _say_lost_place(path, dataset)
        return Header(
            path=path,
            grid=grid_of(dataset),
            dtypes=tuple(map(str, dataset.dtypes)),
            descriptions=tuple(
                (text or "")[:_LONGEST_NAME] for text in dataset.descriptions
            ),
            nodata=tuple(dataset.nodatavals),
            scales=_scales_of(dataset),
            tags=dict(dataset.tags()),
            alpha=_alpha_of(dataset),
            masks=find_masks(dataset),
            wavelengths_nm=tuple(
                map(_wavelength_in, map(dataset.tags, dataset.indexes))
            ),
        )


def _wavelength_in(tags: Mapping[str, str]) -> float | None:
    """Return the centre in nm that a layer's tags state, None without a known unit."""
    unit = tags.get("wavelength_units", "").lower()
    factor = {"nanometers": 1.0, "micrometers": 1000.0}.get(unit)
    try:
        return None if factor is None else float(tags["wavelength"]) * factor
    except (KeyError, ValueError):
        return None


def find_masks(dataset: rasterio.DatasetReader) -> tuple[tuple[int, ...], ...]:
    """Return what says which pixels of each layer are measurements.

    Returns:
        For each layer, what `read_masks` takes: the numbers of layers of opacity, and
        0 where the file has a mask for it. Nodata values are not among them, as users
        may state others.
    """
    alpha = _alpha_of(dataset)
    return tuple(
        (_FILE_MASK, *alpha) if flags not in (*_NO_MASK, _ALPHA_MASK) else alpha
        for flags in dataset.mask_flag_enums
    )


def _alpha_of(dataset: rasterio.DatasetReader) -> tuple[int, ...]:
    # GDAL itself knows them in files of two and four layers only.
    kinds = enumerate(dataset.colorinterp, start=1)
    return tuple(layer for layer, kind in kinds if kind == ColorInterp.alpha)


def read_masks(
    dataset: rasterio.DatasetReader,
    indices: Sequence[int],
    masks: Sequence[int],
    window: Window | None = None,
    size: tuple[int, int] | None = None,
) -> Flags:
    """Return which pixels of layers a file's own masks call measurements.

    Args:
        dataset: the file.
        indices: layers, from 1.
        masks: of these layers, from `find_masks`.
        window: pixels to read; all if None.
        size: (H, W) to thin them out to; their own if None.

    Returns:
        (layers, H, W).
    """
    known: Flags | None = None
    place = None if window is None else window.slices
    for number in masks:
        layers = list(indices) if number == _FILE_MASK else [number]
        read = dataset.read_masks if number == _FILE_MASK else dataset.read
        shape = None if size is None else (len(layers), *size)
        seen = np.asarray(read(layers, window=place, out_shape=shape)) != 0
        known = seen if known is None else known & seen
    assert known is not None, "asked for the masks of layers without any"
    return np.broadcast_to(known, (len(indices), *known.shape[1:]))


def read_known(
    path: Location, indices: Sequence[int], masks: Sequence[int]
) -> Flags | None:
    """Read the masks of layers of a file, (layers, H, W); None if they have none.

    Args:
        path: the file.
        indices: layers, from 1.
        masks: of these layers, from `find_masks`.

    Raises:
        RasterError: the file cannot be read to its end.
    """
    if not masks:
        return None
    with quiet_gdal(), open_raster(path) as dataset, reading(path):
        return read_masks(dataset, indices, masks)


def _scales_of(dataset: rasterio.DatasetReader) -> tuple[tuple[float, float], ...]:
    """Return the scale and offset that each layer of a file states."""
    scales = tuple(zip(dataset.scales, dataset.offsets, strict=True))
    if dataset.driver != "ENVI":
        return scales
    factor = dataset.tags(ns="ENVI").get("reflectance_scale_factor")
    if factor is None:
        return scales
    try:
        return ((1 / float(factor), 0.0),) * len(scales)
    except (ValueError, ZeroDivisionError):
        # What is no scale is refused by whoever needs one.
        return ((math.nan, 0.0),) * len(scales)


def read_numbers(path: Location) -> Numbers:
    """Read all numbers of a file as they are, (layers, H, W).

    Raises:
        RasterError: the file cannot be read to its end.
    """
    with quiet_gdal(), open_raster(path) as dataset, reading(path):
        itemsize = max(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
        pixels = dataset.count * dataset.height * dataset.width
        check_memory(path, pixels * itemsize)
        return np.asarray(dataset.read())


def grid_of(dataset: rasterio.DatasetReader) -> Grid:
    """Return where its pixels lie, by its transform or ground control points."""
    transform, crs = dataset.transform, dataset.crs
    if not _is_place(transform):
        transform, crs = _from_points(dataset) or (None, None)
    return Grid(
        height=dataset.height,
        width=dataset.width,
        transform=transform,
        crs=crs.to_string() if crs else None,
    )


def _is_place(transform: Affine) -> bool:
    """Whether pixels lie somewhere by it."""
    if transform == Affine.identity():
        # What GDAL says where a file does not; pixels of one degree lie nowhere.
        return False
    return bool(np.isfinite(transform).all()) and not transform.is_degenerate


def _from_points(dataset: rasterio.DatasetReader) -> tuple[Affine, Any] | None:
    """Return the transform through a file's ground control points, if there is one.

    None without points, or where one lies further off than their rounding explains:
    then the image is not in the plane of their reference system.
    """
    points, crs = dataset.gcps
    if not crs or len(points) < _LEAST_POINTS:
        return None
    pixels = np.array([(point.col, point.row, 1.0) for point in points])
    places = np.array([(point.x, point.y) for point in points])
    middle = places.mean(axis=0)
    found, _, rank, _ = np.linalg.lstsq(pixels, places - middle, rcond=None)
    if rank < _LEAST_POINTS:
        return None
    (a, d), (b, e), (c, f) = found.tolist()
    transform = Affine(a, b, c + middle[0], d, e, f + middle[1])
    if transform.is_degenerate:
        return None
    off = (places - middle - pixels @ found) @ np.linalg.inv(found[:2])
    is_near = float(np.hypot(*off.T).max()) <= _POINTS_PX
    return (transform, crs) if is_near else None


def _say_lost_place(path: Location, dataset: rasterio.DatasetReader) -> None:
    """Warn of what a file says of its place that is not understood."""
    if _is_place(dataset.transform) or _from_points(dataset) is not None:
        return
    if dataset.gcps[0]:
        what = (
            f"has {len(dataset.gcps[0])} ground control points and no georeference, "
            f"and they do not lie on its pixels to {_POINTS_PX:g} px"
        )
    elif dataset.rpcs is not None:
        what = "has rational polynomials (RPCs) in place of a georeference"
    elif dataset.tags(ns="GEOLOCATION"):
        what = "has geolocation arrays in place of a georeference"
    elif dataset.transform != Affine.identity():
        what = "has a transform that gives its pixels no place"
    elif dataset.crs is not None:
        what = "names a reference system, but not where its pixels lie in it"
    else:
        return
    warn_once(
        what, f"{path} {what}: it is read without a place. Warp it, as with gdalwarp."
    )


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What is stated of image files; None and auto ask the files.

    Args:
        sensor: sensor of the images, such as sentinel-2-l2a, or the path of a YAML file
            that describes one.
        bands: names of the files' layers in their order ("-" leaves one out,
            "sensor-order" alone names all); for a folder with one file a band, the
            bands to take. "resample", alone or after them, brings the images into the
            bands of the model that takes them, see `spectralgpt.resampling`.
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
    bands: tuple[str, ...] | Literal["resample"] | None = None
    unit: Literal["auto", "digital-numbers", "reflectance"] = "auto"
    offset: float | Literal["auto"] = "auto"
    quantification: float | Literal["auto"] = "auto"
    nodata: tuple[float, ...] | Literal["auto"] = "auto"
    band_pattern: str | None = None

    def __post_init__(self) -> None:
        """Check what can be seen without the files."""
        if self.bands == RESAMPLE:
            object.__setattr__(self, "bands", (RESAMPLE,))
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
    def layers(self) -> tuple[str, ...] | None:
        """The names of layers among `bands`; None asks the files."""
        return tuple(n for n in self.bands or () if n != RESAMPLE) or None

    @property
    def resamples(self) -> bool:
        """Whether images are to be brought into a model's bands."""
        return RESAMPLE in (self.bands or ())

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


@dataclass(frozen=True, kw_only=True)
class Assumed(Stated):
    """What is so of images for a model, where neither files nor the user say.

    Args:
        model_bands: the bands that the model takes, in its order.
        bands_per_token: neighbouring bands S in a token.
    """

    model_bands: tuple[Band, ...] = ()
    bands_per_token: int = 1


@dataclass(frozen=True)
class Scale:
    """Reflectance = (number in the file + offset) / quantification.

    Args:
        quantification: numbers per unit of reflectance.
        offset: added before dividing.
        source: what says so, for people.

    Raises:
        UnitError: the quantification is not above 0, or either is not finite.
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
