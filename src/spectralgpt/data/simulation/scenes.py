"""What an image shows: scene classes, mixed landscapes, and changes between two dates.

The ten scene classes carry the names of EuroSAT's. Most of them share their materials,
and images of every class hold stretches of other covers, lanes, farms and brooks: what
sets a class apart is the arrangement.
"""

from typing import Final

import numpy as np

from spectralgpt.data.simulation.landscape import (
    ground,
    paint_fields,
    paint_forest,
    paint_herbaceous,
    paint_lake,
    paint_pasture,
    paint_permanent_crops,
    paint_river,
    paint_snow,
    paint_tree_clumps,
)
from spectralgpt.data.simulation.materials import Layer, Site, clipped
from spectralgpt.data.simulation.terrain import Field, fractal_noise
from spectralgpt.data.simulation.town import (
    paint_farmstead,
    paint_highway,
    paint_industrial,
    paint_residential,
)
from spectralgpt.errors import ConfigError

__all__ = ["SCENE_CLASSES", "paint_landscape", "paint_scene"]

SCENE_CLASSES: Final = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
_RURAL: Final = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Pasture",
    "PermanentCrop",
)
# A lane or brook crosses many images; only broad ones make a highway or a river.
_LANE_M, _BROOK_M = (5.0, 9.0), (5.0, 12.0)
_HIGHWAY_M, _RIVER_M = (24.0, 46.0), (32.0, 130.0)


def paint_scene(site: Site, name: str) -> list[Layer]:
    """Paint an image of one scene class.

    Args:
        site: where and when; its palette is filled.
        name: one of `SCENE_CLASSES`.

    Raises:
        ConfigError: there is no such class.
    """
    rng = site.rng
    if name not in SCENE_CLASSES:
        known = ", ".join(SCENE_CLASSES)
        raise ConfigError(f"unknown scene class '{name}' (known: {known}).")
    if name in _RURAL:
        share = float(rng.uniform(0.08, 0.42)) if rng.random() < 0.65 else 0.0
        layers = _with_part(site, _paint_cover(site, name), _other(site, name), share)
        if rng.random() < 0.2:
            town = "Residential" if rng.random() < 0.5 else "Industrial"
            layers = _with_part(site, layers, town, float(rng.uniform(0.05, 0.22)))
        return layers + _paint_details(site) + paint_snow(site)
    layers = _paint_cover(site, _other(site, name))
    if name == "Highway":
        layers += _paint_details(site)
        layers += paint_highway(site, _width(site, _HIGHWAY_M, 0.12), _bend(site, 0.05))
    elif name == "River":
        layers += _paint_details(site)
        layers += paint_river(site, _width(site, _RIVER_M, 0.25))
    elif name == "SeaLake":
        layers += _paint_details(site) + paint_lake(site, float(rng.uniform(0.3, 1.0)))
    else:
        share = float(rng.uniform(0.4, 1.0))
        layers = _with_part(site, layers, name, share) + _paint_details(site)
    return layers + paint_snow(site)


def paint_landscape(site: Site) -> list[Layer]:
    """Paint a stretch of country where several covers meet."""
    rng = site.rng
    kinds = rng.choice(len(_RURAL), 3, replace=False)
    layers = _paint_cover(site, _RURAL[kinds[0]])
    layers = _with_part(site, layers, _RURAL[kinds[1]], float(rng.uniform(0.2, 0.5)))
    if rng.random() < 0.4:
        layers = _with_part(
            site, layers, _RURAL[kinds[2]], float(rng.uniform(0.1, 0.3))
        )
    if rng.random() < 0.45:
        town = "Residential" if rng.random() < 0.6 else "Industrial"
        layers = _with_part(site, layers, town, float(rng.uniform(0.12, 0.4)))
    layers += _paint_details(site)
    if rng.random() < 0.3:
        layers += paint_highway(site, _width(site, _HIGHWAY_M, 0.12), _bend(site, 0.05))
    water = rng.random()
    if water < 0.25:
        layers += paint_river(site, _width(site, _RIVER_M, 0.25))
    elif water < 0.45:
        layers += paint_lake(site, float(rng.uniform(0.1, 0.45)))
    return layers + paint_snow(site)


def _paint_cover(site: Site, name: str) -> list[Layer]:
    match name:
        case "AnnualCrop":
            return paint_fields(site)
        case "Forest":
            return paint_forest(site)
        case "HerbaceousVegetation":
            return paint_herbaceous(site)
        case "Pasture":
            return paint_pasture(site)
        case "PermanentCrop":
            return paint_permanent_crops(site)
        case "Residential":
            return paint_residential(site)
        case _:
            return paint_industrial(site)


def _other(site: Site, name: str) -> str:
    """Choose a rural cover that is not `name`."""
    others = [cover for cover in _RURAL if cover != name]
    return others[int(site.rng.integers(len(others)))]


def part_of(site: Site, share: float, roughness: float = 1.9) -> Field:
    """Draw a zone of about `share` of the image, at one side of it."""
    u, _ = site.grid.rotated(float(site.rng.uniform(0.0, 2.0 * np.pi)))
    field = u * np.float32(4.0 / site.grid.extent_m)
    field = field + 0.45 * fractal_noise(site.grid, site.rng, roughness)
    level = np.quantile(field[::3, ::3], 1.0 - share)
    zone: Field = (field > level).astype(np.float32)
    return zone


def _with_part(site: Site, layers: list[Layer], name: str, share: float) -> list[Layer]:
    """Let another cover take a share of the image."""
    if share <= 0.0:
        return layers
    if share > 0.97:
        return layers + clipped(_paint_cover(site, name), ground(site))
    return layers + clipped(_paint_cover(site, name), part_of(site, share))


def _paint_details(site: Site) -> list[Layer]:
    """Lanes, brooks, farms and copses that images of any class may hold."""
    rng = site.rng
    layers: list[Layer] = []
    if rng.random() < 0.25:
        layers += paint_tree_clumps(site, float(rng.uniform(0.01, 0.06)), 40.0)
    if rng.random() < 0.2:
        layers += paint_river(site, _width(site, _BROOK_M, 0.03))
    if rng.random() < 0.5:
        layers += paint_highway(site, _width(site, _LANE_M, 0.03), _bend(site, 0.15))
    if rng.random() < 0.3:
        layers += paint_farmstead(site)
    return layers


def _width(site: Site, limits_m: tuple[float, float], most: float) -> float:
    """Draw a width, no more than a share of the image: small images stay readable."""
    return min(float(site.rng.uniform(*limits_m)), most * site.grid.extent_m)


def _bend(site: Site, most: float) -> float:
    return float(site.rng.uniform(0.0, most))
