"""Numbers and names in addresses, within bounds: nothing else is believed."""

import math

from starlette.requests import Request

from spectralgpt.rasters import Window

__all__ = ["RequestError", "integer", "names", "number", "pixel", "seen_window"]

_LONGEST_NUMBER = 12
_LONGEST_LIST = 200
_MOST_PX = 10**7


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: of the answer.
        message: what was wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def integer(
    request: Request, name: str, low: int, high: int, default: int | None = None
) -> int:
    """Read a whole number from the path or the query.

    Raises:
        RequestError: it is missing, no whole number, or out of bounds.
    """
    text = _text(request, name)
    if text is None and default is not None:
        return default
    digits = (text or "").removeprefix("-")
    is_whole = (
        digits.isascii() and digits.isdecimal() and len(digits) <= _LONGEST_NUMBER
    )
    if text is None or not is_whole or not low <= int(text) <= high:
        raise RequestError(400, f"{name} must be a whole number from {low} to {high}.")
    return int(text)


def number(
    request: Request, name: str, low: float, high: float, default: float
) -> float:
    """Read a number of the query.

    Raises:
        RequestError: it is no number, or out of bounds.
    """
    text = _text(request, name)
    try:
        value = default if text is None else float(text[:_LONGEST_NUMBER])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise RequestError(400, f"{name} must be a number from {low:g} to {high:g}.")
    return value


def names(request: Request, name: str) -> list[str]:
    """Read names with commas between.

    Raises:
        RequestError: there is none, or far too many.
    """
    text = _text(request, name) or ""
    if not 0 < len(text) <= _LONGEST_LIST:
        raise RequestError(400, f"{name} must be names with commas between.")
    return text.split(",")


def pixel(request: Request, height: int, width: int) -> tuple[int, int]:
    """Read row and column of a pixel.

    Raises:
        RequestError: they are missing, or outside.
    """
    return (
        integer(request, "row", 0, height - 1),
        integer(request, "column", 0, width - 1),
    )


def seen_window(request: Request, height: int, width: int) -> Window:
    """Read which part of a base is looked at: top, left, height and width.

    Raises:
        RequestError: a number is missing, or out of bounds.
    """
    return Window(
        integer(request, "top", 0, height - 1),
        integer(request, "left", 0, width - 1),
        integer(request, "height", 1, _MOST_PX),
        integer(request, "width", 1, _MOST_PX),
    )


def _text(request: Request, name: str) -> str | None:
    found = request.path_params.get(name, request.query_params.get(name))
    return None if found is None else str(found)
