"""STAC items that describe maps: where and when, and which file holds what.

Source: SpatioTemporal Asset Catalog 1.1.0, with its extensions projection 2.0.0,
classification 2.0.0, processing 1.2.0, raster 2.0.0 and eo 2.0.0.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectralgpt import __version__
from spectralgpt.files import write_json
from spectralgpt.rasters import Grid
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.footprints import (
    cut_at_180,
    epsg_code,
    footprint_lonlat,
)

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_SCHEMAS = "https://stac-extensions.github.io"
_EXTENSIONS = [
    f"{_SCHEMAS}/projection/v2.0.0/schema.json",
    f"{_SCHEMAS}/classification/v2.0.0/schema.json",
    f"{_SCHEMAS}/processing/v1.2.0/schema.json",
]
_NUMBER_EXTENSIONS = {
    "raster:scale": f"{_SCHEMAS}/raster/v2.0.0/schema.json",
    "eo:center_wavelength": f"{_SCHEMAS}/eo/v2.0.0/schema.json",
}
_NM_PER_UM = 1000
_TURN = 360
_Asset = dict[str, Any]


def class_asset(path: Path, classes: Sequence[tuple[str, str]]) -> _Asset:
    """Describe a map of classes, (name, colour) in the order of their numbers."""
    described = [
        {
            "value": value,
            "name": _identifier(name, value),
            "title": name,
            "color_hint": colour.removeprefix("#").upper(),
        }
        for value, (name, colour) in enumerate(classes)
    ]
    band = {"name": "class", "data_type": "uint8", "nodata": 255}
    bands = [band | {"classification:classes": described}]
    return _asset(path, _COG, "Class of each pixel", bands=bands)


def _asset(path: Path, media: str, title: str, **more: Any) -> _Asset:
    """Describe a file beside the item."""
    said = {"href": f"./{path.name}", "type": media, "title": title}
    return {**said, "roles": ["data"], **more}


def measure_asset(path: Path, title: str, names: Sequence[str]) -> _Asset:
    """Describe a map of measured numbers, a layer a name."""
    bands = [{"name": n, "data_type": "float32", "nodata": "nan"} for n in names]
    return _asset(path, _COG, title, bands=bands)


def polygon_asset(path: Path) -> _Asset:
    """Describe a GeoPackage of outlines."""
    media = "application/geopackage+sqlite3"
    return _asset(path, media, "Outlines of the classes")


def embedding_asset(raster: EmbeddingRaster) -> _Asset:
    """Describe a raster of embeddings: a layer a dimension, then the reflectance."""
    source = raster.source
    is_float = raster.dtype == "float32"
    known = {band.name: band for band in source.bands}
    bands = []
    for name, scale, offset in zip(
        source.layer_names, raster.scales, raster.offsets, strict=True
    ):
        band: _Asset = {"name": name, "data_type": raster.dtype}
        band["nodata"] = "nan" if is_float else -128
        if not is_float:
            band |= {"raster:scale": scale, "raster:offset": offset}
        if name in known:
            micrometres = known[name].wavelength_nm / _NM_PER_UM
            band["eo:center_wavelength"] = micrometres
        bands.append(band)
    encoder = {"spectralgpt:encoder": source.encoder}
    title = "Embedding of each cell"
    return _asset(raster.path, _COG, title, **encoder, bands=bands)


def picture_asset(path: Path, title: str = "Scene and map") -> _Asset:
    """Describe a picture."""
    return _asset(path, "image/png", title, roles=["thumbnail", "overview"])


def write_item(
    path: Path,
    grid: Grid,
    assets: Mapping[str, _Asset],
    dates: Sequence[datetime.date | None],
    model: str,
) -> Path | None:
    """Write a STAC item; the same bytes for the same map.

    Args:
        path: the JSON file; assets lie beside it.
        grid: where the pixels lie.
        assets: by key.
        dates: days that are shown.
        model: what made it.

    Returns:
        The file; None without a georeference or a day, which a STAC item must have.

    Raises:
        OutputError: it cannot be written.
    """
    corners = footprint_lonlat(grid)
    known = sorted(day for day in dates if day is not None)
    if corners is None or grid.transform is None or not known:
        return None
    t = grid.transform
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [*_EXTENSIONS, *_extensions_of(assets)],
        "id": path.stem,
        **_place(corners),
        "properties": {
            **_times(known),
            "proj:code": epsg_code(grid.crs),
            "proj:shape": [grid.height, grid.width],
            "proj:transform": [t.a, t.b, t.c, t.d, t.e, t.f],
            "processing:software": {"spectralgpt": __version__},
            **({"spectralgpt:model": model} if model else {}),
        },
        "links": [],
        "assets": dict(assets),
    }
    write_json(path, item)
    return path


def _place(corners: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return geometry and box; across 180 degrees the box's west is above its east.

    Source: RFC 7946, sections 3.1.9 and 5.2.
    """
    from shapely import Polygon, get_parts

    rings = [
        [[round(x, 7), round(y, 7)] for x, y in part.exterior.coords]
        for part in get_parts(cut_at_180(Polygon(corners)))
    ]
    easts, norths = zip(*corners, strict=True)
    east = max(easts) - (_TURN if max(easts) > _TURN / 2 else 0)
    box = [min(easts), min(norths), east, max(norths)]
    is_one = len(rings) == 1
    return {
        "geometry": {
            "type": "Polygon" if is_one else "MultiPolygon",
            "coordinates": rings if is_one else [[ring] for ring in rings],
        },
        "bbox": [round(value, 7) for value in box],
    }


def _extensions_of(assets: Mapping[str, _Asset]) -> list[str]:
    """Return the extensions that only some assets need."""
    bands = [band for asset in assets.values() for band in asset.get("bands", ())]
    return [
        schema
        for key, schema in _NUMBER_EXTENSIONS.items()
        if any(key in band for band in bands)
    ]


def _times(days: Sequence[datetime.date]) -> dict[str, str | None]:
    """Return the times of one day, or of a span of days."""
    first, last = days[0].isoformat(), days[-1].isoformat()
    if first == last:
        return {"datetime": f"{first}T00:00:00Z"}
    return {
        "datetime": None,
        "start_datetime": f"{first}T00:00:00Z",
        "end_datetime": f"{last}T23:59:59Z",
    }


def _identifier(name: str, value: int) -> str:
    """Return a name of letters, digits, hyphens and lines, as the extension asks."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return plain.strip("_") or f"class_{value}"
