"""Classes: what the codes in masks mean, which one scores are about, their colours."""

import colorsys
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spectralgpt.data.samples import CHANGE
from spectralgpt.errors import ConfigError

_ALL_ALIKE = "all"
"""In place of a positive class: scores are about all classes alike."""

_BACKGROUND = frozenset(
    {
        *("background", "bg", "other", "others", "rest", "else", "nothing", "none"),
        *("negative", "normal", "stable", "same", "intact", "unaffected"),
        *("undamaged", "unburned", "unburnt", "unchanged", "nochange"),
    }
)
_NEGATIONS = ("no", "not", "non", "un", "without")
# Told apart by people with any kind of colour vision: the further twelve are chosen so
# that no two of the twenty are closer to each other than the closest of the first.
# Source: Okabe & Ito 2008, Color Universal Design, https://jfly.uni-koeln.de/color/
CATEGORY_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7",
    "#56B4E9", "#D55E00", "#F0E442", "#000000",
    "#A500FF", "#3C005A", "#0F3C1E", "#E1E1FF",
    "#5AFF96", "#A578FF", "#F0005A", "#3C00A5",
    "#96005A", "#B4A54B", "#5A4B00", "#A5F0C3",
)  # fmt: skip
_COVERS = (
    # What is not there, and what a mask calls the rest.
    (("#D9DCDE", "#C2BDB3"), "no", "non", "not", "without", "unchanged", "undamaged",
     "unburn", "intact", "background", "other", "nothing", "unclassified"),
    (("#3D1A12", "#7F2704", "#000000"), "burn", "fire", "wildfire", "char"),
    (("#D55E00", "#E7298A"), "change", "damage", "dead", "dieback", "deforest", "loss"),
    (("#5B6067",), "shadow"),
    (("#A8ABB0", "#85898F"), "cloud", "cirrus", "haze", "fog", "smoke"),
    (("#F4F9FC", "#C7E9F5"), "snow", "ice", "glacier", "firn"),
    (("#44AA99", "#117A65", "#88CCBB"), "wetland", "marsh", "swamp", "bog", "mangrove",
     "peat", "moor", "flooded"),
    (("#CC3311", "#7D858C", "#EE99AA", "#882255"), "built", "build", "urban", "town",
     "city", "road", "highway", "street", "settlement", "house", "roof", "residential",
     "industrial", "commercial", "impervious", "artificial", "sealed", "airport",
     "rail", "port", "bridge"),
    (("#F0C420", "#FFF0A0", "#C2A60A", "#E69F00"), "crop", "field", "farm", "agri",
     "arable", "cultivat", "rice", "paddy", "vineyard", "orchard", "wheat", "maize"),
    (("#A6D854", "#DDEB9A"), "grass", "range", "meadow", "pasture",
     "herbaceous", "lawn"),
    (("#7F8C1F", "#B5BD61"), "shrub", "scrub", "bush", "heath"),
    (("#009E73", "#00572F", "#66BD63", "#2E8B2E"), "tree", "forest", "wood",
     "vegetation", "plant", "canopy", "healthy"),
    (("#0072B2", "#56B4E9", "#08306B", "#9ECAE1"), "water", "river", "lake", "sea",
     "ocean", "pond", "lagoon", "reservoir", "flood", "stream", "canal", "estuary"),
    (("#A6703F", "#DDB98A", "#6B4423", "#CDA434"), "bare", "barren", "soil", "rock",
     "sand", "beach", "dune", "desert", "mine", "dump", "quarry", "gravel", "mud",
     "sediment", "land", "ground", "dry", "open"),
)  # fmt: skip
"""Colours that a reader expects of a cover, and words that such names begin with.

The first group with a fitting word counts: burnt forest is burnt, sea ice is ice.
"""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_WHOLE = 4
"""Words shorter than this must be there whole: ice is no part of a name, nor is no."""
_LEVELS = 255
_LIGHTNESS, _SATURATION = (0.38, 0.55, 0.72), 0.65
_APART = 75.0
"""Least distance of colours that are told apart, see `_distance`."""
_APART_BLIND = 50.0
"""The same as people without one kind of cone see them."""
# Linear (red, green, blue) without the cones for long, middle and short waves.
# Source: Machado, Oliveira & Fernandes 2009, severity 1.
_BLINDNESS = (
    ((0.1523, 1.0526, -0.2049), (0.1145, 0.7863, 0.0992), (-0.0039, -0.0481, 1.0520)),
    ((0.3673, 0.8606, -0.2280), (0.2801, 0.6725, 0.0474), (-0.0118, 0.0429, 0.9689)),
    ((1.2555, -0.0767, -0.1788), (-0.0784, 0.9308, 0.1476), (0.0047, 0.6914, 0.3039)),
)
_GAMMA = 2.2
_WHEEL = 96


Classes = tuple[tuple[str, ...], dict[int, int]]
"""Names in the order of the class indices, and the class index of each code."""


def name_classes(
    classes: Mapping[str, int | Sequence[int]], ignored: Sequence[int] = ()
) -> Classes:
    """Number classes by the code, or codes, of each by its name.

    Raises:
        ConfigError: a code stands for two classes, or for one and none.
    """
    codes: dict[int, int] = {}
    for index, (name, stated) in enumerate(classes.items()):
        for code in [stated] if isinstance(stated, int) else stated:
            if code in codes or code in ignored:
                other = list(classes)[codes[code]] if code in codes else "ignored"
                raise ConfigError(f"data.classes: code {code} is {name} and {other}.")
            codes[int(code)] = index
    if not codes:
        raise ConfigError("data.classes names no class: state each one's code.")
    return tuple(classes), codes


def find_positive(
    names: Sequence[str], task: str, stated: str | None = None
) -> str | None:
    """Find the class that F1, IoU and the choice of weights are about.

    It is found by name, never by order: of two classes, the one that is not
    called background, unchanged, no change, other or the like.

    Args:
        names: of all classes.
        task: "segmentation" or "change".
        stated: its name, `_ALL_ALIKE`, or None if nobody says.

    Returns:
        The name; None where all classes count alike: if that is stated, and by default
        for more than two classes, unless one alone of a change map is no background.

    Raises:
        ConfigError: the stated class is unknown, or names do not tell it.
    """
    if stated in names:
        return stated
    if stated is not None:
        if stated == _ALL_ALIKE:
            return None
        raise ConfigError(
            f"data.positive is {stated!r}; the classes are {', '.join(names)}."
        )
    found = [name for name in names if not _is_background(name, names)]
    if len(names) > 2:
        return found[0] if task == CHANGE and len(found) == 1 else None
    if len(names) == 2 and len(found) != 1:
        raise ConfigError(
            f"which of the classes {names[0]!r} and {names[1]!r} F1 and IoU are about "
            f"cannot be told from their names. Set data.positive to it, or to "
            f"{_ALL_ALIKE} if both count alike (with --masks: `positive: ...` in the "
            "file)."
        )
    return found[0] if len(names) == 2 else None


def _is_background(name: str, names: Sequence[str]) -> bool:
    """Tell by its name whether a class is what is left beside the others."""
    words = re.split(r"[\W_]+", name.casefold().strip())
    plain = "".join(words)
    negated = {
        negation + "".join(re.split(r"[\W_]+", other.casefold()))
        for negation in _NEGATIONS
        for other in names
        if other != name
    }
    has_negation = len(words) > 1 and words[0] in _NEGATIONS
    return plain in _BACKGROUND or has_negation or plain in negated


def class_colours(
    names: Sequence[str], stated: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Give each class a different colour such as "#0072B2", one that fits its name.

    Classes whose names say nothing get colours that everyone can tell apart.

    Args:
        names: of the classes.
        stated: colours that are fixed, by name.
    """
    chosen = {name: (stated or {})[name] for name in names if name in (stated or {})}
    for name in names:
        shades = _shades(name) if name not in chosen else ()
        free = [shade for shade in shades if _is_free(shade, chosen.values())]
        if free:
            chosen[name] = free[0]
    for name in names:
        if name not in chosen:
            chosen[name] = _next_free(list(chosen.values()))
    return {name: chosen[name] for name in names}


def _shades(name: str) -> tuple[str, ...]:
    words = [word.lower() for word in _WORD.findall(name)]
    for shades, *starts in _COVERS:
        for start in starts:
            if any(_fits(word, start) for word in words):
                return shades
    return ()


def _fits(word: str, start: str) -> bool:
    if len(start) < _WHOLE:
        return word in (start, f"{start}s")
    return word.startswith(start)


def _is_free(colour: str, others: Iterable[str]) -> bool:
    return all(_are_apart(colour, other) for other in others)


def _are_apart(first: str, second: str) -> bool:
    one, two = to_rgb(first), to_rgb(second)
    return _distance(one, two) >= _APART and all(
        _distance(_seen(one, blindness), _seen(two, blindness)) >= _APART_BLIND
        for blindness in _BLINDNESS
    )


def _seen(colour: Sequence[float], blindness: Sequence[Sequence[float]]) -> list[float]:
    linear = [(part / _LEVELS) ** _GAMMA for part in colour]
    mixed = (sum(map(operator.mul, row, linear)) for row in blindness)
    return [_LEVELS * min(max(part, 0.0), 1.0) ** (1 / _GAMMA) for part in mixed]


def _next_free(others: Sequence[str]) -> str:
    """Return a colour apart from others, or as far from them as there is one."""
    every = [*CATEGORY_COLOURS, *(_on_wheel(i, _WHEEL) for i in range(_WHEEL))]
    for colour in every:
        if _is_free(colour, others):
            return colour
    rgb = [to_rgb(other) for other in others]
    return max(every, key=lambda c: min(_distance(to_rgb(c), other) for other in rgb))


def _distance(one: Sequence[float], two: Sequence[float]) -> float:
    """Weigh red, green and blue as eyes do, 0 to about 765.

    Source: T. Riemersma, Colour metric, https://www.compuphase.com/cmetric.htm
    """
    red = (one[0] + two[0]) / 2
    weights = (2 + red / 256, 4.0, 2 + (_LEVELS - red) / 256)
    squares = [w * (a - b) ** 2 for w, a, b in zip(weights, one, two, strict=True)]
    return math.sqrt(sum(squares))


def _on_wheel(index: int, count: int) -> str:
    lightness = _LIGHTNESS[index % len(_LIGHTNESS)]
    parts = colorsys.hls_to_rgb(index / count, lightness, _SATURATION)
    return "#" + "".join(f"{round(_LEVELS * part):02X}" for part in parts)


def describe_classes(classes: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Describe classes, (name, colour) in the order of their numbers, for STAC.

    Source: STAC's classification extension 2.0.0; its names hold letters, digits,
    hyphens and lines.
    """
    plain = [
        "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_")
        for name, _ in classes
    ]
    return [
        {
            "value": value,
            "name": plain[value] or f"class_{value}",
            "title": name,
            "color_hint": colour.removeprefix("#").upper(),
        }
        for value, (name, colour) in enumerate(classes)
    ]


def to_rgb(colour: str) -> tuple[int, int, int]:
    """Return (red, green, blue), 0..255, of a colour such as "#0072B2"."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
