"""What the page is told, as plain values for JSON."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from spectralgpt import __version__
from spectralgpt.rasters.footprints import epsg_code
from spectralgpt.rasters.grid import apply
from spectralgpt.rasters.lookup import shown_grid
from spectralgpt.reports.style import ERROR_COLOURS
from spectralgpt.viewer.contents import View, Viewer
from spectralgpt.viewer.model import ANGLE_LIMITS, Rebuilt
from spectralgpt.viewer.overlays import (
    LIKENESS_COLOURS,
    LIKENESS_LIMITS,
    MEASURE_COLOURS,
    MapLayer,
)
from spectralgpt.viewer.pictures import legend_colours

_DIGITS = 5


def describe_viewer(viewer: Viewer) -> dict[str, Any]:
    """Describe all that can be shown, by id."""
    model = viewer.model
    return {
        "version": __version__,
        "model": None if model is None else Path(model.name).name,
        "can_rebuild": model is not None and model.can_rebuild,
        "views": [_describe_view(viewer, view) for view in viewer.views.values()],
        "maps": {id: _describe_map(viewer, layer) for id, layer in viewer.maps.items()},
        "legends": {
            "likeness": _ramp(LIKENESS_COLOURS, LIKENESS_LIMITS),
            "angle": _ramp(ERROR_COLOURS, ANGLE_LIMITS),
        },
    }


def _describe_view(viewer: Viewer, view: View) -> dict[str, Any]:
    item, pictures, model = view.item, view.pictures, viewer.model
    return {
        "id": view.id,
        "name": view.name,
        "height": view.base.height,
        "width": view.base.width,
        "crs": epsg_code(view.base.crs) or ("" if view.base.crs is None else "own"),
        "sensor": None if item is None else item.sensor.title,
        "date": None if item is None or item.date is None else str(item.date),
        "bands": [
            {"name": band.name, "wavelength_nm": band.wavelength_nm}
            for band in (pictures.bands if pictures else ())
        ],
        "composites": [
            {"name": each.name, "bands": each.band_names}
            for each in (pictures.composites if pictures else ())
        ],
        "maps": view.maps,
        "embeddings": [
            {"id": id, "name": viewer.names[cells.path], "level": cells.level}
            for id, cells in view.cells.items()
            if cells.path is not None
        ],
        # Why the model cannot be used here; "" if it can.
        "refused": _refusal(view, viewer) if model is not None else "no model is named",
    }


def _refusal(view: View, viewer: Viewer) -> str:
    assert viewer.model is not None
    if view.item is None:
        return "the model takes scenes, and this is none"
    return viewer.model.refuses(view.item) or ""


def _describe_map(viewer: Viewer, layer: MapLayer) -> dict[str, Any]:
    return {
        "name": viewer.names[layer.map.path],
        "kind": layer.map.kind,
        "layers": layer.map.layers,
        "classes": [
            {"name": each.name, "colour": each.colour} for each in layer.map.classes
        ],
        "ramps": [_ramp(MEASURE_COLOURS, limits) for limits in layer.limits],
    }


def _ramp(colours: str, limits: tuple[float, float]) -> dict[str, Any]:
    return {"colours": legend_colours(colours), "low": limits[0], "high": limits[1]}


def describe_pixel(
    view: View,
    at: tuple[int, int],
    rebuilt: Rebuilt | None = None,
    layer: MapLayer | None = None,
    index: int = 0,
) -> dict[str, Any]:
    """Describe a pixel: place, spectrum, what was rebuilt, what a map holds.

    Args:
        view: what is looked at.
        at: row and column.
        rebuilt: a window that was rebuilt.
        layer: a map over the view.
        index: which layer of it.

    Raises:
        RasterError: a file cannot be read.
    """
    row, column = at
    found: dict[str, Any] = {"row": row, "column": column}
    if view.base.transform is not None:
        x, y = apply(view.base.transform, column + 0.5, row + 0.5)
        found |= {"x": x, "y": y}
    if view.pictures is not None:
        shown = shown_grid(view.base, row, column, 1, 1)
        pixels, valid = view.pictures.read(view.pictures.bands, shown)
        found["spectrum"] = [
            _plain(value) if is_valid else None
            for value, is_valid in zip(pixels[:, 0, 0], valid[:, 0, 0], strict=True)
        ]
    if rebuilt is not None and view.pictures is not None:
        found["rebuilt"] = _rebuilt_spectrum(view, rebuilt, row, column)
    if layer is not None:
        found["map"] = layer.name_of(index, row, column, view.base)
    return found


def _rebuilt_spectrum(
    view: View, rebuilt: Rebuilt, row: int, column: int
) -> list[float | None] | None:
    """Rebuilt values in the order of the view's bands, None where nothing was hidden.

    What the model says of what it saw was never trained, and means nothing.
    """
    found = rebuilt.spectrum(row, column)
    if found is None:
        return None
    assert view.pictures is not None
    by_band = {
        band: _plain(value) if is_hidden else None
        for band, value, is_hidden in zip(rebuilt.bands, *found, strict=True)
    }
    return [by_band.get(band) for band in view.pictures.bands]


def _plain(value: np.floating) -> float | None:
    number = float(value)
    return round(number, _DIGITS) if math.isfinite(number) else None
