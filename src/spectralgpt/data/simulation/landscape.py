"""Painters of the open country: fields, grass, forest, orchards, water, snow.

Every painter returns layers, the lowest first. Several share their spectra on purpose:
an orchard and scattered trees over the same ground differ in arrangement only, as do a
river, a lake and a flooded field.
"""

import numpy as np

from spectralgpt.data.simulation.materials import (
    CROPS,
    Cover,
    Layer,
    Site,
    bare_soil,
    broadleaf,
    clipped,
    conifer,
    crop,
    dry_soil,
    grass,
    open_water,
    orchard_tree,
    shadow,
)
from spectralgpt.data.simulation.spectra import snow
from spectralgpt.data.simulation.terrain import (
    Field,
    Indices,
    Parcels,
    band_along,
    fractal_noise,
    lay_parcels,
    lay_voronoi,
    quantile_mask,
    smooth_noise,
)

__all__ = [
    "canopy_texture",
    "ground",
    "paint_fields",
    "paint_forest",
    "paint_hedges",
    "paint_herbaceous",
    "paint_lake",
    "paint_pasture",
    "paint_permanent_crops",
    "paint_river",
    "paint_snow",
    "paint_tree_clumps",
]

_CROWN_M = 9.0


def ground(site: Site) -> Field:
    """Make the coverage of a layer that hides everything."""
    return np.ones((site.grid.size, site.grid.size), dtype=np.float32)


def canopy_texture(site: Site, depth: float, scale_m: float = _CROWN_M) -> Field:
    """Draw the shade between and within crowns, as a share of light taken."""
    crowns = smooth_noise(site.grid, site.rng, max(scale_m, 1.5 * site.grid.step_m))
    return np.clip(depth * (0.5 + 0.6 * crowns), 0.0, 0.85)


def lay_land(site: Site, scale: float = 1.0) -> Parcels:
    """Divide the land as is usual in the region; `scale` multiplies parcel sizes."""
    region, rng = site.region, site.rng
    scale = scale * float(rng.uniform(0.7, 1.4))
    if rng.random() < region.irregular_share:
        size = np.sqrt(region.field_m * region.field_depth_m)
        return lay_voronoi(site.grid, rng, float(scale * size))
    return lay_parcels(
        site.grid,
        rng,
        scale * region.field_m,
        scale * region.field_depth_m,
        warp_m=float(rng.uniform(0.0, 14.0)),
    )


def _pick(rng: np.random.Generator, numbers: list[int], parcels: Parcels) -> Indices:
    """Give each parcel one of the spectra."""
    table = np.asarray(numbers, dtype=np.intp)[
        rng.integers(0, len(numbers), parcels.count)
    ]
    return table[parcels.index]


def paint_fields(site: Site, variants: int = 8) -> list[Layer]:
    """Arable fields: parcels of crops and bare soil, rows of tillage, tracks."""
    rng, grid = site.rng, site.grid
    parcels = lay_land(site)
    kinds = rng.choice(len(CROPS), variants, p=site.region.crop_weights)
    crops = [crop(site, CROPS[kind]) for kind in kinds] + [bare_soil(site)]
    layers = [Layer(Cover.CROPLAND, _pick(rng, crops, parcels), ground(site))]
    # Uneven emergence: soil shows through in patches, more in some parcels than others.
    patchiness = rng.uniform(0.0, 0.35, parcels.count).astype(np.float32)[parcels.index]
    patches = np.clip(0.4 + 0.8 * fractal_noise(grid, rng, 1.6), 0.0, 1.0)
    layers.append(Layer(Cover.CROPLAND, bare_soil(site), patchiness * patches))
    spacing = rng.uniform(18.0, 36.0)
    furrows = 0.5 + 0.5 * np.sin(2.0 * np.pi * parcels.v_m / spacing)
    is_striped = (rng.random(parcels.count) < 0.4).astype(np.float32)[parcels.index]
    layers.append(shadow(site, 0.10 * is_striped * furrows))
    track = dry_soil(site) if rng.random() < 0.6 else grass(site, 0.8)
    layers.append(
        Layer(None, track, grid.coverage(rng.uniform(1.0, 3.0) - parcels.edge_m))
    )
    if rng.random() < 0.25:
        layers += paint_hedges(site, parcels)
    return layers


def paint_hedges(site: Site, parcels: Parcels) -> list[Layer]:
    """Hedges and lines of trees along some of the parcels' edges."""
    gaps = site.grid.coverage(15.0 * (smooth_noise(site.grid, site.rng, 60.0) + 0.4))
    width = site.rng.uniform(3.0, 7.0)
    hedge = site.grid.coverage(width - parcels.edge_m) * gaps
    return [Layer(Cover.TREES, broadleaf(site), hedge)]


def paint_tree_clumps(site: Site, share: float, scale_m: float) -> list[Layer]:
    """Scattered trees or shrubs over `share` of the ground, in clumps of `scale_m`."""
    rng, grid = site.rng, site.grid
    field = smooth_noise(grid, rng, scale_m) + 0.5 * fractal_noise(grid, rng, 1.5)
    level = np.quantile(field[::3, ::3], 1.0 - share)
    clumps = np.clip(0.5 + 3.0 * (field - level), 0.0, 1.0).astype(np.float32)
    tree = (
        conifer(site) if rng.random() < site.region.conifer_share else broadleaf(site)
    )
    return [
        Layer(Cover.TREES, tree, 0.9 * clumps),
        shadow(site, clumps * canopy_texture(site, 0.3)),
    ]


def paint_pasture(site: Site) -> list[Layer]:
    """Managed grass: smooth paddocks with hedges, some trees, worn ground."""
    rng, grid = site.rng, site.grid
    parcels = lay_land(site, scale=1.3)
    swards = [grass(site, float(v)) for v in rng.uniform(0.7, 1.3, 5)]
    layers = [Layer(Cover.GRASSLAND, _pick(rng, swards, parcels), ground(site))]
    wear = np.clip(0.25 * fractal_noise(grid, rng, 1.8) - 0.1, 0.0, 0.5)
    layers.append(Layer(Cover.GRASSLAND, grass(site, 0.35), wear.astype(np.float32)))
    if rng.random() < 0.7:
        layers += paint_hedges(site, parcels)
    if rng.random() < 0.5:
        layers += paint_tree_clumps(site, float(rng.uniform(0.01, 0.06)), 15.0)
    return layers


def paint_herbaceous(site: Site) -> list[Layer]:
    """Wild grass, heath and scrub: fractal patches of grass, bare ground and shrubs."""
    rng, grid = site.rng, site.grid
    roughness = float(rng.uniform(1.2, 1.9))
    layers = [Layer(Cover.GRASSLAND, grass(site, 0.85), ground(site))]
    for vigour in (0.5, 0.3):
        patch = np.clip(0.5 + 0.9 * fractal_noise(grid, rng, roughness), 0.0, 1.0)
        layers.append(Layer(Cover.GRASSLAND, grass(site, vigour), patch * 0.8))
    share = float(rng.uniform(0.02, 0.25))
    bare = quantile_mask(fractal_noise(grid, rng, roughness), share)
    ground_kind = dry_soil(site) if rng.random() < 0.5 else bare_soil(site)
    layers.append(Layer(Cover.BARE, ground_kind, 0.85 * bare.astype(np.float32)))
    shrubs = float(rng.uniform(0.03, 0.35))
    return layers + paint_tree_clumps(site, shrubs, float(rng.uniform(12.0, 30.0)))


def paint_forest(site: Site) -> list[Layer]:
    """Closed forest: stands of species and ages, crown texture, clearings and rides."""
    rng, grid = site.rng, site.grid
    stands = lay_voronoi(grid, rng, float(rng.uniform(180.0, 420.0)))
    is_conifer = rng.random(5) < site.region.conifer_share
    trees = [conifer(site) if c else broadleaf(site) for c in is_conifer]
    layers = [Layer(Cover.TREES, _pick(rng, trees, stands), ground(site))]
    # Single trees of the other kind stand in most forests.
    mixed = np.clip(0.5 * smooth_noise(grid, rng, 14.0) - 0.2, 0.0, 0.7)
    other = broadleaf(site) if is_conifer[0] else conifer(site)
    layers.append(Layer(Cover.TREES, other, mixed.astype(np.float32)))
    roughness = rng.uniform(0.25, 0.6, stands.count).astype(np.float32)[stands.index]
    layers.append(shadow(site, roughness * canopy_texture(site, 1.0)))
    if rng.random() < 0.5:
        share = float(rng.uniform(0.02, 0.12))
        gap = quantile_mask(fractal_noise(grid, rng, 2.0), share).astype(np.float32)
        layers.append(Layer(Cover.GRASSLAND, grass(site, 0.8), gap))
    if rng.random() < 0.35:
        ride = grid.coverage(band_along(grid, rng, 5.0, winding=0.05))
        layers.append(Layer(Cover.BARE, dry_soil(site), 0.8 * ride))
    return layers


def paint_permanent_crops(site: Site) -> list[Layer]:
    """Orchards, groves and vineyards: regular rows over soil or grass, by parcel.

    Row spacing is that of wide plantings and of blocks of rows, so that it shows at
    10 m pixels.
    """
    rng, grid = site.rng, site.grid
    parcels = lay_land(site, scale=0.9)
    soils = [bare_soil(site), bare_soil(site), grass(site, 0.6), grass(site, 0.9)]
    layers = [Layer(Cover.PERMANENT_CROPS, _pick(rng, soils, parcels), ground(site))]
    spacing = rng.uniform(15.0, 36.0, parcels.count).astype(np.float32)[parcels.index]
    along_u = (rng.random(parcels.count) < 0.5)[parcels.index]
    is_grove = (rng.random(parcels.count) < 0.4).astype(np.float32)[parcels.index]
    first = np.where(along_u, parcels.u_m, parcels.v_m)
    second = np.where(along_u, parcels.v_m, parcels.u_m)
    turn = np.float32(2.0 * np.pi) / spacing
    wave = np.cos(first * turn) + is_grove * (np.cos(second * turn) - 0.4)
    density = rng.uniform(-0.4, 0.5, parcels.count).astype(np.float32)[parcels.index]
    rows = np.clip(0.45 + 0.8 * (wave + density), 0.0, 0.9)
    is_planted = (rng.random(parcels.count) < 0.88).astype(np.float32)[parcels.index]
    rows = rows * is_planted * grid.coverage(parcels.edge_m - 5.0)
    layers.append(Layer(Cover.PERMANENT_CROPS, orchard_tree(site), rows))
    layers.append(shadow(site, 0.35 * np.roll(rows, -1, axis=0) * (1.0 - 0.5 * rows)))
    track = grid.coverage(2.5 - parcels.edge_m)
    layers.append(Layer(None, dry_soil(site), 0.8 * track))
    return layers


def paint_river(site: Site, width_m: float) -> list[Layer]:
    """A winding river with banks of trees or gravel."""
    rng, grid = site.rng, site.grid
    inside = band_along(
        grid,
        rng,
        width_m,
        winding=float(rng.uniform(0.05, 0.24)),
        offset_m=float(rng.uniform(-0.22, 0.22)) * grid.extent_m,
    )
    inside = inside + np.float32(0.05 * width_m) * fractal_noise(grid, rng, 1.5)
    bank_m = width_m * float(rng.uniform(0.05, 0.4))
    bank = grid.coverage(inside + bank_m)
    gaps = np.clip(0.6 + 0.7 * smooth_noise(grid, rng, 50.0), 0.0, 1.0)
    if rng.random() < 0.6:
        layers = [Layer(Cover.TREES, broadleaf(site), bank * gaps)]
        layers += clipped([shadow(site, canopy_texture(site, 0.4))], bank * gaps)
    else:
        layers = [Layer(Cover.BARE, dry_soil(site), bank * gaps)]
    water = grid.coverage(inside)
    return [*layers, Layer(Cover.WATER, open_water(site, murk=1.6), water)]


def paint_lake(site: Site, share: float) -> list[Layer]:
    """A lake or a stretch of sea over `share` of the image, with shallows and shore."""
    rng, grid = site.rng, site.grid
    u, v = grid.rotated(float(rng.uniform(0.0, 2.0 * np.pi)))
    if rng.random() < 0.5:
        depth = v * np.float32(6.0 / grid.extent_m)
    else:
        depth = np.float32(1.5) - np.hypot(u, 1.3 * v) * np.float32(5.0 / grid.extent_m)
    depth = depth + 0.8 * fractal_noise(grid, rng, 1.9)
    level = np.quantile(depth[::3, ::3], 1.0 - share)
    per_metre = np.float32(grid.extent_m / 6.0)
    inside = (depth - level) * per_metre * 0.5
    beach = grid.coverage(inside + max(0.0, float(rng.uniform(-20.0, 25.0))))
    water = grid.coverage(inside)
    shallows = np.clip(0.7 - inside / float(rng.uniform(60.0, 250.0)), 0.0, 0.9)
    swell = np.clip(0.12 + 0.05 * smooth_noise(grid, rng, 25.0), 0.0, 0.3)
    return [
        Layer(Cover.BARE, dry_soil(site), 0.9 * beach),
        Layer(Cover.WATER, open_water(site), water),
        Layer(Cover.WATER, open_water(site, murk=2.5), water * shallows),
        shadow(site, water * swell),
    ]


def paint_snow(site: Site) -> list[Layer]:
    """Snow over everything that is painted so far, if the date has any."""
    if site.season.snow <= 0.0:
        return []
    drift = 0.9 * fractal_noise(site.grid, site.rng, 1.7) + 2.2 * site.season.snow - 0.8
    grain = float(site.rng.uniform(0.1, 1.0))
    number = site.palette.add(snow(grain, dirt=float(site.rng.uniform(0.0, 0.5))))
    return [Layer(Cover.SNOW, number, np.clip(drift, 0.0, 0.93).astype(np.float32))]
