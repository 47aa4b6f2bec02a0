"""STAC items as scenes: JSON files that say which assets hold which bands.

Local assets must lie in the item's own folder or below; others are read at http and
https addresses only, part by part. No other scheme is followed. Files that name many
items are collections and catalogs of links, and item collections; their links are
followed to local files in the first file's own folder or below, and nowhere else. An
item of a collection in one file is named FILE/ID, as members of archives are. The
folder of an item in memory is that of the file which it was read from or saved to.

Source: STAC specification 1.0 and 1.1, extensions eo, raster and processing; item
collections are feature collections. Of Earth Search, `earthsearch:boa_offset_applied`
wins over `raster:bands`, which states -0.1 for images that the offset is no longer in
(Element84/earth-search, issue 71).
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from spectralgpt.errors import BandError, ConfigError, RasterError
from spectralgpt.files import parse_json
from spectralgpt.rasters.files import ProductMetadata, Scale, day_in, percent_in
from spectralgpt.rasters.gdal import (
    Location,
    VirtualFile,
    is_path,
    path_below,
    read_metadata,
)
from spectralgpt.rasters.product_files import STAC_SUFFIXES
from spectralgpt.sensors import Band, Sensor, list_sensors, load_sensor

if TYPE_CHECKING:
    from pystac import Item

_OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINES = ("s2:processing_baseline", "processing:version")
_SUFFIXES = (".tif", ".tiff", ".jp2")
_PICTURES = {"visual", "overview", "thumbnail", "metadata"}
_Table = Mapping[str, Any]


def is_stac_member(path: Path) -> bool:
    """Whether a path names an item of a collection in one file, as FILE/ID."""
    return path.parent.suffix.lower() in STAC_SUFFIXES and path.parent.is_file()


def is_stac_object(scene: object) -> "TypeGuard[Item]":
    """Whether this is a `pystac.Item`; none is, before pystac is imported."""
    pystac = sys.modules.get("pystac")
    return pystac is not None and isinstance(scene, pystac.Item)


def read_stac_object(
    item: "os.PathLike[str] | str | Item", sensor: Sensor | None = None
) -> tuple[Path, ProductMetadata | None]:
    """Read a `pystac.Item` as `read_stac_item` does a file.

    Returns:
        What it is called in messages: its file, else its id; and what it says. A path
        is returned as it is, unread.

    Raises:
        RasterError: see `read_stac_item`; or a local asset is named, and the item's own
            file is not there.
    """
    if isinstance(item, str | os.PathLike):
        return Path(item), None
    if not is_stac_object(item):
        raise RasterError(f"{item!r} is no scene: give a path or a pystac.Item.")
    document = item.to_dict(transform_hrefs=False)
    name = str(document.get("id"))
    path = Path(name if is_path(name) else "item")
    link = str(item.get_self_href() or "")
    parts = _split_address(path, link)
    file = Path(unquote(parts.path) if parts.scheme == "file" else link)
    # What an item says of its own place is not trusted: the file must be this item's.
    if (
        parts.scheme in ("", "file")
        and is_path(str(file))
        and file.is_file()
        and _read_json(file).get("id") == name
    ):
        return file, _read(file, document, file.absolute().parent, sensor)
    return path, _read(path, document, None, sensor)


def list_stac_items(path: Path) -> list[Path]:
    """List the items that a STAC file names: itself, its features, or its links.

    Args:
        path: an item, an item collection, or a collection or catalog whose links of
            kinds `item` and `child` lead to local files.

    Returns:
        Files of items, and FILE/ID for the items of a collection in one file. They need
        not be there.

    Raises:
        RasterError: it is none of these, a link leads to a place that is not allowed,
            or two items of a file share an id.
    """
    root = path.absolute().parent.resolve()
    found: list[Path] = []
    # Files to open, each once; in the order of the links.
    waiting, seen = [path], {path.absolute().resolve()}
    while waiting:
        items, children = _open(waiting.pop(0), root)
        found += items
        for child in children:
            if child.resolve() not in seen:
                seen.add(child.resolve())
                waiting.append(child)
    if not found:
        raise RasterError(f"{path} names no items: it has neither features nor links.")
    return list(dict.fromkeys(found))


def read_stac_item(path: Path, sensor: Sensor | None = None) -> ProductMetadata:
    """Read which band lies where, and what its numbers mean, from a STAC item.

    Args:
        path: its file, or FILE/ID for an item of a collection in one file.
        sensor: as stated; None where the item tells.

    Raises:
        RasterError: the file is no STAC item, or an asset leads to a place that is not
            allowed.
        BandError: no asset is a band of the sensor.
        ConfigError: the sensor is in doubt.
        UnitError: assets differ in scale.
    """
    file = path.parent if is_stac_member(path) else path
    item = _read_json(file)
    if file != path:
        members = _dicts_in(item.get("features"))
        item = next((each for each in members if each.get("id") == path.name), {})
    return _read(path, item, file.absolute().parent, sensor)


def _read(
    path: Path, item: dict[str, Any], folder: Path | None, sensor: Sensor | None
) -> ProductMetadata:
    """Read an item whose local assets lie below a folder; None follows none of them."""
    _check_item(path, item)
    properties = item["properties"]
    sensor = sensor or _find_sensor(path, item)
    files: dict[str, tuple[Location, int]] = {}
    factors: dict[str, tuple[float, float]] = {}
    nodata: dict[str, float] = {}
    # COGs come first: catalogues list the JPEG 2000 original beside them.
    for key, asset in sorted(item["assets"].items(), key=lambda each: _rank(each[1])):
        for layer, band, row in _bands_of(key, asset, sensor):
            if band.name in files:
                continue
            files[band.name] = (_locate(path, item, folder, key, asset), layer)
            if "scale" in row or "offset" in row:
                scale, offset = row.get("scale", 1), row.get("offset", 0)
                factors[band.name] = _number(path, scale), _number(path, offset)
            if isinstance(row.get("nodata"), int | float):
                nodata[band.name] = _number(path, row["nodata"])
    if not files:
        raise BandError(
            f"{path} has no asset that is a band of {sensor.name} (assets: "
            f"{', '.join(list(item['assets'])[:8])})."
        )
    return ProductMetadata(
        sensor=sensor.name,
        files=files,
        scale=_find_scale(path, properties, sensor, factors),
        date=day_in(str(properties.get("datetime") or ""))
        or day_in(str(properties.get("start_datetime") or "")),
        nodata=nodata,
        cloud_percent=percent_in(properties.get("eo:cloud_cover")),
    )


def _check_item(path: Path, item: _Table) -> None:
    is_item = (
        item.get("type") == "Feature"
        and isinstance(item.get("properties"), dict)
        and isinstance(item.get("assets"), dict)
    )
    if not is_item:
        raise RasterError(
            f"{path} is no STAC item: a GeoJSON feature with properties and assets."
        )
    for key, asset in item["assets"].items():
        is_asset = (
            isinstance(asset, dict)
            and isinstance(asset.get("href", ""), str)
            and isinstance(asset.get("roles") or [], list)
        )
        if not is_asset:
            raise RasterError(
                f"{path}, asset '{key}' is not an object whose href is a text and "
                "whose roles, if any, are a list. Correct the item, or fetch it again."
            )
        _split_address(path, asset.get("href", ""))


def _find_sensor(path: Path, item: _Table) -> Sensor:
    known = [load_sensor(name) for name in list_sensors()]
    properties = item["properties"]
    names = [item.get("id"), properties.get("s2:product_uri"), path.name]
    names += [asset.get("href") for asset in item["assets"].values()]
    for name in names:
        for sensor in known:
            if sensor.product_name and re.search(sensor.product_name, str(name)):
                return sensor
    platform = str(properties.get("platform", "")).lower().replace("_", "-")
    keys = ("s2:product_type", "processing:level", "landsat:correction")
    level = " ".join(str(properties.get(key, "")) for key in keys).upper()
    level = f"{level} {item.get('collection', '')} {item.get('id', '')}".upper()
    found = {
        "sentinel-2": {"L2A|MSI2A": "sentinel-2-l2a", "L1C|MSI1C": "sentinel-2-l1c"},
        "landsat-8": {"L2|LEVEL-2": "landsat-8-9-l2", "L1": "landsat-8-9-l1"},
        "landsat-9": {"L2|LEVEL-2": "landsat-8-9-l2", "L1": "landsat-8-9-l1"},
    }
    for start, levels in found.items():
        for pattern, name in levels.items():
            if platform.startswith(start) and re.search(pattern, level):
                return load_sensor(name)
    raise ConfigError(
        f"{path} does not say which sensor took it (platform: {platform or 'none'}). "
        f"State one of: {', '.join(list_sensors())}."
    )


def _rank(asset: _Table) -> tuple[bool, str]:
    href = str(asset.get("href", ""))
    return urlsplit(href).path.lower().endswith(".jp2"), href


def _bands_of(
    key: str, asset: _Table, sensor: Sensor
) -> Iterator[tuple[int, Band, _Table]]:
    """Yield (layer, band, what is said of its numbers) of an asset."""
    roles = asset.get("roles") or ()
    address = urlsplit(str(asset.get("href", ""))).path.lower()
    if not address.endswith(_SUFFIXES) or _PICTURES & {*map(str, roles)}:
        return
    rasters = _dicts_in(asset.get("raster:bands"))
    bands = _dicts_in(asset.get("eo:bands")) or _dicts_in(asset.get("bands"))
    # An asset of one band is named by its key, which is more often the sensor's own.
    if len(bands) <= 1 and len(rasters) <= 1:
        names = [key, *(str(each) for band in bands for each in _names(band))]
        found = next((b for b in map(sensor.find, names) if b is not None), None)
        rows = [found]
    else:
        rows = [
            next((b for b in map(sensor.find, _names(band)) if b is not None), None)
            for band in bands
        ]
    for i, band in enumerate(rows):
        if band is not None:
            own = {**asset, **(bands[i] if i < len(bands) else {})}
            stated = {
                name.removeprefix("raster:"): own[name]
                for name in ("raster:scale", "raster:offset", "nodata")
                if name in own
            }
            yield i + 1, band, {**stated, **(rasters[i] if i < len(rasters) else {})}


def _names(band: _Table) -> list[str]:
    keys = ("name", "common_name", "eo:common_name", "description")
    return [str(band[key]) for key in keys if band.get(key)]


def _locate(
    path: Path, item: _Table, folder: Path | None, key: str, asset: _Table
) -> Location:
    href = str(asset.get("href", ""))
    scheme = urlsplit(href).scheme.lower()
    if scheme in ("http", "https"):
        return VirtualFile.at(href)
    if scheme not in ("", "file"):
        raise RasterError(
            f"{path}, asset '{key}': addresses of '{scheme}' are not read. Use https, "
            "or fetch the file beside the item."
        )
    if folder is None:
        origin = _origin(path, item)
        if origin is not None and not scheme:
            return VirtualFile.at(urljoin(origin, href))
        raise RasterError(
            f"{path}, asset '{key}': '{href}' is looked for beside the item, which was "
            "neither read from a file nor saved to one: save it beside its files."
        )
    file = path_below(folder, unquote(urlsplit(href).path))
    if file is None:
        raise RasterError(
            f"{path}, asset '{key}': '{href}' leads out of the item's folder. Put the "
            "item beside or above its files."
        )
    if not file.exists():
        origin = _origin(path, item)
        if origin is not None and not scheme:
            return VirtualFile.at(urljoin(origin, href))
        raise RasterError(f"{path}, asset '{key}': {file} does not exist.")
    return file


def _origin(path: Path, item: _Table) -> str | None:
    """Where the item was published: relative addresses may be meant from there."""
    for link in _dicts_in(item.get("links")):
        href = str(link.get("href", ""))
        if link.get("rel") != "self":
            continue
        if _split_address(path, href).scheme in ("http", "https"):
            return href
    return None


def _number(path: Path, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RasterError(f"{path} states {value!r} where a number is expected.")
    return float(value)


def _find_scale(
    path: Path,
    properties: _Table,
    sensor: Sensor,
    factors: Mapping[str, tuple[float, float]],
) -> Scale | None:
    per_unit = sensor.quantification
    for key in _OFFSET_APPLIED:
        if properties.get(key) is True and per_unit is not None:
            return Scale(per_unit, 0.0, f"{key} in {path.name}")
    stated = Scale.common(str(path), factors, f"raster:bands of {path.name}")
    if stated is not None or sensor.baseline is None or per_unit is None:
        return stated
    for key in _BASELINES:
        text = str(properties.get(key, "")).strip()
        offset = sensor.baseline.offset_said(text)
        if offset is not None:
            return Scale(per_unit, offset, f"{key} {text} in {path.name}")
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_metadata(path), str(path))
    except (ValueError, RecursionError) as error:
        raise RasterError(f"{path} cannot be read as JSON: {error}.") from None
    return found if isinstance(found, dict) else {}


def _split_address(path: Path, href: str) -> SplitResult:
    try:
        return urlsplit(href)
    except ValueError as error:
        raise RasterError(
            f"{path} names '{href}', which is no address: {error}."
        ) from None


def _open(path: Path, root: Path) -> tuple[list[Path], list[Path]]:
    """Return the items that a file names, and its child catalogs."""
    document = _read_json(path)
    kind = document.get("type")
    if kind == "Feature":
        return [path], []
    if kind == "FeatureCollection":
        return _members(path, document), []
    if kind in ("Collection", "Catalog"):
        links = _dicts_in(document.get("links"))
        hrefs = {
            rel: [str(link.get("href", "")) for link in links if link.get("rel") == rel]
            for rel in ("item", "child")
        }
        items, children = (
            [_follow(path, href, root) for href in hrefs[rel]] for rel in hrefs
        )
        return items, children
    raise RasterError(
        f"{path} is neither a STAC item nor a collection of items (its type: {kind!r})."
    )


def _members(path: Path, document: Mapping[str, Any]) -> list[Path]:
    names = [
        str(feature.get("id") or "") for feature in _dicts_in(document.get("features"))
    ]
    for name in names:
        if not name or name in (".", "..") or "/" in name or not is_path(name):
            raise RasterError(f"{path} has an item whose id is no name: {name!r}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RasterError(f"{path} has two items with the id {twice!r}.")
    return [path / name for name in names]


def _follow(path: Path, href: str, root: Path) -> Path:
    parts = _split_address(path, href)
    if parts.scheme or not href or not is_path(unquote(parts.path)):
        raise RasterError(
            f"{path} links to '{href}': only files beside it are followed. Fetch the "
            "items, or save them as one item collection."
        )
    target = path.parent / unquote(parts.path)
    if not target.absolute().resolve().is_relative_to(root):
        raise RasterError(
            f"{path} links to '{href}', which leads out of the folder {root}."
        )
    return target


def _dicts_in(value: Any) -> list[dict[str, Any]]:
    rows = value if isinstance(value, list) else []
    return [row for row in rows if isinstance(row, dict)]
