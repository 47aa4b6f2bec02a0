"""The addresses that the page asks, and what they answer; who may ask, and how.

Numbers and names in addresses are believed within bounds only. Answers are plain values
for JSON, or pictures.
"""

import io
import json
import logging
import math
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spectralgpt import __version__
from spectralgpt.errors import SpectralGPTError
from spectralgpt.rasters import Window
from spectralgpt.rasters.footprints import epsg_code, pixel_size_m
from spectralgpt.rasters.grid import Grid, apply
from spectralgpt.rasters.lookup import shown_grid
from spectralgpt.reports.style import ERROR_COLOURS
from spectralgpt.viewer.contents import RequestError, View, Viewer
from spectralgpt.viewer.layers import (
    LIKENESS_COLOURS,
    LIKENESS_LIMITS,
    MEASURE_COLOURS,
    Cells,
    MapLayer,
    Picture,
)
from spectralgpt.viewer.model import ANGLE_LIMITS, KINDS, Rebuilt

_LOG = logging.getLogger(__name__)
_TILE_PX = 256
_MOST_LEVELS = 16
_MOST_SEED = 10**6
_MOST_RATIO = 0.95
_LONGEST_NUMBER = 12
_LONGEST_LIST = 200
_MOST_PX = 10**7
_KEEP = {"cache-control": "private, max-age=3600"}
"""Ids differ between runs, so that what a browser keeps is never another file's."""
_ASK = {"cache-control": "no-store"}
_WRONG, _NOT_FOUND, _UNFIT, _INTERNAL = 400, 404, 422, 500
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_OWN_HOSTS = ("127.0.0.1", "localhost")
_METHODS = ("GET", "HEAD")
_OWN_SITES = (b"same-origin", b"none")
_MOST_REQUESTS = 64
"""Answered at once."""
_LONGEST_ADDRESS = 2048
_DIGITS = 5
_LEGEND_STEPS = 9


def make_app(viewer: Viewer, port: int) -> ASGIApp:
    """Return the application that serves a page.

    Args:
        viewer: what is shown.
        port: that it is served at; other Host headers are refused.
    """
    return _Guard(
        Starlette(
            routes=_Answers(viewer).routes(),
            exception_handlers={HTTPException: _explain_route},
        ),
        port,
    )


class _Answers:
    """One method per address."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer, self._files = viewer, _page_files()

    def routes(self) -> list[Route]:
        view = "/api/views/{view}"
        tile = "{level}/{tile_row}/{tile_column}"
        answers: dict[str, Callable[[Request], Response]] = {
            "/": self.page,
            "/static/{name}": self.page,
            "/api/state": self.state,
            view + "/tiles/" + tile: self.picture_tile,
            view + "/pixel": self.pixel,
            view + "/maps/{map}/tiles/" + tile: self.map_tile,
            view + "/rebuild": self.rebuild,
            view + "/embed": self.embed,
            view + "/similar/{source}": self.similar,
            view + "/similar/{source}/tiles/" + tile: self.similar_tile,
            "/api/rebuilt/{rebuilt}/{kind}": self.rebuilt_picture,
        }
        return [Route(path, _explained(answer)) for path, answer in answers.items()]

    def page(self, request: Request) -> Response:
        found = self._files.get(request.path_params.get("name", "index.html"))
        if found is None:
            raise RequestError(_NOT_FOUND, "there is no such page.")
        return Response(
            found[0], media_type=found[1], headers={"cache-control": "no-cache"}
        )

    def state(self, request: Request) -> Response:
        return JSONResponse(_describe_viewer(self._viewer), headers=_ASK)

    def picture_tile(self, request: Request) -> Response:
        view = self._view(request)
        if view.pictures is None:
            raise RequestError(_NOT_FOUND, f"{view.name} has no bands.")
        return _image(
            view.pictures.draw(_names(request, "bands"), _tile(request, view))
        )

    def map_tile(self, request: Request) -> Response:
        view = self._view(request)
        layer, index = self._map(request, view, request.path_params["map"])
        return _image(layer.draw(index, _tile(request, view), view.base))

    def pixel(self, request: Request) -> Response:
        view = self._view(request)
        at = _pixel(request, view)
        layer, index = None, 0
        id = request.query_params.get("map")
        if id is not None:
            layer, index = self._map(request, view, id)
        rebuilt = None
        if "rebuilt" in request.query_params:
            rebuilt = self._rebuilt(request.query_params["rebuilt"], view)[1]
        found = _describe_pixel(view, at, rebuilt, layer, index)
        return JSONResponse(found, headers=_ASK)

    def rebuild(self, request: Request) -> Response:
        view = self._view(request)
        place = _seen_window(request, view)
        ratio = _number(request, "mask_ratio", 0, _MOST_RATIO, 0.75)
        seed = _integer(request, "seed", 0, _MOST_SEED, default=0)
        id = self._viewer.rebuild(view, place, ratio, seed)
        made = self._rebuilt(id, view)[1]
        window, scores = made.window.window, made.scores.as_dict()
        answer = {
            "id": id,
            "window": vars(window),
            "mask_ratio": ratio,
            "bands": [band.name for band in made.bands],
            "scores": {name: v for name, v in scores.items() if name != "bands"},
        }
        return JSONResponse(answer, headers=_ASK)

    def rebuilt_picture(self, request: Request) -> Response:
        view, made = self._rebuilt(request.path_params["rebuilt"])
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise RequestError(_NOT_FOUND, f"kinds are {', '.join(KINDS)}.")
        assert view.pictures is not None
        bands = view.pictures.choose(_names(request, "bands"))
        return _image(made.draw(kind, bands, view.pictures.stretch(bands)))

    def embed(self, request: Request) -> Response:
        view = self._view(request)
        place = _seen_window(request, view)
        picked = _pixel(request, view)
        id, window = self._viewer.embed(view, place, picked)
        level = self._viewer.cells(view, id).level
        answer = {"id": id, "window": vars(window), "level": level}
        return JSONResponse(answer, headers=_ASK)

    def similar(self, request: Request) -> Response:
        view = self._view(request)
        row, column = _pixel(request, view)
        # Told before a screen of tiles is asked for.
        self._cells(request, view).query_at(row, column)
        return JSONResponse({"row": row, "column": column}, headers=_ASK)

    def similar_tile(self, request: Request) -> Response:
        view = self._view(request)
        row, column = _pixel(request, view)
        cells = self._cells(request, view)
        return _image(cells.draw(cells.query_at(row, column), _tile(request, view)))

    def _view(self, request: Request) -> View:
        found = self._viewer.views.get(request.path_params["view"])
        if found is None:
            raise RequestError(_NOT_FOUND, "there is no such scene: reload the page.")
        return found

    def _cells(self, request: Request, view: View) -> Cells:
        return self._viewer.cells(view, request.path_params["source"])

    def _map(self, request: Request, view: View, id: str) -> tuple[MapLayer, int]:
        if id not in view.maps:
            raise RequestError(_NOT_FOUND, "there is no such map.")
        layer = self._viewer.maps[id]
        last = len(layer.map.layers) - 1
        return layer, _integer(request, "layer", 0, last, default=0)

    def _rebuilt(self, id: str, view: View | None = None) -> tuple[View, Rebuilt]:
        found = self._viewer.rebuilt.get(id)
        if found is None or (view is not None and found[0] is not view):
            raise RequestError(_NOT_FOUND, "this is kept no more: rebuild it again.")
        return found


def _tile(request: Request, view: View) -> Grid:
    """Return the grid of the tile asked for; level 0 shows every pixel."""
    level = _integer(request, "level", 0, _MOST_LEVELS)
    step = 2**level
    sides = view.base.height, view.base.width
    last = [-(-side // (step * _TILE_PX)) - 1 for side in sides]
    row = _integer(request, "tile_row", 0, last[0])
    column = _integer(request, "tile_column", 0, last[1])
    span = step * _TILE_PX
    return shown_grid(view.base, row * span, column * span, step, _TILE_PX)


def _image(picture: Picture) -> Response:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture), "RGBA").save(
        file, "PNG", compress_level=1
    )
    return Response(file.getvalue(), media_type="image/png", headers=_KEEP)


def _error(status: int, message: str) -> Response:
    """Return the one line of JSON that every error is."""
    body = json.dumps({"error": " ".join(message.split())}).encode() + b"\n"
    return Response(body, status, media_type="application/json", headers=_ASK)


def _explained(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Turn whatever goes wrong into one line of JSON."""

    @wraps(answer)
    def explained(request: Request) -> Response:
        try:
            return answer(request)
        except RequestError as error:
            return _error(error.status, str(error))
        except SpectralGPTError as error:
            return _error(_UNFIT, str(error))
        except Exception as error:  # A fault of ours must not end the server.
            _LOG.error("%s failed: %r", request.url.path, error)
            return _error(_INTERNAL, f"this failed: {type(error).__name__}.")

    return explained


def _explain_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"there is nothing here: {error.detail}.")


def _page_files() -> dict[str, tuple[bytes, str]]:
    """Return bytes and type of each file of the page that ships, and of no others."""
    folder = files(__package__) / "static"
    return {
        file.name: (file.read_bytes(), _TYPES[suffix])
        for each in (folder, folder / "leaflet")
        for file in each.iterdir()
        for suffix in _TYPES
        if file.name.endswith(suffix)
    }


def _integer(
    request: Request, name: str, low: int, high: int, default: int | None = None
) -> int:
    """Read a whole number from the path or the query."""
    text = _text(request, name)
    if text is None and default is not None:
        return default
    digits = (text or "").removeprefix("-")
    is_whole = (
        digits.isascii() and digits.isdecimal() and len(digits) <= _LONGEST_NUMBER
    )
    if text is None or not is_whole or not low <= int(text) <= high:
        raise RequestError(
            _WRONG, f"{name} must be a whole number from {low} to {high}."
        )
    return int(text)


def _number(
    request: Request, name: str, low: float, high: float, default: float
) -> float:
    text = _text(request, name)
    try:
        value = default if text is None else float(text[:_LONGEST_NUMBER])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise RequestError(_WRONG, f"{name} must be a number from {low:g} to {high:g}.")
    return value


def _names(request: Request, name: str) -> list[str]:
    """Read names with commas between."""
    text = _text(request, name) or ""
    if not 0 < len(text) <= _LONGEST_LIST:
        raise RequestError(_WRONG, f"{name} must be names with commas between.")
    return text.split(",")


def _pixel(request: Request, view: View) -> tuple[int, int]:
    """Read row and column of a pixel of the view."""
    return (
        _integer(request, "row", 0, view.base.height - 1),
        _integer(request, "column", 0, view.base.width - 1),
    )


def _seen_window(request: Request, view: View) -> Window:
    """Read which part of the view is looked at; it may reach beyond it."""
    return Window(
        _integer(request, "top", 0, view.base.height - 1),
        _integer(request, "left", 0, view.base.width - 1),
        _integer(request, "height", 1, _MOST_PX),
        _integer(request, "width", 1, _MOST_PX),
    )


def _text(request: Request, name: str) -> str | None:
    found = request.path_params.get(name, request.query_params.get(name))
    return None if found is None else str(found)


class _Guard:
    """Refuses what a page of this machine would not ask.

    A page of another site could reach this server by a name of its own that it lets
    point to 127.0.0.1 (DNS rebinding): the Host header gives that away.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app, self._answering = app, 0
        self._hosts = {f"{host}:{port}".encode() for host in _OWN_HOSTS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refuse(scope)
        if refusal is not None:
            await _error(*refusal)(scope, receive, _with_headers(send))
            return
        self._answering += 1
        try:
            await self._app(scope, receive, _with_headers(send))
        finally:
            self._answering -= 1

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        if headers.get(b"host", b"").lower() not in self._hosts:
            return 403, "this server answers 127.0.0.1 and localhost alone."
        # Browsers say which site a request comes from; other programs say nothing.
        if headers.get(b"sec-fetch-site", b"none") not in _OWN_SITES:
            return 403, "this server answers its own page alone."
        if scope["method"] not in _METHODS:
            return 405, "this server is read-only: it answers GET alone."
        address = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if address > _LONGEST_ADDRESS:
            return 414, f"the address is longer than {_LONGEST_ADDRESS} characters."
        if self._answering >= _MOST_REQUESTS:
            return 503, "too many requests at once: try again soon."
        return None


def _with_headers(send: Send) -> Send:
    extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return with_headers


def _describe_viewer(viewer: Viewer) -> dict[str, Any]:
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
    size = pixel_size_m(view.base)
    return {
        "id": view.id,
        "name": view.name,
        "height": view.base.height,
        "width": view.base.width,
        "pixel_m": size[1] if size is not None else None,
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
            {"name": name, "colour": layer.map.colours[code]}
            for code, name in layer.map.names.items()
        ],
        "ramps": [_ramp(MEASURE_COLOURS, limits) for limits in layer.limits],
        "unit": layer.map.unit,
    }


def _ramp(colours: str, limits: tuple[float, float]) -> dict[str, Any]:
    """Return colours such as "#440154" along a colour map, the lowest first."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shown = map(to_hex, colormaps[colours](np.linspace(0, 1, _LEGEND_STEPS)))
    return {"colours": list(shown), "low": limits[0], "high": limits[1]}


def _describe_pixel(
    view: View,
    at: tuple[int, int],
    rebuilt: Rebuilt | None = None,
    layer: MapLayer | None = None,
    index: int = 0,
) -> dict[str, Any]:
    """Describe a pixel: place, spectrum, what was rebuilt, what a map holds."""
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
