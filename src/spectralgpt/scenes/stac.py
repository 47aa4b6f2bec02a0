"""STAC items that describe maps: where and when, and which file holds what.

Source: SpatioTemporal Asset Catalog 1.1.0, with its extensions projection 2.0.0,
classification 2.0.0, processing 1.2.0, raster 2.0.0 and eo 2.0.0.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectralgpt import __version__
from spectralgpt.files import may_replace, write_json
from spectralgpt.rasters import Grid
from spectralgpt.rasters.footprints import cut_at_180, epsg_code, footprint_lonlat

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
_TURN = 360
_Asset = dict[str, Any]


def describe_asset(
    path: Path, title: str, media: str = _COG, **more: Any
) -> dict[str, Any]:
    """Describe a file beside the item.

    Args:
        path: the file.
        title: what it is.
        media: its type.
        **more: what else the item is to say of it, such as `bands`.
    """
    said = {"href": f"./{path.name}", "type": media, "title": title}
    return {**said, "roles": ["data"], **more}


def write_item(
    path: Path,
    grid: Grid,
    assets: Mapping[str, _Asset],
    dates: Sequence[datetime.date | None],
    model: str,
    picture: str,
) -> Path | None:
    """Write a STAC item; the same bytes for the same map.

    Args:
        path: the map; the item, and its assets, lie beside it. A PNG of the same name
            is an asset, too.
        grid: where the pixels lie.
        assets: by key.
        dates: days that are shown.
        model: what made it.
        picture: title of the PNG.

    Returns:
        The file; None without a georeference or a day, which a STAC item must have, or
        where it would replace what others made.

    Raises:
        OutputError: it cannot be written.
    """
    corners = footprint_lonlat(grid)
    known = sorted(day for day in dates if day is not None)
    if corners is None or grid.transform is None or not known:
        return None
    assets, png = dict(assets), path.with_suffix(".png")
    if png.is_file():
        roles = ["thumbnail", "overview"]
        quicklook = describe_asset(png, picture, "image/png", roles=roles)
        assets["quicklook"] = quicklook
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
        "assets": assets,
    }
    made = path.with_suffix(".json")
    if not may_replace(made):
        return None
    write_json(made, item)
    return made


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
