"""Landsat Collection 2 products: a file a band, and an MTL file that describes them.

Source: USGS, Landsat 4-7 and 8-9 Collection 2 Level 1 and Level 2 Data Format Control
Books (for 8-9: LSDS-1822, LSDS-1328): names of files, groups and keys of the MTL file.
Reflectance at the top of the atmosphere is (M * DN + A) / sin(sun elevation): Landsat 8
Data Users Handbook, section 5.2.
"""

import math
import re
from collections.abc import Mapping, Sequence

from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.files import parse_json
from spectralgpt.rasters.bands import band_in_file_name
from spectralgpt.rasters.locations import Location, ProductFiles
from spectralgpt.rasters.stated import ProductMetadata, Scale, day_in, percent_in
from spectralgpt.sensors import Sensor, load_sensor

_SENSORS = {
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


def read_landsat(product: ProductFiles, metadata: Sequence[str]) -> ProductMetadata:
    """Read what the MTL file of a Collection 2 product says.

    Level 1 becomes reflectance at the sun's elevation that the file states.

    Args:
        product: its files.
        metadata: MTL files among them; the first counts.

    Raises:
        RasterError: the file is broken, or none of its bands is there.
        ConfigError: the sensor is not in the registry.
        UnitError: bands differ in scale.
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
    is_known = spacecraft in _SENSORS and image.get("SENSOR_ID") != "MSS"
    if not is_known or level not in _RESCALING:
        raise ConfigError(
            f"{product.path} is of {spacecraft}, level {level}, which is not in the "
            "registry. Describe the sensor in a YAML file and state it."
        )
    sensor = load_sensor(f"{_SENSORS[spacecraft]}-{level.lower()}")
    files, listed = _find_files(product, contents, sensor)
    if not files:
        raise RasterError(f"{product.path} has none of the band files that MTL lists.")
    return ProductMetadata(
        sensor=sensor.name,
        files=files,
        scale=_find_scale(shown, groups, level, listed),
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


def _find_files(
    product: ProductFiles, contents: Mapping[str, str], sensor: Sensor
) -> tuple[dict[str, tuple[Location, int]], set[str]]:
    """Files of the bands by what MTL lists; it names files of the product alone."""
    files: dict[str, tuple[Location, int]] = {}
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
        by_name = band_in_file_name(name.rpartition(".")[0], sensor)
        file = there.get(name) or there.get(_plain(name))
        if file is not None and by_name == band:
            files[band.name] = (file, 1)
    return files, listed


def _plain(name: str) -> str:
    """Return the name of a GeoTIFF as it is in all spellings."""
    return re.sub(r"\.tiff?$", ".tif", name.lower())


def _find_scale(
    shown: str, groups: _Groups, level: str, listed: set[str]
) -> Scale | None:
    table = groups.get(_RESCALING[level], {})
    try:
        factors = {
            name: (
                float(table[f"REFLECTANCE_MULT_BAND_{name[1:]}"]),
                float(table[f"REFLECTANCE_ADD_BAND_{name[1:]}"]),
            )
            for name in sorted(listed)
            if f"REFLECTANCE_MULT_BAND_{name[1:]}" in table
        }
        source = f"{shown.rpartition('/')[2]}"
        if level == "L1":
            elevation = float(groups["IMAGE_ATTRIBUTES"]["SUN_ELEVATION"])
            if not elevation > 0:
                raise ValueError(f"a sun elevation of {elevation:g} degrees")
            sine = math.sin(math.radians(elevation))
            factors = {n: (m / sine, a / sine) for n, (m, a) in factors.items()}
            source += f", sun elevation {elevation:.4g} degrees"
    except (ValueError, KeyError) as error:
        raise RasterError(
            f"{shown} is broken: {error}. Fetch the product again."
        ) from None
    return Scale.common(shown, factors, source)
