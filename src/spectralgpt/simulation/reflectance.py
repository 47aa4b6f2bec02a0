"""Reflectance of land covers as formulas of a few physical quantities, band by band.

Each function gives a reflectance (0..1) on `WAVELENGTHS_NM` from quantities with a
meaning (chlorophyll, leaf area, wetness, sediment). The shapes follow published models
and absorption features, cited at each function; no measured spectrum is stored here.
`to_bands` is what a sensor makes of a spectrum.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spectralgpt.sensors import Band

Spectrum = NDArray[np.float64]

WAVELENGTHS_NM: Final[Spectrum] = np.arange(400.0, 2501.0, 2.0)

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


def _bumps(*bumps: tuple[float, float, float]) -> Spectrum:
    """Sum of Gaussians of some height, centre and standard deviation in nm."""
    height, center, width = np.array(bumps).T[..., None]
    shapes = height * np.exp(-0.5 * ((WAVELENGTHS_NM - center) / width) ** 2)
    total: Spectrum = shapes.sum(axis=0)
    return total


def _rise(floor: float, scale_nm: float) -> Spectrum:
    """Rise from `floor` at 400 nm towards 1, as of most minerals."""
    rise: Spectrum = 1.0 - (1.0 - floor) * np.exp(-(WAVELENGTHS_NM - 400.0) / scale_nm)
    return rise


_WATER_NM, _LOGS = list(_WATER_ABSORPTION), np.log(list(_WATER_ABSORPTION.values()))
_WATER: Final = np.exp(np.interp(WAVELENGTHS_NM, _WATER_NM, _LOGS))
# The bands of ice lie some 30 nm beyond those of the liquid (Warren and Brandt 2008).
_ICE: Final = np.exp(np.interp(WAVELENGTHS_NM - 30.0, _WATER_NM, _LOGS))
# Chlorophyll a and b in the leaf, per microgram per square centimetre: Soret bands in
# the blue, Q bands in the red, a weak green window (Feret et al. 2008, PROSPECT-4/5).
_CHLOROPHYLL: Final = _bumps(
    (0.045, 435, 36), (0.02, 485, 22), (0.013, 560, 45), (0.014, 630, 26),
    (0.036, 674, 17),
)  # fmt: skip
_CAROTENOID: Final = _bumps((0.48, 450, 24), (0.38, 485, 18))
_BROWN_PIGMENT: Final = np.exp(-(WAVELENGTHS_NM - 400.0) / 160.0)
# Dry matter per gram per square centimetre: cellulose and lignin overtones at 1730,
# 2100 and 2300 nm (Curran 1989; Kokaly and Clark 1999) on a slow rise.
_RISE: Final = 2.0 + 11.0 * np.clip((WAVELENGTHS_NM - 900.0) / 1600.0, 0.0, None)
_DRY_MATTER: Final = _RISE + _bumps((5, 1730, 35), (16, 2100, 55), (14, 2310, 50))
# Of minerals (Hunt and Salisbury 1970), of fired clay and of carbon.
_FERRIC: Final = _bumps((0.3, 430, 60), (0.2, 530, 35), (0.14, 880, 70))
_HYDROXYL: Final = _bumps((0.12, 1410, 18), (0.22, 1915, 28), (0.22, 2205, 24))
_FIRED: Final = 0.72 / (1.0 + np.exp((WAVELENGTHS_NM - 585.0) / 28.0))
_CARBON: Final = _bumps((0.09, 2325, 45))
_ALGAE: Final = _bumps((1.0, 440, 45), (0.5, 674, 14))

VAPOUR: Final = _bumps(
    (0.3, 762, 4), (0.08, 820, 12), (0.65, 940, 22), (0.75, 1130, 28),
    (6.0, 1385, 45), (5.0, 1880, 60), (0.3, 2010, 20), (1.5, 2490, 60),
)  # fmt: skip
"""Optical thickness of water vapour and oxygen in the air."""

# Drops absorb at 1600 and 2100 nm (Platnick et al. 2003).
CLOUD: Final[Spectrum] = 0.78 * np.exp(-0.11 * np.sqrt(_WATER))
"""Reflectance of a thick cloud of water drops."""

# Shade as an endmember after Adams, Smith and Johnson 1986.
SHADE: Final[Spectrum] = 0.018 * (450.0 / WAVELENGTHS_NM) ** 2
"""Reflectance of what lies in shadow: a little sky light, more in the blue."""


def vegetation(
    background: Spectrum,
    leaf_area: float,
    chlorophyll: float = 40.0,
    water_cm: float = 0.012,
    dry_matter: float = 0.006,
    brown: float = 0.0,
) -> Spectrum:
    """Reflectance of a layer of leaves over a background.

    Args:
        background: reflectance of the ground below.
        leaf_area: leaf area index in square metres a square metre, 0..8.
        chlorophyll: of a leaf, micrograms per square centimetre, 0..90.
        water_cm: equivalent water thickness in cm, 0.001..0.04.
        dry_matter: grams per square centimetre, 0.002..0.02.
        brown: amount of brown pigment, 0 green .. 3 dead.

    Source: absorbing quantities of a leaf as in PROSPECT (Jacquemoud and Baret 1990;
        Feret et al. 2008), with Beer-Lambert over a mean path in place of its plates.
        The layer: Goudriaan 1977, Crop micrometeorology (two-stream, horizontal
        leaves). That leaves clump, so that gaps stay open, is after Nilson 1971; the
        share of light lost to mutual shade is an order of size, not a measurement.
    """
    mean_path, extinction, mutual_shade, gaps = 2.4, 0.7, 0.82, 0.06
    pigments = chlorophyll * _CHLOROPHYLL + _CAROTENOID + brown * _BROWN_PIGMENT
    absorption = pigments + water_cm * _WATER + dry_matter * _DRY_MATTER
    leaves = 0.04 + 0.92 * np.exp(-mean_path * absorption)
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
    brightness: float = 0.3, iron: float = 0.3, clay: float = 0.3, wetness: float = 0.0
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
    dry = brightness * _rise(0.62 - 0.30 * iron, 300.0 + 150.0 * iron)
    dry *= (1.0 - iron * _FERRIC) * (1.0 - clay * _HYDROXYL)
    darkened = dry * (1.0 - 0.45 * wetness * (1.0 - dry))
    return np.clip(darkened * np.exp(-2.0 * 0.012 * wetness * _WATER), 0.005, 1.0)


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
    absorption = (
        100.0 * _WATER
        + dissolved * np.exp(-0.015 * (WAVELENGTHS_NM - 440.0))
        + 0.04 * chlorophyll**0.65 * _ALGAE
        + 0.025 * sediment * np.exp(-0.011 * (WAVELENGTHS_NM - 440.0))
    )
    relative = 550.0 / WAVELENGTHS_NM
    particles = 0.014 * sediment + 0.002 * chlorophyll
    backscatter = 0.0010 * relative**4.3 + particles * relative
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
    clean = 0.97 * np.exp(-4.5 * np.sqrt(0.1 * grain_mm * _ICE))
    return np.clip(clean * (1.0 - dirt * (0.25 + 0.25 * _BROWN_PIGMENT)), 0.01, 1.0)


def built(brightness: float, rise_nm: float, redness: float = 0.0) -> Spectrum:
    """Reflectance of asphalt, concrete, tiles or metal.

    Args:
        brightness: around 1600 nm, 0.06 (new asphalt) .. 0.7 (metal).
        rise_nm: wavelengths that reflectance takes to rise: 500 asphalt, 220 concrete,
            50 metal.
        redness: 0 grey .. 1 red clay.

    Source: Herold et al. 2004, IEEE TGRS 42: ferric absorption of clay below 600 nm,
        hydrocarbons and carbonate around 2320 nm elsewhere; metal after Heiden et al.
        2007, Remote Sensing of Environment 111 (shape only).
    """
    features = redness * _FIRED + (1.0 - redness) * _CARBON
    masonry: Spectrum = brightness * _rise(0.53, rise_nm) * (1.0 - features)
    return masonry


def to_bands(spectra: Spectrum, bands: tuple[Band, ...]) -> NDArray[np.float32]:
    """Weigh spectra (..., wavelengths) with the responses of D bands: (..., D)."""
    values: NDArray[np.float32] = spectra.astype(np.float32) @ _responses(bands).T
    return values


@lru_cache(maxsize=16)
def _responses(bands: tuple[Band, ...]) -> NDArray[np.float32]:
    """Response of each band, (D, wavelengths), rows that sum to 1.

    A flat top with Gaussian-like shoulders, as filters of multispectral cameras have;
    narrow bands are Gaussians, as those of imaging spectrometers are.
    """
    narrow_nm, least_nm = 15.0, 5.0
    center, width = np.array([(b.wavelength_nm, b.width_nm) for b in bands]).T[
        ..., None
    ]
    distance = np.abs(WAVELENGTHS_NM - center) / (np.maximum(width, least_nm) / 2.0)
    order = np.where(width < narrow_nm, 2.0, 6.0)
    responses = np.exp(-np.log(2.0) * np.minimum(distance, 6.0) ** order)
    normed: NDArray[np.float32] = responses / responses.sum(axis=1, keepdims=True)
    return normed.astype(np.float32)
