"""Painters: what images show, how covers lie, and what they are made of on a date.

They lay on a canvas, the lowest coat first. Scene classes carry the names of EuroSAT's.
Most share their materials, and images of every class hold stretches of other covers,
lanes and brooks: what sets a class apart is the arrangement. Traits are drawn alike on
every date, so that a place on two dates has the same fields and trees.
"""

from typing import Final

import numpy as np

from spectralgpt.errors import ConfigError
from spectralgpt.simulation import reflectance
from spectralgpt.simulation.canvas import (
    Canvas,
    Cover,
    Field,
    Parcels,
    block_mean,
    highest,
)
from spectralgpt.simulation.reflectance import Spectrum

_FIELDS: Final = ["AnnualCrop", "Pasture", "PermanentCrop"]
_RURAL: Final = [*_FIELDS, "Forest", "HerbaceousVegetation"]
_TOWNS: Final = ["Industrial", "Residential"]
_CROSSED: Final = ["Highway", "River", "SeaLake"]
SCENE_CLASSES: Final = tuple(sorted(_RURAL + _TOWNS + _CROSSED))
# Least and most width in metres, and most of the image's side: a lane or brook crosses
# many images; only broad ones make a highway or a river.
_LANE, _HIGHWAY = (5.0, 9.0, 0.03), (24.0, 46.0, 0.12)
_BROOK, _RIVER = (5.0, 12.0, 0.03), (32.0, 130.0, 0.25)

# Most leaf area; days of growth, fall and ripening; chlorophyll; brightness of the
# ground; share of light that is not lost between crowns.
_PLANTS: Final = {
    "winter cereal": (5.0, 92, 202, 176, 46, 1.0, 1.0),
    "rapeseed": (4.2, 82, 196, 170, 30, 1.0, 1.0),
    "maize": (5.0, 165, 275, 250, 46, 1.0, 1.0),
    "root crop": (4.5, 150, 290, 999, 46, 1.0, 1.0),
    "alfalfa": (3.0, 60, 330, 999, 46, 1.0, 1.0),
    "fallow": (0.7, 60, 330, 150, 46, 1.0, 1.0),
    "grass": (3.6, 60, 320, 320, 38, 0.85, 1.0),
    "broadleaf": (5.0, 112, 305, 286, 44, 0.3, 0.88),
    "conifer": (4.0, 0, 999, 999, 56, 0.3, 0.52),
    "fruit tree": (3.5, 108, 300, 999, 40, 0.7, 0.85),
    "olive tree": (3.0, 0, 999, 999, 32, 0.7, 0.85),
}
_CROPS: Final = list(_PLANTS)[:6]
# Brightness and its spread; wetness of grounds, brightness of whose soils is relative.
_GROUNDS: Final = {"soil": (1.0, 0.12, 1.0), "gravel": (1.37, 0.13, 0.3)}
# Brightness and its spread; wavelengths that it takes to rise; redness.
_BUILT: Final = {
    "asphalt": (0.14, 0.045, 500.0, 0.0),
    "concrete": (0.30, 0.08, 220.0, 0.0),
    "tiles": (0.32, 0.06, 300.0, 0.7),
    "metal": (0.42, 0.13, 50.0, 0.0),
}
_CHANGES: Final = {
    Cover.TREES: ["felling", "fire"],
    Cover.CROPLAND: ["Industrial", "Residential", "flood", "quarry"],
    Cover.GRASSLAND: ["Industrial", "Residential", "fire", "quarry"],
    Cover.PERMANENT_CROPS: _TOWNS,
    Cover.BARE: ["Industrial"],
}
_TRIES, _MOST, _UNCHANGED_SHARE = 6, 3, 0.2
# A zone changes only where most of it is of one cover.
_LEAST_SHARE = 0.6


def paint_scene(canvas: Canvas, name: str | None = None) -> None:
    """Paint one of `SCENE_CLASSES`, or else country where several covers meet.

    Raises:
        ConfigError: there is no such class.
    """
    if name is not None and name not in SCENE_CLASSES:
        known = ", ".join(SCENE_CLASSES)
        raise ConfigError(f"unknown scene class '{name}' (known: {known}).")
    rng = canvas.rng
    main, second, third = rng.permutation([c for c in _RURAL if c != name])[:3]
    town = rng.choice(_TOWNS)
    # Cover, its least and most share of the image, and how often it is there.
    parts = [(second, 0.2, 0.5, 1.0), (third, 0.1, 0.3, 0.4), (town, 0.12, 0.4, 0.45)]
    if name in _RURAL:
        main, parts = name, [(second, 0.08, 0.42, 0.65), (town, 0.05, 0.22, 0.2)]
    elif name is not None:
        parts = [(name, 0.4, 1.0, 1.0)] if name in _TOWNS else []
    _paint_cover(canvas, main)
    for cover, least, most, chance in parts:
        if rng.random() < chance:
            aside = canvas.rotated(rng.uniform(0.0, 2.0 * np.pi))[0] / canvas.extent_m
            slope = 4.0 * aside + 0.45 * canvas.noise(1.9)
            with canvas.within(highest(slope, rng.uniform(least, most))):
                _paint_cover(canvas, cover)
    if rng.random() < 0.2:
        _paint_river(canvas, *_BROOK)
    if rng.random() < 0.5:
        _paint_road(canvas, *_LANE)
    _paint_crossing(canvas, name)
    if canvas.season.snow > 0.0:
        drift = 0.9 * canvas.noise(1.7) + 2.2 * canvas.season.snow - 0.8
        snow = reflectance.snow(*rng.uniform((0.1, 0.0), (1.0, 0.5)))
        canvas.lay(Cover.SNOW, snow, np.clip(drift, 0.0, 0.93))


def _paint_crossing(canvas: Canvas, name: str | None) -> None:
    """What the class is named after, or by chance what a landscape has of it."""
    rng = canvas.rng
    kind = name or rng.choice(["", *_CROSSED], p=[0.4, 0.2, 0.2, 0.2])
    if kind == "Highway":
        _paint_road(canvas, *_HIGHWAY)
    elif kind == "River":
        _paint_river(canvas, *_RIVER)
    elif kind == "SeaLake":
        _paint_lake(canvas, rng.uniform(0.3, 1.0) * (1.0 if name else 0.4))


def draw_changes(canvas: Canvas, covers: Field) -> list[tuple[str, Field]]:
    """Draw the kind and the zone of what changes between two dates.

    Args:
        canvas: as of the image; its random numbers are used.
        covers: (number of covers, n, n) shares of each pixel before.
    """
    rng, extent_m = canvas.rng, canvas.extent_m
    wanted = 0 if rng.random() < _UNCHANGED_SHARE else int(rng.integers(1, _MOST + 1))
    zones: list[tuple[str, Field]] = []
    for _ in range(_TRIES):
        # A block with bent sides.
        half_u, half_v = (
            extent_m * rng.uniform(0.06, 0.17)
            - np.abs(axis - extent_m * rng.uniform(-0.4, 0.4))
            for axis in canvas.rotated(rng.uniform(0.0, np.pi))
        )
        bends = 0.02 * extent_m * canvas.noise(0.0, 0.1 * extent_m)
        zone = canvas.coverage(np.minimum(half_u, half_v) + bends)
        pixels = block_mean(zone, canvas.size // covers.shape[-1])
        shares = (covers * pixels).sum(axis=(1, 2)) / max(float(pixels.sum()), 1e-6)
        main = Cover(int(shares.argmax()))
        is_free = not any(np.any(zone * taken) for _, taken in zones)
        is_clear = shares[main] >= _LEAST_SHARE and main in _CHANGES
        if len(zones) < wanted and is_free and is_clear:
            zones.append((rng.choice(_CHANGES[main]), zone))
    return zones


def paint_change(canvas: Canvas, kind: str, zone: Field) -> None:
    """Paint what people, fire or water made of a zone by the later date.

    Args:
        canvas: of the later date, with the scene painted as it was before.
        kind: from `draw_changes`.
        zone: (size, size) share of each cell that changes, 0..1.
    """
    with canvas.within(zone):
        if kind in _TOWNS:
            _paint_cover(canvas, kind)
        elif kind == "flood":
            canvas.lay(Cover.WATER, _water(canvas, murk=3.0))
        else:
            heaps = np.clip(0.5 + 0.4 * canvas.noise(0.0, 16.0), 0.0, 0.9)
            canvas.lay(Cover.BARE, _ground(canvas, 1.5 if kind == "quarry" else 1.0))
            if kind == "fire":
                canvas.lay(Cover.BARE, reflectance.built(0.07, 500.0), heaps)
            canvas.shade(0.3 * heaps)


def _paint_cover(canvas: Canvas, name: str) -> None:
    if name in _FIELDS:
        rng, length_m = canvas.rng, canvas.region.field_m
        length_m *= rng.uniform(0.7, 1.4)
        # Surveyed land is straighter.
        warp_m = length_m * rng.choice([0.02, 0.2], p=[0.7, 0.3])
        parcels = canvas.parcels(length_m, length_m * rng.uniform(0.35, 0.7), warp_m)
        if name == "AnnualCrop":
            _paint_crops(canvas, parcels)
        elif name == "Pasture":
            _paint_pasture(canvas, parcels)
        else:
            _paint_permanent_crops(canvas, parcels)
        if rng.random() < (0.7 if name == "Pasture" else 0.2):
            gaps = canvas.coverage(15.0 * (canvas.noise(0.0, 60.0) + 0.4))
            hedges = canvas.coverage(rng.uniform(3.0, 7.0) - parcels.edge_m)
            _lay_trees(canvas, hedges * gaps)
    elif name == "Forest":
        _paint_forest(canvas)
    elif name in _TOWNS:
        _paint_town(canvas, has_halls=name == "Industrial")
    else:
        _paint_wild(canvas)


def _lay_trees(canvas: Canvas, coverage: Field, parcels: Parcels | None = None) -> None:
    """Lay trees of one kind, or of several by parcel, with shade between crowns."""
    trees = [_material(canvas, "tree") for _ in range(5)]
    canvas.lay(Cover.TREES, trees if parcels else trees[0], coverage, parcels)
    crowns = 0.5 + 0.6 * canvas.noise(0.0, max(9.0, 1.5 * canvas.step_m))
    canvas.shade(0.45 * coverage * np.clip(crowns, 0.0, 1.8))


def _paint_crops(canvas: Canvas, parcels: Parcels) -> None:
    """Crops and bare soil by parcel, uneven emergence, rows of tillage, tracks."""
    kinds = canvas.rng.choice(_CROPS, 8, p=canvas.region.crop_weights)
    crops = [_material(canvas, kind) for kind in kinds]
    canvas.lay(Cover.CROPLAND, [*crops, _material(canvas, "soil")], parcels=parcels)
    gaps = np.clip(0.4 + 0.8 * canvas.noise(1.6), 0.0, 1.0)
    canvas.lay(
        Cover.CROPLAND,
        _material(canvas, "soil"),
        gaps * parcels.draw(canvas.rng, 0.0, 0.35),
    )
    turn = 2.0 * np.pi / canvas.rng.uniform(18.0, 36.0)
    furrows = 0.5 + 0.5 * np.sin(parcels.v_m * turn)
    canvas.shade(0.10 * parcels.some(canvas.rng, 0.4) * furrows)
    canvas.lay(None, _material(canvas, "gravel"), canvas.coverage(2.0 - parcels.edge_m))


def _paint_pasture(canvas: Canvas, parcels: Parcels) -> None:
    """Managed grass: smooth paddocks, worn ground, few trees."""
    rng = canvas.rng
    swards = [_material(canvas, "grass", v) for v in rng.uniform(0.7, 1.3, 5)]
    canvas.lay(Cover.GRASSLAND, swards, parcels=parcels)
    wear = np.clip(0.25 * canvas.noise(1.8) - 0.1, 0.0, 0.5)
    canvas.lay(Cover.GRASSLAND, _material(canvas, "grass", 0.35), wear)
    _lay_trees(canvas, highest(canvas.noise(1.0, 15.0), rng.uniform(0.0, 0.05)))


def _paint_permanent_crops(canvas: Canvas, parcels: Parcels) -> None:
    """Orchards, groves and vineyards: regular rows over soil or grass, by parcel.

    Rows are spaced as in wide plantings and blocks of rows, to show at 10 m pixels.
    """
    grass = [_material(canvas, "grass", vigour) for vigour in (0.6, 0.9)]
    soils = [*grass, _material(canvas, "soil"), _material(canvas, "soil")]
    canvas.lay(Cover.PERMANENT_CROPS, soils, parcels=parcels)
    turn = np.float32(2.0 * np.pi) / parcels.draw(canvas.rng, 15.0, 36.0)
    is_grove = parcels.some(canvas.rng, 0.4)
    wave = np.cos(parcels.v_m * turn) + is_grove * (np.cos(parcels.u_m * turn) - 0.4)
    rows = np.clip(0.45 + 0.8 * (wave + parcels.draw(canvas.rng, -0.4, 0.5)), 0.0, 0.9)
    rows *= parcels.some(canvas.rng, 0.88) * canvas.coverage(parcels.edge_m - 5.0)
    kind = "olive tree" if canvas.region.dryness > 0.55 else "fruit tree"
    canvas.lay(Cover.PERMANENT_CROPS, _material(canvas, kind), rows)
    canvas.shade(0.35 * np.roll(rows, -1, axis=0) * (1.0 - 0.5 * rows))
    canvas.lay(
        None, _material(canvas, "gravel"), 0.8 * canvas.coverage(2.5 - parcels.edge_m)
    )


def _paint_wild(canvas: Canvas) -> None:
    """Wild grass, heath and scrub: fractal patches of grass, bare ground and shrubs."""
    rng = canvas.rng
    roughness = rng.uniform(1.2, 1.9)
    canvas.lay(Cover.GRASSLAND, _material(canvas, "grass", 0.85))
    for vigour in (0.5, 0.3):
        patch = np.clip(0.4 + 0.7 * canvas.noise(roughness), 0.0, 0.8)
        canvas.lay(Cover.GRASSLAND, _material(canvas, "grass", vigour), patch)
    bare = highest(canvas.noise(roughness), rng.uniform(0.02, 0.25))
    canvas.lay(Cover.BARE, _material(canvas, "gravel"), 0.85 * bare)
    clumps = canvas.noise(0.0, rng.uniform(12.0, 30.0)) + 0.5 * canvas.noise(1.5)
    _lay_trees(canvas, 0.9 * highest(clumps, rng.uniform(0.03, 0.35)))


def _paint_forest(canvas: Canvas) -> None:
    """Closed forest: stands of species and ages, crown texture, clearings."""
    length_m = canvas.rng.uniform(180.0, 420.0)
    stands = canvas.parcels(length_m, length_m, warp_m=0.25 * length_m)
    _lay_trees(canvas, np.ones_like(stands.edge_m), stands)
    # Single trees of another kind stand in most forests.
    _lay_trees(canvas, np.clip(0.5 * canvas.noise(0.0, 14.0) - 0.2, 0.0, 0.7))
    clearings = highest(canvas.noise(2.0), canvas.rng.uniform(0.0, 0.1))
    canvas.lay(Cover.GRASSLAND, _material(canvas, "grass", 0.8), clearings)


def _paint_river(canvas: Canvas, low_m: float, high_m: float, most: float) -> None:
    """A winding river with banks of trees or gravel."""
    rng = canvas.rng
    width_m = min(rng.uniform(low_m, high_m), most * canvas.extent_m)
    inside = canvas.strip(width_m, winding=rng.uniform(0.02, 0.15))
    inside = inside + 0.05 * width_m * canvas.noise(1.5)
    bank = canvas.coverage(inside + width_m * rng.uniform(0.05, 0.4))
    bank *= np.clip(0.6 + 0.7 * canvas.noise(0.0, 50.0), 0.0, 1.0)
    if rng.random() < 0.6:
        _lay_trees(canvas, bank)
    else:
        canvas.lay(Cover.BARE, _material(canvas, "gravel"), bank)
    canvas.lay(Cover.WATER, _water(canvas, murk=1.6), canvas.coverage(inside))


def _paint_road(canvas: Canvas, low_m: float, high_m: float, most: float) -> None:
    """A road across the image, between verges."""
    width_m = min(canvas.rng.uniform(low_m, high_m), most * canvas.extent_m)
    inside = canvas.strip(width_m, winding=canvas.rng.uniform(0.0, 0.03))
    verge = 0.85 * canvas.coverage(inside + 0.35 * width_m)
    canvas.lay(Cover.GRASSLAND, _material(canvas, "grass", 0.6), verge)
    canvas.lay(Cover.ARTIFICIAL, _material(canvas, "road"), canvas.coverage(inside))


def _paint_lake(canvas: Canvas, share: float) -> None:
    """A lake or a stretch of sea over `share` of the image, with shallows and shore."""
    rng = canvas.rng
    u, v = canvas.rotated(rng.uniform(0.0, 2.0 * np.pi))
    depth = v if rng.random() < 0.5 else -np.hypot(u, 1.3 * v)
    depth = depth * (6.0 / canvas.extent_m) + 0.8 * canvas.noise(1.9)
    inside = (depth - np.quantile(depth, 1.0 - share)) * canvas.extent_m / 12.0
    beach = canvas.coverage(inside + max(0.0, rng.uniform(-20.0, 25.0)))
    shallows = np.clip(0.7 - inside / rng.uniform(60.0, 250.0), 0.0, 0.9)
    canvas.lay(Cover.BARE, _material(canvas, "gravel"), 0.9 * beach)
    with canvas.within(canvas.coverage(inside)):
        canvas.lay(Cover.WATER, _water(canvas))
        canvas.lay(Cover.WATER, _water(canvas, murk=2.5), shallows)


def _paint_town(canvas: Canvas, *, has_halls: bool) -> None:
    """Halls and paved yards, or houses with gardens and trees, between streets."""
    rng, turn = canvas.rng, canvas.rng.uniform(0.0, np.pi)
    sides_m = rng.uniform(90.0, 190.0), rng.uniform(60.0, 110.0)
    lots = canvas.parcels(*sides_m, warp_m=rng.uniform(0.0, 8.0), angle=turn)
    grass = [_material(canvas, "grass", vigour) for vigour in (0.7, 1.1)]
    yards = [_material(canvas, kind) for kind in ("road", "road", "gravel", "soil")]
    yards = [*yards[:3], grass[0]] if has_halls else [*grass, yards[3]]
    canvas.lay(Cover.ARTIFICIAL, yards, parcels=lots)
    canvas.lay(Cover.ARTIFICIAL, _material(canvas, "road"), rng.uniform(0.05, 0.35))
    trees = 0.8 * canvas.noise(0.0, 9.0) + rng.uniform(-0.7, 0.3) - 0.3 * has_halls
    canvas.lay(None, _material(canvas, "broadleaf"), np.clip(trees, 0.0, 0.8))
    plots = lots if has_halls else canvas.parcels(22.0, 30.0, 0.0, turn)
    margins_m = plots.draw(canvas.rng, 10.0, 26.0) if has_halls else 4.0
    body = canvas.coverage(plots.edge_m - margins_m) * (lots.edge_m > 6.0)
    body *= plots.some(canvas.rng, 0.85)
    height = rng.uniform(5.0, 14.0) / canvas.step_m
    canvas.shade(0.65 * canvas.season.shadow_of(body, height) * (1.0 - body))
    kind = "hall" if has_halls else "house"
    roofs = [_material(canvas, kind) for _ in range(6)]
    canvas.lay(Cover.ARTIFICIAL, roofs, body, plots)
    # One side of a roof is darker.
    canvas.shade(0.3 * body * (np.sin(plots.v_m * 0.2) > 0.0))
    canvas.lay(Cover.GRASSLAND, grass[1], lots.some(canvas.rng, 0.1))
    street = canvas.coverage(rng.uniform(4.0, 7.0) - lots.edge_m)
    canvas.lay(Cover.ARTIFICIAL, _material(canvas, "road"), street)


def _material(canvas: Canvas, kind: str, vigour: float = 1.0) -> Spectrum:
    """One of the materials above, or of the mixes here, as the region and date have it.

    `vigour` multiplies leaves, 0.3 poor and dry .. 1.3 fertilised.
    """
    region, rng = canvas.region, canvas.rng
    mixes = {
        "tree": ("broadleaf", "conifer", region.conifer_share),
        "road": ("asphalt", "concrete", 0.25),
        "hall": ("asphalt", "metal", 0.65),
        "house": ("concrete", "tiles", region.tile_share),
    }
    if kind in mixes:
        usual, other, share = mixes[kind]
        kind = other if rng.random() < share else usual
    if kind in _PLANTS:
        return _plant(canvas, kind, vigour)
    if kind in _GROUNDS:
        mean, spread, wetness = _GROUNDS[kind]
        return _ground(
            canvas, rng.normal(mean, spread), wetness * rng.uniform(0.5, 1.5)
        )
    mean, spread, rise_nm, redness = _BUILT[kind]
    brightness = min(max(rng.normal(mean, spread), 0.05), 0.75)
    return reflectance.built(brightness, rise_nm, redness * rng.uniform(0.6, 1.4))


def _ground(canvas: Canvas, brightness: float, wetness: float = 1.0) -> Spectrum:
    region = canvas.region
    dry = min(max(region.soil_brightness * brightness, 0.05), 0.6)
    wet = min(canvas.season.wetness * wetness, 1.0)
    return reflectance.soil(dry, region.iron, region.clay, wet)


def _plant(canvas: Canvas, kind: str, vigour: float = 1.0) -> Spectrum:
    """One of `_PLANTS` as the date has it; `vigour` as for `_material`.

    Source: double logistic growth and fall after Zhang et al. 2003.
    """
    most, start, end, ripening, chlorophyll, brightness, light = _PLANTS[kind]
    delay, tone, size, dark = canvas.rng.normal(0.0, 1.0, 4)
    day = canvas.season.plant_day - 6.0 * delay
    days = np.array((day - start, end - day, day - ripening))
    rise, fall, ripe = 1.0 / (1.0 + np.exp(-days / 9.0))
    if kind == "grass":
        ripe = min(1.0, ripe + canvas.season.drought * (1.5 - vigour))
    # Only fields are bare out of season.
    alive = max(rise * fall, 0.0 if kind in _CROPS else 0.12)
    return light * reflectance.vegetation(
        background=_ground(canvas, brightness * (1.0 + 0.13 * dark)),
        leaf_area=most * vigour * alive * max(1.0 + 0.13 * size, 0.5),
        chlorophyll=max((chlorophyll + 6.0 * tone) * (1.0 - 0.9 * ripe), 2.0),
        water_cm=0.016 * (1.0 - 0.85 * ripe),
        dry_matter=0.005 + 0.005 * ripe,
        brown=1.2 * ripe,
    )


def _water(canvas: Canvas, murk: float = 1.0) -> Spectrum:
    """Water of the region; `murk` multiplies its sediment and chlorophyll."""
    spread, region = canvas.rng.lognormal(0.0, 0.5), canvas.region
    return reflectance.water_body(
        chlorophyll=min(region.water_chlorophyll * spread * murk, 60.0),
        dissolved=min(0.1 * region.water_chlorophyll * spread, 5.0),
        sediment=min(region.water_sediment * spread * murk, 150.0),
        glint=canvas.rng.uniform(0.002, 0.02),
    )
