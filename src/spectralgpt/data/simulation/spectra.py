"""Reflectance spectra of land covers as formulas of a few physical quantities.

Each function gives a reflectance (0..1) on `WAVELENGTHS_NM` from quantities with a
meaning (chlorophyll, leaf area, wetness, sediment). The shapes follow published
models and absorption features, cited at each function; no measured library spectrum
is stored here. What a sensor makes of a spectrum is left to `sensor_response`.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "WAVELENGTHS_NM",
    "asphalt",
    "canopy",
    "cloud",
    "concrete",
    "leaf_albedo",
    "metal_roof",
    "shade",
    "snow",
    "soil",
    "tile_roof",
    "water_body",
]

Spectrum = NDArray[np.float64]

WAVELENGTHS_NM: Final[Spectrum] = np.arange(400.0, 2501.0, 5.0)

# Absorption of liquid water in 1/cm, rounded, at wavelengths in nm (Hale and Querry
# 1973, Applied Optics 12; Kou, Labrie and Chylek 1993, Applied Optics 32).
_WATER_ABSORPTION: Final = {
    400: 0.00007, 450: 0.0001, 500: 0.0002, 550: 0.0006, 600: 0.0022, 650: 0.0034,
    700: 0.006, 740: 0.024, 800: 0.020, 850: 0.043, 900: 0.068, 950: 0.39, 975: 0.46,
    1000: 0.36, 1050: 0.16, 1070: 0.13, 1100: 0.19, 1150: 0.9, 1200: 1.1, 1250: 1.0,
    1300: 1.2, 1350: 3.0, 1400: 12.0, 1450: 29.0, 1500: 19.0, 1550: 11.0, 1600: 7.2,
    1650: 5.6, 1700: 5.4, 1750: 6.3, 1800: 8.0, 1850: 10.0, 1880: 25.0, 1900: 70.0,
    1930: 120.0, 1950: 115.0, 2000: 69.0, 2050: 39.0, 2100: 27.0, 2150: 20.0,
    2200: 17.0, 2250: 17.0, 2300: 21.0, 2350: 27.0, 2400: 40.0, 2450: 60.0, 2500: 85.0,
}  # fmt: skip


def _bump(center_nm: float, width_nm: float) -> Spectrum:
    """Gaussian of height 1; `width_nm` is its standard deviation."""
    bump: Spectrum = np.exp(-0.5 * ((WAVELENGTHS_NM - center_nm) / width_nm) ** 2)
    return bump


def _water_absorption(shift_nm: float = 0.0) -> Spectrum:
    """Absorption of water in 1/cm, optionally moved towards longer wavelengths."""
    wavelengths = np.array(list(_WATER_ABSORPTION), dtype=np.float64)
    logarithms = np.log(np.array(list(_WATER_ABSORPTION.values())))
    absorption: Spectrum = np.exp(
        np.interp(WAVELENGTHS_NM - shift_nm, wavelengths, logarithms)
    )
    return absorption


_WATER: Final = _water_absorption()
# The bands of ice lie some 30 nm beyond those of the liquid (Warren and Brandt 2008).
_ICE: Final = _water_absorption(shift_nm=30.0)
# Chlorophyll a and b in the leaf, per microgram per square centimetre: Soret bands in
# the blue, Q bands in the red, a weak green window (Feret et al. 2008, PROSPECT-4/5).
_CHLOROPHYLL: Final = (
    0.045 * _bump(435, 36)
    + 0.020 * _bump(485, 22)
    + 0.013 * _bump(560, 45)
    + 0.014 * _bump(630, 26)
    + 0.036 * _bump(674, 17)
)
_CAROTENOID: Final = 0.06 * (_bump(450, 24) + 0.8 * _bump(485, 18))
_BROWN_PIGMENT: Final = np.exp(-(WAVELENGTHS_NM - 400.0) / 160.0)
# Dry matter per gram per square centimetre: cellulose and lignin overtones at 1730,
# 2100 and 2300 nm (Curran 1989; Kokaly and Clark 1999) on a slow rise.
_DRY_MATTER: Final = (
    2.0
    + 11.0 * np.clip((WAVELENGTHS_NM - 900.0) / 1600.0, 0.0, None)
    + 5.0 * _bump(1730, 35)
    + 16.0 * _bump(2100, 55)
    + 14.0 * _bump(2310, 50)
)


def leaf_albedo(
    chlorophyll: float = 40.0,
    carotenoid: float = 8.0,
    water_cm: float = 0.012,
    dry_matter: float = 0.006,
    brown: float = 0.0,
) -> Spectrum:
    """Compute the share of light that a leaf reflects or lets through.

    Args:
        chlorophyll: micrograms per square centimetre, 0..90.
        carotenoid: micrograms per square centimetre, 0..25.
        water_cm: equivalent water thickness in cm, 0.001..0.04.
        dry_matter: grams per square centimetre, 0.002..0.02.
        brown: amount of brown pigment, 0 green .. 3 dead.

    Source: absorbing quantities as in PROSPECT (Jacquemoud and Baret 1990; Feret et
        al. 2008); Beer-Lambert over a mean path in place of its plate model.
    """
    mean_path = 2.4
    absorption = (
        chlorophyll * _CHLOROPHYLL
        + carotenoid * _CAROTENOID
        + water_cm * _WATER
        + dry_matter * _DRY_MATTER
        + brown * _BROWN_PIGMENT
    )
    albedo: Spectrum = 0.04 + 0.92 * np.exp(-mean_path * absorption)
    return albedo


def canopy(leaves: Spectrum, background: Spectrum, leaf_area: float) -> Spectrum:
    """Reflectance of a layer of leaves over a background.

    Args:
        leaves: albedo of one leaf, from `leaf_albedo`.
        background: reflectance of the ground below.
        leaf_area: leaf area index in square metres a square metre, 0..8.

    Source: Goudriaan 1977, Crop micrometeorology (two-stream, horizontal leaves). That
        leaves clump, so that gaps stay open, is after Nilson 1971; the share of light
        lost to mutual shade is an order of size, not a measurement.
    """
    extinction, mutual_shade, gaps = 0.7, 0.82, 0.06
    root = np.sqrt(1.0 - leaves)
    deep = (1.0 - root) / (1.0 + root)
    contrast = (deep - background) / (deep * background - 1.0)
    decay = contrast * np.exp(-2.0 * extinction * root * leaf_area)
    layered = (deep + decay) / (1.0 + deep * decay)
    cover = 1.0 - np.exp(-extinction * leaf_area)
    shaded = layered * (1.0 - cover * (1.0 - mutual_shade))
    clumped: Spectrum = (1.0 - gaps) * shaded + gaps * background
    return clumped


def soil(
    brightness: float = 0.3,
    iron: float = 0.3,
    clay: float = 0.3,
    wetness: float = 0.0,
) -> Spectrum:
    """Reflectance of bare soil.

    Args:
        brightness: reflectance of the dry soil around 1600 nm, 0.1..0.6.
        iron: strength of the ferric features at 480, 530 and 870 nm, 0..1.
        clay: strength of the hydroxyl features at 1410, 1915 and 2205 nm, 0..1.
        wetness: 0 air-dry .. 1 saturated.

    Source: shapes after Stoner and Baumgardner 1981; ferric and clay features after
        Hunt and Salisbury 1970; film of water after Bach and Mauser 1994; darkening
        by internal reflection after Lekner and Dorf 1988.
    """
    slope = 0.32 + 0.30 * (1.0 - iron)
    rise = slope + (1.0 - slope) * (
        1.0 - np.exp(-(WAVELENGTHS_NM - 400.0) / (300.0 + 150.0 * iron))
    )
    ferric = 1.0 - iron * (
        0.30 * _bump(430, 60) + 0.20 * _bump(530, 35) + 0.14 * _bump(880, 70)
    )
    hydroxyl = 1.0 - clay * (
        0.12 * _bump(1410, 18) + 0.22 * _bump(1915, 28) + 0.22 * _bump(2205, 24)
    )
    dry = brightness * rise * ferric * hydroxyl
    darkened = dry * (1.0 - 0.45 * wetness * (1.0 - dry))
    wet: Spectrum = darkened * np.exp(-2.0 * 0.012 * wetness * _WATER)
    return np.clip(wet, 0.005, 1.0)


def water_body(
    chlorophyll: float = 2.0,
    dissolved: float = 0.2,
    sediment: float = 2.0,
    glint: float = 0.005,
) -> Spectrum:
    """Reflectance of deep natural water.

    Args:
        chlorophyll: milligrams a cubic metre, 0.05..60.
        dissolved: absorption of coloured dissolved matter at 440 nm in 1/m, 0.01..5.
        sediment: suspended matter in grams a cubic metre, 0.1..200.
        glint: reflection of the surface, the same at all wavelengths, 0..0.05.

    Source: Lee, Carder and Arnone 2002 (quasi-analytical reflectance from absorption
        and backscatter); dissolved matter after Bricaud et al. 1981; backscatter of
        pure water after Morel 1974.
    """
    sediment_backscatter, sediment_absorption = 0.014, 0.025
    absorption = (
        100.0 * _WATER
        + dissolved * np.exp(-0.015 * (WAVELENGTHS_NM - 440.0))
        + 0.04 * chlorophyll**0.65 * (_bump(440, 45) + 0.5 * _bump(674, 14))
        + sediment_absorption * sediment * np.exp(-0.011 * (WAVELENGTHS_NM - 440.0))
    )
    backscatter = 0.0010 * (550.0 / WAVELENGTHS_NM) ** 4.3 + (
        sediment_backscatter * sediment + 0.002 * chlorophyll
    ) * (550.0 / WAVELENGTHS_NM)
    ratio = backscatter / (absorption + backscatter)
    below = 0.0895 * ratio + 0.1247 * ratio**2
    above: Spectrum = np.pi * 0.52 * below / (1.0 - 1.7 * below) + glint
    return above


def snow(grain_mm: float = 0.3, dirt: float = 0.0) -> Spectrum:
    """Reflectance of snow.

    Args:
        grain_mm: effective diameter of the grains, 0.05 fresh .. 2 old.
        dirt: 0 clean .. 1 grey with dust.

    Source: Kokhanovsky and Zege 2004, Applied Optics 43 (asymptotic theory).
    """
    shape = 4.5
    clean = np.exp(-shape * np.sqrt(0.1 * grain_mm * _ICE))
    dirty: Spectrum = 0.97 * clean * (1.0 - dirt * (0.25 + 0.25 * _BROWN_PIGMENT))
    return np.clip(dirty, 0.01, 1.0)


def asphalt(brightness: float = 0.12) -> Spectrum:
    """Reflectance of asphalt; `brightness` around 1600 nm, 0.06 new .. 0.25 worn.

    Source: Herold et al. 2004, IEEE TGRS 42 (rise with age, hydrocarbons at 2310 nm).
    """
    rise = 0.55 + 0.45 * (1.0 - np.exp(-(WAVELENGTHS_NM - 400.0) / 500.0))
    worn: Spectrum = brightness * rise * (1.0 - 0.08 * _bump(2310, 40))
    return worn


def concrete(brightness: float = 0.35) -> Spectrum:
    """Reflectance of concrete; `brightness` around 1600 nm, 0.2..0.5.

    Source: Herold et al. 2004, IEEE TGRS 42 (carbonate at 2340 nm).
    """
    rise = 0.50 + 0.50 * (1.0 - np.exp(-(WAVELENGTHS_NM - 400.0) / 220.0))
    features = 1.0 - 0.10 * _bump(2340, 40) - 0.08 * _bump(1930, 40)
    plain: Spectrum = brightness * rise * features
    return plain


def tile_roof(brightness: float = 0.35, redness: float = 0.7) -> Spectrum:
    """Reflectance of clay tiles; `redness` 0 grey .. 1 red.

    Source: Herold et al. 2004, IEEE TGRS 42: ferric absorption below 600 nm.
    """
    edge = 1.0 / (1.0 + np.exp(-(WAVELENGTHS_NM - 585.0) / 28.0))
    floor = 1.0 - 0.72 * redness
    tiles: Spectrum = (
        brightness
        * (floor + (1.0 - floor) * edge)
        * (0.75 + 0.25 * (1.0 - np.exp(-(WAVELENGTHS_NM - 400.0) / 600.0)))
        * (1.0 - 0.12 * redness * _bump(870, 70))
    )
    return tiles


def metal_roof(brightness: float = 0.5, tint: float = 0.0) -> Spectrum:
    """Reflectance of coated metal; `tint` -1 blue paint, 0 bare, 1 warm paint.

    Source: Heiden et al. 2007, Remote Sensing of Environment 111 (shape only).
    """
    visible = np.clip((WAVELENGTHS_NM - 550.0) / 250.0, -1.0, 1.0)
    paint = 1.0 + 0.25 * tint * visible * np.exp(-(WAVELENGTHS_NM - 400.0) / 900.0)
    roof: Spectrum = brightness * paint * (1.0 - 0.12 * _bump(850, 120))
    return np.clip(roof, 0.01, 1.0)


def cloud(thickness: float = 1.0) -> Spectrum:
    """Reflectance of a cloud of water drops; `thickness` 0..1 scales its brightness.

    Source: Platnick et al. 2003 (drop absorption at 1600 and 2100 nm).
    """
    drops = 0.78 * np.exp(-0.11 * np.sqrt(_WATER))
    bright: Spectrum = drops * (0.75 + 0.25 * thickness)
    return bright


def shade() -> Spectrum:
    """Reflectance of what lies in shadow: a little sky light, more in the blue.

    Source: shade as an endmember after Adams, Smith and Johnson 1986.
    """
    sky: Spectrum = 0.018 * (450.0 / WAVELENGTHS_NM) ** 2
    return sky
