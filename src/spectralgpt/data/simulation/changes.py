"""What people, fire and water change between two dates of one place."""

from typing import Final

import numpy as np

from spectralgpt.data.simulation import spectra
from spectralgpt.data.simulation.composition import block_mean
from spectralgpt.data.simulation.landscape import canopy_texture, ground
from spectralgpt.data.simulation.materials import (
    Cover,
    Layer,
    Site,
    bare_soil,
    clipped,
    dry_soil,
    grass,
    open_water,
    shadow,
)
from spectralgpt.data.simulation.terrain import Field, Grid, smooth_noise
from spectralgpt.data.simulation.town import paint_industrial, paint_residential

__all__ = ["CHANGES", "draw_changes", "paint_change"]

CHANGES: Final = ("felling", "fire", "building", "houses", "flood", "quarry")
_BY_COVER: Final = {
    Cover.TREES: ("felling", "fire", "felling"),
    Cover.CROPLAND: ("building", "houses", "flood", "quarry"),
    Cover.GRASSLAND: ("building", "houses", "fire", "quarry"),
    Cover.PERMANENT_CROPS: ("building", "houses"),
    Cover.BARE: ("building",),
}
_TRIES, _MOST, _UNCHANGED_SHARE = 6, 3, 0.2
# A zone changes only where most of it is of one cover.
_LEAST_SHARE = 0.6


def draw_changes(
    grid: Grid, covers: Field, rng: np.random.Generator, factor: int
) -> tuple[list[tuple[str, Field]], Field]:
    """Choose what changes and where.

    Args:
        grid: the fine grid.
        covers: (number of covers, n, n) shares before, n = grid size / factor.
        rng: source of randomness.
        factor: fine cells along one side of a pixel.

    Returns:
        kind and fine zone of each change, and the (n, n) share that changed.
    """
    changed = np.zeros(covers.shape[1:], dtype=np.float32)
    wanted = 0 if rng.random() < _UNCHANGED_SHARE else int(rng.integers(1, _MOST + 1))
    zones: list[tuple[str, Field]] = []
    for _ in range(_TRIES):
        zone = _draw_zone(grid, rng)
        choice = int(rng.integers(12))
        pixels = block_mean(zone, factor)
        shares = (covers * pixels).sum(axis=(1, 2)) / max(float(pixels.sum()), 1e-6)
        main = Cover(int(shares.argmax()))
        is_clear = shares[main] >= _LEAST_SHARE and not np.any(changed * pixels)
        if len(zones) < wanted and is_clear and main in _BY_COVER:
            kinds = _BY_COVER[main]
            zones.append((kinds[choice % len(kinds)], zone))
            changed = np.maximum(changed, pixels)
    return zones, changed


def _draw_zone(grid: Grid, rng: np.random.Generator) -> Field:
    """A block with straight sides, or a patch with irregular ones."""
    u, v = grid.rotated(float(rng.uniform(0.0, np.pi)))
    center = rng.uniform(-0.4, 0.4, 2) * grid.extent_m
    u, v = u - np.float32(center[0]), v - np.float32(center[1])
    half_u, half_v = rng.uniform(0.06, 0.17, 2) * grid.extent_m
    bumps = np.float32(0.35 * half_v) * smooth_noise(grid, rng, float(half_u))
    if rng.random() < 0.5:
        return grid.coverage(np.minimum(half_u - np.abs(u), half_v - np.abs(v)))
    return grid.coverage(half_u - np.hypot(u, v * np.float32(half_u / half_v)) + bumps)


def paint_change(site: Site, kind: str, zone: Field) -> list[Layer]:
    """Paint one of `CHANGES` over a zone of the later date."""
    everywhere = ground(site)
    match kind:
        case "felling":
            stumps = canopy_texture(site, 0.35, 14.0)
            layers = [
                Layer(Cover.BARE, bare_soil(site), everywhere),
                Layer(Cover.BARE, grass(site, 0.4), 0.6 * stumps),
                shadow(site, 0.25 * stumps),
            ]
        case "fire":
            ash = site.palette.add(0.35 * spectra.asphalt(0.2))
            patches = np.clip(
                0.75 + 0.3 * smooth_noise(site.grid, site.rng, 20.0), 0, 1
            )
            layers = [
                Layer(Cover.BARE, bare_soil(site), 0.7 * everywhere),
                Layer(Cover.BARE, ash, 0.9 * patches),
            ]
        case "building":
            base = [Layer(Cover.ARTIFICIAL, dry_soil(site), everywhere)]
            layers = base + paint_industrial(site)
        case "houses":
            layers = paint_residential(site)
        case "flood":
            layers = [Layer(Cover.WATER, open_water(site, murk=3.0), everywhere)]
        case _:
            dust = np.clip(0.5 + 0.4 * smooth_noise(site.grid, site.rng, 25.0), 0, 1)
            layers = [
                Layer(Cover.BARE, dry_soil(site), everywhere),
                Layer(Cover.BARE, dry_soil(site), dust),
                shadow(site, 0.3 * dust),
            ]
    return clipped(layers, zone)
