"""The addresses that the page asks, and what they answer."""

import logging
from collections.abc import Callable
from functools import wraps

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from spectralgpt.errors import SpectralGPTError
from spectralgpt.rasters.geometry import Grid
from spectralgpt.rasters.sampling import shown_grid
from spectralgpt.viewer.contents import GoneError, View, Viewer
from spectralgpt.viewer.descriptions import describe_pixel, describe_viewer
from spectralgpt.viewer.guard import Guard, error_body
from spectralgpt.viewer.likeness import Likeness
from spectralgpt.viewer.model import KINDS, Rebuilt
from spectralgpt.viewer.page import PageFiles
from spectralgpt.viewer.parameters import (
    RequestError,
    integer,
    names,
    number,
    pixel,
    seen_window,
)
from spectralgpt.viewer.pictures import Picture, to_png
from spectralgpt.viewer.work import BusyError

__all__ = ["TILE_PX", "make_app"]

_LOG = logging.getLogger(__name__)
TILE_PX = 256
_MOST_LEVELS = 16
_MOST_SEED = 10**6
_MOST_RATIO = 0.95
_KEEP = {"cache-control": "private, max-age=3600"}
"""Ids differ between runs, so that what a browser keeps is never another file's."""
_ASK = {"cache-control": "no-store"}
_NOT_FOUND, _UNFIT, _INTERNAL, _BUSY = 404, 422, 500, 503


def make_app(viewer: Viewer, port: int) -> ASGIApp:
    """Return the application that serves a page.

    Args:
        viewer: what is shown.
        port: that it is served at; other Host headers are refused.
    """
    return Guard(
        Starlette(
            routes=_Answers(viewer).routes(),
            exception_handlers={
                HTTPException: _explain_route,
            },
        ),
        port,
    )


class _Answers:
    """One method an address."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer, self._files = viewer, PageFiles()

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
        return JSONResponse(describe_viewer(self._viewer), headers=_ASK)

    def picture_tile(self, request: Request) -> Response:
        view = self._view(request)
        if view.pictures is None:
            raise RequestError(_NOT_FOUND, f"{view.name} has no bands.")
        return _image(view.pictures.draw(names(request, "bands"), _tile(request, view)))

    def map_tile(self, request: Request) -> Response:
        view = self._view(request)
        id = request.path_params["map"]
        if id not in view.maps:
            raise RequestError(_NOT_FOUND, "there is no such map.")
        layer = self._viewer.maps[id]
        index = integer(request, "layer", 0, len(layer.map.layers) - 1, default=0)
        return _image(layer.draw(index, _tile(request, view), view.base))

    def pixel(self, request: Request) -> Response:
        view = self._view(request)
        at = pixel(request, view.base.height, view.base.width)
        layer, index = None, 0
        id = request.query_params.get("map")
        if id is not None:
            if id not in view.maps:
                raise RequestError(_NOT_FOUND, "there is no such map.")
            layer = self._viewer.maps[id]
            index = integer(request, "layer", 0, len(layer.map.layers) - 1, default=0)
        rebuilt = None
        if "rebuilt" in request.query_params:
            rebuilt = self._rebuilt(request.query_params["rebuilt"], view)[1]
        found = describe_pixel(view, at, rebuilt, layer, index)
        return JSONResponse(found, headers=_ASK)

    def rebuild(self, request: Request) -> Response:
        view = self._view(request)
        place = seen_window(request, view.base.height, view.base.width)
        ratio = number(request, "mask_ratio", 0, _MOST_RATIO, 0.75)
        seed = integer(request, "seed", 0, _MOST_SEED, default=0)
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
        bands = view.pictures.choose(names(request, "bands"))
        return _image(made.draw(kind, bands, view.pictures.stretch(bands)))

    def embed(self, request: Request) -> Response:
        view = self._view(request)
        place = seen_window(request, view.base.height, view.base.width)
        picked = pixel(request, view.base.height, view.base.width)
        id, window = self._viewer.embed(view, place, picked)
        level = self._viewer.likeness(view, id).level
        answer = {"id": id, "window": vars(window), "level": level}
        return JSONResponse(answer, headers=_ASK)

    def similar(self, request: Request) -> Response:
        view = self._view(request)
        row, column = pixel(request, view.base.height, view.base.width)
        # Told before a screen of tiles is asked for.
        self._likeness(request, view).query_at(row, column)
        return JSONResponse({"row": row, "column": column}, headers=_ASK)

    def similar_tile(self, request: Request) -> Response:
        view = self._view(request)
        row, column = pixel(request, view.base.height, view.base.width)
        likeness = self._likeness(request, view)
        query = likeness.query_at(row, column)
        return _image(likeness.draw(query, _tile(request, view)))

    def _view(self, request: Request) -> View:
        found = self._viewer.views.get(request.path_params["view"])
        if found is None:
            raise RequestError(_NOT_FOUND, "there is no such scene: reload the page.")
        return found

    def _likeness(self, request: Request, view: View) -> Likeness:
        return self._viewer.likeness(view, request.path_params["source"])

    def _rebuilt(self, id: str, view: View | None = None) -> tuple[View, Rebuilt]:
        found = self._viewer.rebuilt.get(id)
        if found is None or (view is not None and found[0] is not view):
            raise RequestError(_NOT_FOUND, "this is kept no more: rebuild it again.")
        return found


def _tile(request: Request, view: View) -> Grid:
    """Return the grid of the tile asked for; level 0 shows every pixel."""
    level = integer(request, "level", 0, _MOST_LEVELS)
    step = 2**level
    sides = view.base.height, view.base.width
    last = [-(-side // (step * TILE_PX)) - 1 for side in sides]
    row = integer(request, "tile_row", 0, last[0])
    column = integer(request, "tile_column", 0, last[1])
    span = step * TILE_PX
    return shown_grid(view.base, row * span, column * span, step, TILE_PX)


def _image(picture: Picture) -> Response:
    return Response(to_png(picture), media_type="image/png", headers=_KEEP)


def _error(status: int, message: str) -> Response:
    body = error_body(message)
    return Response(body, status, media_type="application/json", headers=_ASK)


def _explained(
    answer: Callable[[Request], Response],
) -> Callable[[Request], Response]:
    """Turn whatever goes wrong into one line of JSON."""

    @wraps(answer)
    def explained(request: Request) -> Response:
        try:
            return answer(request)
        except RequestError as error:
            return _error(error.status, str(error))
        except GoneError as error:
            return _error(_NOT_FOUND, str(error))
        except BusyError as error:
            return _error(_BUSY, str(error))
        except SpectralGPTError as error:
            return _error(_UNFIT, str(error))
        except Exception as error:  # A fault of ours must not end the server.
            _LOG.error("%s failed: %r", request.url.path, error)
            return _error(_INTERNAL, f"this failed: {type(error).__name__}.")

    return explained


def _explain_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"there is nothing here: {error.detail}.")
