"""Painters of what people built: houses and streets, halls and yards, roads."""

import numpy as np

from spectralgpt.data.simulation.landscape import ground
from spectralgpt.data.simulation.materials import (
    Cover,
    Layer,
    Site,
    bare_soil,
    broadleaf,
    dry_soil,
    grass,
    paved,
    roof,
    shadow,
)
from spectralgpt.data.simulation.terrain import (
    Field,
    Indices,
    Parcels,
    band_along,
    lay_parcels,
    quantile_mask,
    smooth_noise,
)

__all__ = ["paint_farmstead", "paint_highway", "paint_industrial", "paint_residential"]


def _cast(site: Site, bodies: Field, height_m: float) -> Field:
    """Shadow of bodies of one height on the ground to the north of them."""
    elevation = np.deg2rad(site.season.sun_elevation_deg)
    azimuth = np.deg2rad(site.season.sun_azimuth_deg)
    reach = height_m / np.tan(elevation) / site.grid.step_m
    rows, columns = reach * np.cos(azimuth), -reach * np.sin(azimuth)
    half = np.roll(bodies, (round(rows / 2), round(columns / 2)), axis=(0, 1))
    full = np.roll(bodies, (round(rows), round(columns)), axis=(0, 1))
    cast: Field = np.maximum(half, full) * (1.0 - bodies)
    return cast


def _choose(
    rng: np.random.Generator, numbers: list[int], cells: Indices, count: int
) -> Indices:
    table = np.asarray(numbers, dtype=np.intp)[rng.integers(0, len(numbers), count)]
    return table[cells % count]


def _houses(site: Site, blocks: Parcels, plot_m: float, deep_m: float) -> list[Layer]:
    """One house a plot, plots being cells of a lattice within each block."""
    rng, grid = site.rng, site.grid
    count = 997
    column = np.floor(blocks.u_m / plot_m).astype(np.intp)
    row = np.floor(blocks.v_m / deep_m).astype(np.intp)
    plot = blocks.index * 131 + column * 31 + row * 17
    u = blocks.u_m - (column + 0.5) * np.float32(plot_m)
    v = blocks.v_m - (row + 0.5) * np.float32(deep_m)
    half_u = rng.uniform(0.24, 0.42, count).astype(np.float32)[plot % count] * plot_m
    half_v = rng.uniform(0.20, 0.36, count).astype(np.float32)[plot % count] * deep_m
    away = rng.uniform(-0.1, 0.1, count).astype(np.float32)[plot % count] * deep_m
    body = grid.coverage(np.minimum(half_u - np.abs(u), half_v - np.abs(v - away)))
    is_built = (rng.random(count) < 0.92).astype(np.float32)[plot % count]
    body = body * is_built * (blocks.edge_m > 6.0)
    roofs = _choose(rng, [roof(site) for _ in range(5)], plot, count)
    return [
        shadow(site, 0.65 * _cast(site, body, float(rng.uniform(5.0, 11.0)))),
        Layer(Cover.ARTIFICIAL, roofs, body),
        # The side of a roof away from the sun is darker.
        shadow(site, 0.3 * body * (v > away)),
    ]


def paint_residential(site: Site) -> list[Layer]:
    """Blocks of houses with gardens and trees between streets, and a park or two."""
    rng, grid = site.rng, site.grid
    length, depth = rng.uniform((90.0, 50.0), (200.0, 95.0))
    blocks = lay_parcels(grid, rng, length, depth, warp_m=float(rng.uniform(0, 12)))
    gardens = [grass(site, 0.7), grass(site, 1.0), bare_soil(site)]
    table = _choose(rng, gardens, blocks.index, 61)
    trees = np.clip(0.8 * smooth_noise(grid, rng, 9.0) + rng.uniform(-0.7, 0.3), 0, 0.8)
    layers = [
        Layer(Cover.ARTIFICIAL, table, ground(site)),
        Layer(Cover.ARTIFICIAL, paved(site), ground(site) * rng.uniform(0.05, 0.35)),
        Layer(None, broadleaf(site), trees.astype(np.float32)),
    ]
    plot, deep = rng.uniform((15.0, 22.0), (26.0, 36.0))
    layers += _houses(site, blocks, float(plot), float(deep))
    is_park = (rng.random(blocks.count) < 0.07).astype(np.float32)[blocks.index]
    layers.append(Layer(Cover.GRASSLAND, grass(site, 1.1), is_park))
    layers.append(Layer(Cover.TREES, broadleaf(site), is_park * trees))
    street = grid.coverage(float(rng.uniform(3.5, 6.5)) - blocks.edge_m)
    return [*layers, Layer(Cover.ARTIFICIAL, paved(site), street)]


def paint_industrial(site: Site) -> list[Layer]:
    """Halls with large flat roofs, paved yards, stores of bare ground, waste land."""
    rng, grid = site.rng, site.grid
    length, depth = rng.uniform((90.0, 70.0), (190.0, 150.0))
    lots = lay_parcels(grid, rng, length, depth)
    yards = [paved(site), paved(site), paved(site), dry_soil(site), grass(site, 0.6)]
    layers = [
        Layer(Cover.ARTIFICIAL, _choose(rng, yards, lots.index, 53), ground(site))
    ]
    margin = rng.uniform(10.0, 26.0, lots.count).astype(np.float32)[lots.index]
    hall = grid.coverage(lots.edge_m - margin)
    is_built = (rng.random(lots.count) < 0.8).astype(np.float32)[lots.index]
    hall = hall * is_built
    roofs = [roof(site, is_hall=True) for _ in range(6)]
    layers.append(shadow(site, 0.7 * _cast(site, hall, float(rng.uniform(8.0, 18.0)))))
    layers.append(
        Layer(Cover.ARTIFICIAL, _choose(rng, roofs, lots.index * 7, 59), hall)
    )
    # Ridges and skylights of the halls.
    ridges = 0.5 + 0.5 * np.sin(2.0 * np.pi * lots.v_m / rng.uniform(18.0, 40.0))
    layers.append(shadow(site, 0.18 * hall * ridges))
    is_green = (rng.random(lots.count) < 0.12).astype(np.float32)[lots.index]
    layers.append(Layer(Cover.GRASSLAND, grass(site, 0.7), is_green))
    verge = np.clip(smooth_noise(grid, rng, 20.0) - 0.7, 0, 0.8).astype(np.float32)
    layers.append(Layer(None, broadleaf(site), verge * (1.0 - hall)))
    street = grid.coverage(np.float32(rng.uniform(5.0, 8.0)) - lots.edge_m)
    return [*layers, Layer(Cover.ARTIFICIAL, paved(site), street)]


def paint_highway(site: Site, width_m: float, winding: float) -> list[Layer]:
    """A road across the image; wide ones have a median and verges."""
    rng, grid = site.rng, site.grid
    inside = band_along(
        grid,
        rng,
        width_m,
        winding=winding,
        offset_m=float(rng.uniform(-0.25, 0.25)) * grid.extent_m,
    )
    verge = grid.coverage(inside + 0.35 * width_m)
    layers = [
        Layer(Cover.GRASSLAND, grass(site, 0.6), 0.85 * verge),
        Layer(Cover.ARTIFICIAL, paved(site), grid.coverage(inside)),
    ]
    if width_m > 20.0:
        median = grid.coverage(inside - (width_m / 2.0 - 2.0))
        layers.append(Layer(Cover.GRASSLAND, grass(site, 0.6), median))
    return layers


def paint_farmstead(site: Site) -> list[Layer]:
    """A few buildings, a yard and trees somewhere in the image."""
    rng, grid = site.rng, site.grid
    u, v = grid.rotated(float(rng.uniform(0.0, np.pi)))
    center = rng.uniform(-0.38, 0.38, 2) * grid.extent_m
    u, v = u - np.float32(center[0]), v - np.float32(center[1])
    half = float(rng.uniform(18.0, 40.0))
    yard = grid.coverage(np.float32(half) - np.maximum(np.abs(u), np.abs(v)))
    trees = quantile_mask(smooth_noise(grid, rng, 10.0), 0.3).astype(np.float32)
    layers = [
        Layer(Cover.ARTIFICIAL, dry_soil(site), yard),
        Layer(Cover.TREES, broadleaf(site), yard * trees),
    ]
    for shift in (-0.5, 0.4):
        body = grid.coverage(
            np.minimum(0.28 * half - np.abs(u - shift * half), 0.7 * half - np.abs(v))
        )
        layers.append(shadow(site, 0.6 * _cast(site, body, 7.0)))
        layers.append(Layer(Cover.ARTIFICIAL, roof(site), body))
    return layers
