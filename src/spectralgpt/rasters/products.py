"""Products of known kinds: which band lies where, what its numbers mean, and the day.

Sentinel-2 (SAFE): digital numbers carry an offset from processing baseline 04.00 on. Of
a whole product its metadata say which. Of parts of one, such as a folder of its bands,
it is found so:

1. The baseline in the product's name (`S2A_MSIL2A_..._N0400_...`), looked for in the
   file's name and in the folders above it.
2. The baseline or the offset itself in `metadata.json` or `MTD_*.xml` beside the file,
   or in the folders above it that belong to the same product.
3. Where there is neither, or the name says N9999 (reprocessed, so the number tells
   nothing), the pixels may tell (see `spectralgpt.rasters.numbers`), or the user.

Landsat Collection 2: a file per band, and an MTL file that describes them. Reflectance
at the top of the atmosphere is (M * DN + A) / sin(sun elevation).

EnMAP: one GeoTIFF of all bands, and METADATA.XML that describes them.

Gaofen: one GeoTIFF of the multispectral bands in the product's own order. Digital
numbers become reflectance with coefficients that CRESDA publishes for each year, which
are not in the product: the user states the quantification.

Sources: ESA, Sentinel-2 Products Specification Document, issue 14.9 and later: names of
products and images, QUANTIFICATION_VALUE, RADIO_ADD_OFFSET and BOA_ADD_OFFSET. USGS,
Landsat 4-7 and 8-9 Collection 2 Level 1 and Level 2 Data Format Control Books (for 8-9:
LSDS-1822, LSDS-1328): names of files, groups and keys of the MTL file; Landsat 8 Data
Users Handbook, section 5.2. EnMAP HSI Level 1/Level 2 Product Specification:
SPECTRAL_IMAGE, and bandCharacterisation with wavelengthCenterOfBand, GainOfBand and
OffsetOfBand. Names of CRESDA's files, such as
GF1_PMS1_E116.5_N39.4_20160501_L1A0001557543-MSS1.tiff, and ReceiveTime in the XML
beside it.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from spectralgpt.errors import BandError, ConfigError, RasterError, UnitError
from spectralgpt.files import parse_json
from spectralgpt.rasters.files import (
    ProductMetadata,
    Scale,
    day_in,
    percent_in,
    read_header,
)
from spectralgpt.rasters.gdal import Location, VirtualFile, read_metadata
from spectralgpt.rasters.product_files import (
    SAFE_SUFFIX,
    STAC_SUFFIXES,
    ZIP_SUFFIX,
    ProductFiles,
)
from spectralgpt.sensors import BaselineRule, Sensor, list_sensors, load_sensor

_SAFE = r"MTD_MSI(L1C|L2A)\.xml"
_LANDSAT = r"L[A-Z]\d\d_.*_MTL\.(json|txt)"
_ENMAP = r"ENMAP01-____L2A-.*-SPECTRAL_IMAGE[^/]*\.TIFF?"
_GAOFEN = r"(?!.*PAN\d?\.tiff?$)GF\d[A-D]?_(PMS|WFV)[^/]*\.tiff?"
_IMAGE = re.compile(
    r"(?:.*/)?IMG_DATA/(?:.*/)?[^/]*_(B\d[\dA])(?:_(\d\d)m)?\.jp2", re.IGNORECASE
)
_QUANTIFICATION = ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE")
_OFFSETS = ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
_BASELINE = "PROCESSING_BASELINE"
_ANY_RESOLUTION = "00"
_BASELINE_IN_NAME = re.compile(r"_MSIL\d[AC]_\d{8}T\d{6}_N(\d{4})_")
_LEVELS_UP = 5
"""Folders above a band file that may carry its name: x.SAFE/GRANULE/y/IMG_DATA/R10m."""
_METADATA_LEVELS_UP = 4
_Texts = Mapping[str, Sequence[str]]
"""Those of an XML file, by tag."""
_LANDSATS = {
    "LANDSAT_4": "landsat-4-5-tm",
    "LANDSAT_5": "landsat-4-5-tm",
    "LANDSAT_7": "landsat-7-etm",
    "LANDSAT_8": "landsat-8-9",
    "LANDSAT_9": "landsat-8-9",
}
_RESCALING = {
    "L1": "LEVEL1_RADIOMETRIC_RESCALING",
    "L2": "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS",
}
_Groups = Mapping[str, Mapping[str, str]]
_Bands = dict[str, tuple[Location, int]]
"""File and layer (from 1) by band."""


def is_product(path: Path) -> bool:
    """Whether a path is one scene by its looks: nothing of it is opened."""
    if not path.is_dir():
        return path.suffix.lower() in (ZIP_SUFFIX, *STAC_SUFFIXES, ".vrt")
    if path.suffix == SAFE_SUFFIX:
        return True
    product = ProductFiles(path)
    rasters = product.matching(r".*\.(tiff?|jp2)")
    return any(
        product.matching(kind.holds) == rasters
        and len(product.matching(kind.image)) == 1
        if kind.image
        else product.matching(kind.holds)
        for kind in _KINDS
    )


def read_product(path: Path) -> ProductMetadata | None:
    """Read what a product says of itself; None if it is a plain raster or folder.

    Raises:
        RasterError: it is incomplete, broken, of no known kind, or more than one.
        ConfigError: its sensor is not in the registry.
        BandError: its metadata list no band.
        UnitError: bands differ in scale or offset.
    """
    is_folder = path.is_dir()
    is_archive = path.suffix.lower() == ZIP_SUFFIX and path.is_file()
    if not is_folder and not is_archive:
        is_enmap = re.fullmatch(_ENMAP, path.name, re.IGNORECASE)
        return _read_enmap(ProductFiles(path), [path.name]) if is_enmap else None
    product = ProductFiles(path)
    for kind in _KINDS:
        names = product.matching(kind.mark)
        metadata = kind.read(product, names) if names else None
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


def _read_safe(
    product: ProductFiles, metadata: Sequence[str]
) -> ProductMetadata | None:
    """Read what the metadata of a SAFE product say; of level 2A the finest bands.

    None for a copy of the metadata beside other files.
    """
    level = metadata[0][len("MTD_MSI") : -len(".xml")].lower()
    sensor = load_sensor(f"sentinel-2-{level}")
    files = _find_images(product, sensor)
    is_whole = product.name.endswith(SAFE_SUFFIX) or product.path.is_file()
    if not files and not is_whole:
        # The offset is looked for there.
        return None
    if not files:
        raise RasterError(
            f"{product.path} has no image in GRANULE/*/IMG_DATA: it is an incomplete "
            "product. Fetch it again."
        )
    texts = _texts(product.read_xml(metadata[0]))
    start = _first(texts, "PRODUCT_START_TIME", "DATATAKE_SENSING_START")
    return ProductMetadata(
        sensor=sensor.name,
        files=files,
        scale=_stated_scale(str(product.files[metadata[0]]), texts, sensor),
        date=day_in(start) or day_in(product.name),
        cloud_percent=percent_in(_first(texts, "Cloud_Coverage_Assessment")),
    )


def _find_images(product: ProductFiles, sensor: Sensor) -> _Bands:
    found: dict[str, dict[str, Location]] = {}
    granules = set()
    for name, file in product.files.items():
        match = _IMAGE.fullmatch(name)
        band = sensor.find(match.group(1)) if match else None
        if match and band is not None:
            granules.add(name.partition("IMG_DATA")[0])
            found.setdefault(band.name, {})[match.group(2) or _ANY_RESOLUTION] = file
    if len(granules) > 1:
        raise RasterError(
            f"{product.path} holds {len(granules)} granules, such as "
            f"{sorted(granules)[0]}: products from before December 2016 do. Name one "
            "granule's IMG_DATA folder with --sensor and --offset."
        )
    return {band: (copies[min(copies)], 1) for band, copies in found.items()}


def _texts(root: ElementTree.Element) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for node in root.iter():
        texts.setdefault(node.tag.rpartition("}")[2], []).append(node.text or "")
    return texts


def _stated_scale(shown: str, texts: _Texts, sensor: Sensor) -> Scale | None:
    try:
        offset = _listed_offset(shown, texts, sensor.baseline)
        stated = [float(t) for tag in _QUANTIFICATION for t in texts.get(tag, ())]
    except ValueError as error:
        raise RasterError(f"{shown} is broken: {error}. Fetch it again.") from None
    if offset is None:
        return None
    per_unit = stated[0] if stated else float(sensor.quantification or 0)
    if not per_unit > 0:
        raise UnitError(f"{shown} states a quantification of {per_unit:g}.")
    baseline = _first(texts, _BASELINE)
    source = f"{shown.rpartition('/')[2]}, baseline {baseline or 'not stated'}"
    return Scale(per_unit, offset, source)


def _listed_offset(
    shown: str, texts: _Texts, rule: BaselineRule | None
) -> float | None:
    """Return the offset that metadata list, or that of the baseline which they state.

    Products from before the offset was introduced do not list it.
    """
    listed = {float(text) for tag in _OFFSETS for text in texts.get(tag, ())}
    if len(listed) > 1:
        raise UnitError(
            f"{shown} states different offsets a band ({sorted(listed)}). State one."
        )
    if listed:
        return listed.pop()
    return None if rule is None else rule.offset_said(_first(texts, _BASELINE))


def _first(texts: _Texts, *tags: str) -> str:
    """Return the first text of the first of some tags that is there, else ""."""
    return next((texts[tag][0].strip() for tag in tags if tag in texts), "")


def offset_from_texts(
    path: Path, inside: Location, rule: BaselineRule
) -> tuple[float, str] | None:
    """Take the offset of a part of a product from names and metadata.

    Args:
        path: an image's file or folder.
        inside: one of its band files; what is said nearer to the pixels counts first.
        rule: what follows from a baseline.

    Returns:
        The offset and where it was found, None if nothing says. No pixel is read.

    Raises:
        UnitError: metadata differ between bands, or cannot be trusted.
    """
    # What an archive says is in its metadata, read before; its name is left.
    places = [path] if isinstance(inside, VirtualFile) else [inside, path]
    looks = [partial(_offset_in_name, rule=rule)]
    if isinstance(inside, Path):
        looks.append(partial(_offset_in_metadata, rule=rule))
    found = (look(place) for look in looks for place in places)
    return next((each for each in found if each is not None), None)


def _offset_in_name(path: Path, rule: BaselineRule) -> tuple[float, str] | None:
    """Look at a path's own name first, then at those of the folders above."""
    for part in [path, *list(path.parents)[:_LEVELS_UP]]:
        for match in _BASELINE_IN_NAME.finditer(f"_{part.name}_"):
            offset = rule.offset_for(int(match.group(1)))
            if offset is not None:
                return offset, f"baseline {match.group(1)} in the name '{part.name}'"
    return None


def _offset_in_metadata(path: Path, rule: BaselineRule) -> tuple[float, str] | None:
    for file in _metadata_files(path):
        try:
            text = read_metadata(file)
        except RasterError as error:
            raise UnitError(f"{error} Or state the offset.") from None
        if file.suffix == ".json":
            found = _offset_in_json(text, rule)
        else:
            found = _offset_in_xml(file, text, rule)
        if found is not None:
            return found, f"metadata in {file.name}"
    return None


def _metadata_files(path: Path) -> Iterator[Path]:
    """Metadata of the product only: a file in a folder higher up belongs to others."""
    folders = [path] if path.is_dir() else [path.parent]
    if any(part.suffix == SAFE_SUFFIX for part in path.parents):
        folders += folders[0].parents[:_METADATA_LEVELS_UP]
    for folder in folders:
        yield from sorted(folder.glob("metadata.json"))
        yield from sorted(folder.glob("MTD*.xml"))
        if folder.suffix == SAFE_SUFFIX:
            return


def _offset_in_json(text: str, rule: BaselineRule) -> float | None:
    try:
        content = parse_json(text, "metadata")
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    properties = content.get("properties")
    tables = [content, properties] if isinstance(properties, dict) else [content]
    for table in tables:
        for key in (_BASELINE, "s2:processing_baseline"):
            offset = rule.offset_said(str(table.get(key, "")))
            if offset is not None:
                return offset
    return None


def _offset_in_xml(path: Path, text: str, rule: BaselineRule) -> float | None:
    try:
        return _listed_offset(str(path), _texts(ElementTree.fromstring(text)), rule)
    except ElementTree.ParseError:
        return None
    except ValueError as error:
        raise UnitError(f"{path} is broken: {error}. State the offset.") from None


def _read_landsat(product: ProductFiles, metadata: Sequence[str]) -> ProductMetadata:
    """Read what the MTL file of a Collection 2 product says.

    Level 1 becomes reflectance at the sun's elevation that the file states.
    """
    shown = str(product.files[metadata[0]])
    groups = _read_groups(shown, product.read_text(metadata[0]))
    try:
        contents, image = groups["PRODUCT_CONTENTS"], groups["IMAGE_ATTRIBUTES"]
        level = contents["PROCESSING_LEVEL"][:2]
        spacecraft = image["SPACECRAFT_ID"]
    except KeyError as error:
        raise RasterError(
            f"{shown} lacks {error}: it is no MTL file of Collection 2. Fetch the "
            "product again."
        ) from None
    # Landsat 4 and 5 carry the older MSS, too.
    is_known = spacecraft in _LANDSATS and image.get("SENSOR_ID") != "MSS"
    if not is_known or level not in _RESCALING:
        raise ConfigError(
            f"{product.path} is of {spacecraft}, level {level}, which is not in the "
            "registry. Describe the sensor in a YAML file and state it."
        )
    sensor = load_sensor(f"{_LANDSATS[spacecraft]}-{level.lower()}")
    files, listed = _listed_files(product, contents, sensor)
    if not files:
        raise RasterError(f"{product.path} has none of the band files that MTL lists.")
    return ProductMetadata(
        sensor=sensor.name,
        files=files,
        scale=_rescaling(shown, groups, level, listed),
        date=day_in(image.get("DATE_ACQUIRED", "")) or day_in(product.name),
        cloud_percent=percent_in(image.get("CLOUD_COVER", "")),
    )


def _read_groups(shown: str, text: str) -> _Groups:
    if shown.lower().endswith(".json"):
        try:
            content = parse_json(text, shown)["LANDSAT_METADATA_FILE"]
            return {
                group: {key: str(value) for key, value in rows.items()}
                for group, rows in content.items()
                if isinstance(rows, dict)
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RasterError(
                f"{shown} is no MTL file in JSON: fetch the product again."
            ) from None
    groups: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        if key == "GROUP":
            current = groups.setdefault(value, {})
        elif value:
            current[key] = value.strip('"')
    return groups


def _listed_files(
    product: ProductFiles, contents: Mapping[str, str], sensor: Sensor
) -> tuple[_Bands, set[str]]:
    """Files of the bands by what MTL lists; it names files of the product alone."""
    files: _Bands = {}
    listed = set()
    # People rename .TIF to .tif, and whole products to lower case.
    there = {_plain(name): file for name, file in product.files.items()}
    there |= product.files
    for key, name in contents.items():
        number = key.removeprefix("FILE_NAME_BAND_")
        band = sensor.find(f"B{number}") if number != key else None
        if band is None:
            continue
        listed.add(band.name)
        by_name = sensor.find_in_name(name.rpartition(".")[0])
        file = there.get(name) or there.get(_plain(name))
        if file is not None and by_name == band:
            files[band.name] = (file, 1)
    return files, listed


def _broken(shown: str, error: Exception) -> RasterError:
    return RasterError(f"{shown} is broken: {error}. Fetch the product again.")


def _plain(name: str) -> str:
    """Return the name of a GeoTIFF as it is in all spellings."""
    return re.sub(r"\.tiff?$", ".tif", name.lower())


def _rescaling(
    shown: str, groups: _Groups, level: str, listed: set[str]
) -> Scale | None:
    table = groups.get(_RESCALING[level], {})
    keys = {
        name: [f"REFLECTANCE_{part}_BAND_{name[1:]}" for part in ("MULT", "ADD")]
        for name in sorted(listed)
    }
    try:
        factors = {
            name: (float(table[gain]), float(table[added]))
            for name, (gain, added) in keys.items()
            if gain in table
        }
        source = shown.rpartition("/")[2]
        if level == "L1":
            elevation = float(groups["IMAGE_ATTRIBUTES"]["SUN_ELEVATION"])
            if not elevation > 0:
                raise ValueError(f"a sun elevation of {elevation:g} degrees")
            sine = math.sin(math.radians(elevation))
            factors = {n: (m / sine, a / sine) for n, (m, a) in factors.items()}
            source += f", sun elevation {elevation:.4g} degrees"
    except (ValueError, KeyError) as error:
        raise _broken(shown, error) from None
    return Scale.common(shown, factors, source)


def _read_enmap(product: ProductFiles, images: Sequence[str]) -> ProductMetadata | None:
    """Read what an EnMAP product says of itself.

    Without METADATA.XML all 224 layers of a product are known by their order; None
    where layers are missing or described.
    """
    if len(images) > 1:
        raise RasterError(f"{product.path} holds {len(images)} images: name one file.")
    image, sensor = product.files[images[0]], load_sensor("enmap-l2a")
    metadata = product.matching(r"ENMAP01-____L2A-.*-METADATA\.XML")
    if not metadata:
        header = read_header(image)
        if header.count != len(sensor.bands) or any(header.descriptions):
            return None
        return _in_order(image, sensor, day_in(image.name))
    root, shown = product.read_xml(metadata[0]), str(product.files[metadata[0]])
    rows = [node for node in root.iter() if node.tag == "bandID"]
    files: _Bands = {}
    factors = {}
    try:
        for layer, row in enumerate(rows, start=1):
            values = {node.tag: node.text or "" for node in row}
            centre_nm = float(values["wavelengthCenterOfBand"])
            # The cameras overlap: the number tells which of two near bands it is.
            band = sensor.find(f"B{int(row.get('number', layer)):03d}")
            if band is None or abs(band.wavelength_nm - centre_nm) > band.width_nm:
                band = sensor.nearest(centre_nm)
            if band is not None and band.name not in files:
                files[band.name] = (image, layer)
            if "GainOfBand" in values:
                added = float(values.get("OffsetOfBand", 0))
                factors[str(layer)] = (float(values["GainOfBand"]), added)
    except (KeyError, ValueError) as error:
        raise _broken(shown, error) from None
    if not files:
        raise BandError(f"{shown} lists no band of {sensor.name}. Name the bands.")
    source = shown.rpartition("/")[2]
    day = day_in(_first(_texts(root), "startTime")) or day_in(source)
    scale = Scale.common(shown, factors, source)
    return ProductMetadata(sensor.name, files, scale, day)


def _read_gaofen(
    product: ProductFiles, images: Sequence[str]
) -> ProductMetadata | None:
    """Read what names of a Gaofen product say; None for an unknown sensor."""
    if len(images) > 1:
        raise RasterError(
            f"{product.path} holds {len(images)} images, such as {images[0]} and "
            f"{images[1]}: name one file, with the bands in its order."
        )
    known = (load_sensor(each) for each in list_sensors() if each.startswith("gaofen"))
    sensor = next((s for s in known if re.match(s.product_name, images[0])), None)
    if sensor is None:
        return None
    day, metadata = None, str(Path(images[0]).with_suffix(".xml"))
    if metadata in product.files:
        found = re.search(
            r"<ReceiveTime>([^<]*)</ReceiveTime>", product.read_text(metadata)
        )
        day = day_in(found.group(1)) if found else None
    return _in_order(product.files[images[0]], sensor, day or day_in(images[0]))


def _in_order(image: Location, sensor: Sensor, day: date | None) -> ProductMetadata:
    """Take the layers of a file for all bands of a sensor, in its own order."""
    files = {name: (image, i) for i, name in enumerate(sensor.band_names, start=1)}
    return ProductMetadata(sensor.name, files, date=day)


class _Kind(NamedTuple):
    """How a product is told from other files, by regular expressions of their names.

    Attributes:
        mark: a file at the top that makes a folder or archive a product, to be read.
        read: takes the product and the names of such files.
        holds: a file that a folder of it holds, which makes it one scene.
        image: its one image, where all rasters of the folder must be called `holds`.
    """

    mark: str
    read: Callable[[ProductFiles, Sequence[str]], ProductMetadata | None]
    holds: str
    image: str = ""


_KINDS = (
    _Kind(_SAFE, _read_safe, r"(.*/)?IMG_DATA/.*\.jp2"),
    _Kind(_LANDSAT, _read_landsat, _LANDSAT),
    _Kind(
        _ENMAP,
        _read_enmap,
        holds=r"ENMAP01-.*\.TIFF?",
        image=r"ENMAP01-.*-SPECTRAL_IMAGE[^/]*",
    ),
    _Kind(_GAOFEN, _read_gaofen, r"GF\d[A-D]?_(PMS|WFV).*\.tiff?", _GAOFEN),
)
PRODUCT_FILES = re.compile(
    "|".join([*(kind.mark for kind in _KINDS), r".*\.(zip|SAFE)"]), re.IGNORECASE
)
"""What products are called, or such a file: all else is no product."""
