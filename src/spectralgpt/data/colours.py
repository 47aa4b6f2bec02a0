"""Colours of classes: in the colour tables of masks, and in every figure."""

import colorsys
from collections.abc import Sequence

__all__ = ["CATEGORY_COLOURS", "class_colours", "to_rgb"]

# Told apart by people with any kind of colour vision.
# Source: Okabe & Ito 2008, Color Universal Design, https://jfly.uni-koeln.de/color/
CATEGORY_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)
_BY_WORD = {
    "#0072B2": ("water", "river", "lake", "sea"),
    "#009E73": ("tree", "forest", "wood", "vegetation"),
    "#E69F00": ("crop", "field", "farm", "agri", "arable"),
    "#D55E00": ("built", "urban", "town", "building", "road"),
    "#F0E442": ("grass", "meadow", "pasture"),
    "#56B4E9": ("snow", "ice", "wetland"),
    "#CC79A7": ("bare", "soil", "rock", "sand"),
}
"""Colours that a reader expects of a cover."""
_LEVELS = 255
_LIGHTNESS, _SATURATION = (0.38, 0.55, 0.72), 0.65


def class_colours(names: Sequence[str]) -> dict[str, str]:
    """Give each class a different colour such as "#0072B2".

    Few classes get colours that everyone tells apart: those that fit a cover's name
    first, the others in order.
    """
    if len(names) > len(CATEGORY_COLOURS):
        return {n: _on_wheel(i, len(names)) for i, n in enumerate(names)}
    chosen: dict[str, str] = {}
    for colour, words in _BY_WORD.items():
        fitting = [name for name in names if any(w in name.lower() for w in words)]
        free = [name for name in fitting if name not in chosen]
        if free:
            chosen[free[0]] = colour
    left = [colour for colour in CATEGORY_COLOURS if colour not in chosen.values()]
    return {name: chosen.get(name) or left.pop(0) for name in names}


def _on_wheel(index: int, count: int) -> str:
    lightness = _LIGHTNESS[index % len(_LIGHTNESS)]
    parts = colorsys.hls_to_rgb(index / count, lightness, _SATURATION)
    return "#" + "".join(f"{round(_LEVELS * part):02X}" for part in parts)


def to_rgb(colour: str) -> tuple[int, int, int]:
    """Return (red, green, blue), 0..255, of a colour such as "#0072B2"."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
