"""Bring images of one sensor into the bands of another, or of a model.

A wanted band is measured by the sensor, or is a weighted sum of narrower bands, or is
estimated: a library of reflectance spectra, each seen through the responses of both
sensors, tells how their bands go together; or imagery that has the wanted bands does.
What cannot be had is absent. How well each band is had is measured on spectra of the
library, or on images, that the fit did not see.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import BandError, DataError, ShapeError
from spectralgpt.estimating import SAID, Estimator
from spectralgpt.rasters import (
    SENSOR_TAG,
    Assumed,
    Grid,
    Layers,
    OpenFiles,
    Raster,
    RasterFile,
    Scene,
    Window,
    writing_map,
)
from spectralgpt.rasters.files import RESAMPLING_TAG, UNIT_TAG
from spectralgpt.sensors import Band, Sensor, list_sensors, load_sensor, match_bands
from spectralgpt.spectra import (
    COVERED,
    SpectralLibrary,
    load_library,
    response_of,
    spread_response,
)

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Status = Literal["measured", "resampled", "estimated", "absent"]
MOST_ERROR_SHARE = 0.25
"""A band is absent whose expected error is a larger share of its spread (library)."""
_SHOWN = 3
_MOST_NAMED = 8
_KEPT = 32
"""Fits that are kept."""
_SIMILAR = 2
"""A band is taken for another one that is up to so many times as wide."""
_FINE = 0.75
"""Bands so many widths of another one apart, at most, can be summed to it."""
_MOST_SUM_ERROR = 0.005
_LEAST_BANDS = 2
_LEAST_PIXELS, _LEAST_IMAGES = 200, 2
_MOST_VALUES = 1 << 24
"""Of an image, read and made, that are held at once to write it."""


@dataclass(frozen=True)
class BandSource:
    """How one wanted band is had.

    Args:
        band: that is wanted.
        status: `measured`, `resampled` (a sum of narrower bands), `estimated` or
            `absent`.
        sources: the found bands that it is made of; none if absent.
        error: expected error, reflectance (root mean square over the library); NaN
            where the library tells nothing.
        interval: half the width of the interval that holds the band's value with 90 %
            probability, over the whole library; NaN likewise.
        reason: why it is absent; or, of an estimate that is no good, but is shown with
            the others of its band group, why it is no good.
    """

    band: Band
    status: Status
    sources: tuple[Band, ...]
    error: float
    interval: float
    reason: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """What a layer of it says in a file."""
        return wavelength_tags(self.band) | {
            "STATUS": self.status + (" (poor)" if self.reason else ""),
            "EXPECTED_ERROR": f"{self.error:.5f}",
            "INTERVAL_90": f"{self.interval:.5f}",
        }

    def __str__(self) -> str:
        band = f"{self.band.name} ({self.band.wavelength_nm:g} nm)"
        if self.status == "absent":
            return f"{band}: absent, {self.reason}"
        shown = ", ".join(source.name for source in self.sources[:_SHOWN])
        if len(self.sources) > _SHOWN:
            shown = f"{len(self.sources)} bands, {shown} ..."
        error = "error unknown" if np.isnan(self.error) else f"+-{self.error:.4f}"
        poor = ", poorly" if self.reason else ""
        return f"{band}: {self.status}{poor} from {shown}, {error}"


def wavelength_tags(band: Band) -> dict[str, str]:
    """Return what a layer says of where its band lies, as ENVI names it."""
    return {
        "wavelength": f"{band.wavelength_nm:g}",
        "wavelength_units": "Nanometers",
        "fwhm": f"{band.width_nm:g}",
    }


@dataclass(frozen=True, eq=False)
class Imagery:
    """Pixels of imagery that has the wanted bands, to learn from.

    Args:
        bands: of all pixels, D.
        pixels: (N, D) reflectance.
        classes: (N,) the image that each is of; errors are measured on other images.

    Raises:
        DataError: there are too few pixels, or they are of one image.
    """

    bands: tuple[Band, ...]
    pixels: DoubleArray
    classes: NDArray[np.str_]

    def __post_init__(self) -> None:
        images = len(np.unique(self.classes))
        if len(self.pixels) < _LEAST_PIXELS or images < _LEAST_IMAGES:
            raise DataError(
                f"{len(self.pixels)} pixels of {images} images, or parts of one, are "
                f"too few to learn from: give {_LEAST_IMAGES} images with at least "
                f"{_LEAST_PIXELS} pixels that are valid in all bands."
            )

    def sense(self, bands: Sequence[Band]) -> DoubleArray:
        """Return what bands measure, (N, C): NaN where no band is much the same."""
        seen = np.full((len(self.pixels), len(bands)), np.nan)
        for at, match in enumerate(match_bands(bands, self.bands, allow_missing=True)):
            if match is not None and _is_similar(bands[at], self.bands[match]):
                seen[:, at] = self.pixels[:, match]
        return seen


@dataclass(frozen=True, eq=False)
class Resampling:
    """How the bands of an image become those that are wanted; see `fit_resampling`.

    Args:
        found: bands of the image, C.
        sources: how each of the wanted bands is had, D.
        weights: (D, C) of the bands that are measured or resampled, 0 for the others.
        estimator: what estimates bands, None if none are; in the order of `sources`.
    """

    found: tuple[Band, ...]
    sources: tuple[BandSource, ...]
    weights: FloatArray
    estimator: "Estimator | None"

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are wanted."""
        return tuple(source.band for source in self.sources)

    @property
    def used(self) -> tuple[Band, ...]:
        """The found bands that any wanted one is made of."""
        used = {band for source in self.sources for band in source.sources}
        return tuple(band for band in self.found if band in used)

    @property
    def summary(self) -> str:
        """How the bands are had, in one line."""
        parts = []
        for status in get_args(Status):
            shown = []
            for source in (self.sources[at] for at in self.positions(status)):
                error = f" +-{source.error:.4f}" if status == "estimated" else ""
                poor = " (poor)" if error and source.reason else ""
                shown.append(f"{source.band.name}{error}{poor}")
            parts += [f"{status} {', '.join(shown)}"] if shown else []
        return "; ".join(parts)

    def absent_groups(self, bands_per_token: int) -> tuple[int, ...]:
        """Return the groups of so many wanted bands of which all are absent."""
        absent = self.positions("absent")
        count = len(self.sources)
        # The last group may hold fewer bands.
        spans = [
            range(first, min(first + bands_per_token, count))
            for first in range(0, count, bands_per_token)
        ]
        return tuple(g for g, span in enumerate(spans) if set(span) <= set(absent))

    def positions(self, status: Status) -> list[int]:
        """Return which of the wanted bands have a status."""
        return [at for at, s in enumerate(self.sources) if s.status == status]

    def apply(
        self, pixels: FloatArray, valid: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Bring pixels into the wanted bands; see `estimate`.

        Returns:
            pixels and valid, (D, H, W) each; invalid pixels are 0.
        """
        made, known, _, _ = self.estimate(pixels, valid)
        return made, known

    def interval(self, pixels: FloatArray, valid: BoolArray) -> FloatArray:
        """Return half the widths of intervals alone, (D, H, W); see `estimate`."""
        return self.estimate(pixels, valid)[2]

    def estimate(
        self, pixels: FloatArray, valid: BoolArray
    ) -> tuple[FloatArray, BoolArray, FloatArray, BoolArray]:
        """Bring pixels into the wanted bands, and say how far they can be trusted.

        A pixel is valid in a band where it is in all bands that this one is made of;
        absent bands are invalid everywhere. Invalid pixels are 0.

        Args:
            pixels: (C, H, W) reflectance in the order of `found`.
            valid: (C, H, W).

        Returns:
            pixels and valid, (D, H, W) each; half the widths of the intervals that hold
            each value with 90 % probability, (D, H, W), wider with the distance from
            what was learned from, NaN where nothing is known; and where estimates stand
            on spectra like those, (H, W), true where nothing is estimated.

        Raises:
            ShapeError: the arrays are of other bands.
        """
        known = self._known(pixels, valid)
        clean = np.where(valid, pixels, np.float32(0))
        made = np.tensordot(self.weights, clean, axes=1).astype(np.float32)
        wide = np.array([source.interval for source in self.sources], np.float32)
        wide = np.broadcast_to(wide[:, None, None], known.shape).copy()
        is_like = np.ones(valid.shape[1:], np.bool_)
        if self.estimator is not None:
            at = self.positions("estimated")
            made[at], wide[at], is_like = self.estimator.apply(clean)
            is_like &= np.logical_and.reduce(valid[self.estimator.layers])
        made = np.where(known, made, np.float32(0))
        return made, known, np.where(known, wide, np.float32("nan")), is_like

    def _known(self, pixels: FloatArray, valid: BoolArray) -> BoolArray:
        if pixels.shape != valid.shape or len(pixels) != len(self.found):
            raise ShapeError(
                f"pixels {pixels.shape} and valid {valid.shape} must both be (bands, "
                f"rows, columns) of {len(self.found)} bands."
            )
        known = np.zeros((len(self.sources), *valid.shape[1:]), np.bool_)
        for at, source in enumerate(self.sources):
            if source.sources:
                layers = [self.found.index(band) for band in source.sources]
                known[at] = valid[layers].all(axis=0)
        return known


@dataclass(frozen=True, kw_only=True)
class ResampledFile(RasterFile):
    """An image on disk that is read in the bands of a model, or of another sensor.

    What it has of an image's own, such as the files, is that of the image.

    Args:
        source: the image.
        resampling: how its bands become those that are wanted.
        bands_per_token: neighbours among the wanted bands that a model takes together.
        wanted_sensor: name of the sensor whose bands are wanted, "" if no registry has
            it.
    """

    source: RasterFile
    resampling: Resampling
    bands_per_token: int = 1
    wanted_sensor: str = ""

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are wanted, in their order; absent ones are invalid."""
        return self.resampling.bands

    def require(self, bands: Sequence[Band] | None) -> tuple[Band, ...]:
        """Return the bands asked for; see `RasterFile.require`."""
        missing = [b.name for b in bands or () if b not in self.bands]
        if missing:
            raise BandError(f"{self.name} is not resampled to {', '.join(missing)}.")
        return self.bands if bands is None else tuple(bands)

    def grid(self, bands: Sequence[Band] | None = None) -> Grid:
        """The finest grid among the bands that any wanted one is made of."""
        return self.source.grid(self.resampling.used)

    def shape(self, bands: Sequence[Band] | None = None) -> tuple[int, int]:
        """(H, W) of `grid`."""
        return self.source.shape(self.resampling.used)

    def located(
        self, bands: Sequence[Band] | None = None, files: OpenFiles | None = None
    ) -> RasterFile:
        """Return it with grids read from the headers; see `RasterFile.located`."""
        return replace(self, source=self.source.located(self.resampling.used, files))

    def read(
        self,
        bands: Sequence[Band],
        grid: Grid,
        window: Window,
        size: tuple[int, int],
        files: OpenFiles | None,
    ) -> Raster:
        """Read a window of the image and resample it; see `RasterFile.read`."""
        found = self.resampling.found
        raster = self.source.read(self.resampling.used, grid, window, size, files)
        shape = (len(found), *size)
        pixels, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        at = [found.index(band) for band in raster.bands]
        pixels[at], valid[at] = raster.pixels, raster.valid
        pixels, valid = self.resampling.apply(pixels, valid)
        order = [self.bands.index(band) for band in bands]
        made = pixels[order], valid[order], tuple(bands)
        return Raster(*made, raster.crs, raster.transform, self.name)


def resample_file(
    item: RasterFile,
    assumed: Assumed,
    wanted: Sensor | None = None,
    like: Imagery | None = None,
) -> ResampledFile:
    """Bring an image into the bands that a model takes.

    Args:
        item: the image.
        assumed: the bands.
        wanted: whose measured responses they have; the assumed sensor's if None.
        like: see `fit_resampling`.

    Raises:
        BandError: not one of the bands can be had.
    """
    if wanted is None and assumed.sensor in list_sensors():
        wanted = load_sensor(str(assumed.sensor))
    try:
        resampling = fit_resampling(
            item.bands,
            assumed.model_bands,
            sensor=item.sensor,
            wanted_sensor=wanted,
            bands_per_token=assumed.bands_per_token,
            like=like,
        )
    except BandError as error:
        raise BandError(f"{item.name}: {error}") from None
    # Of mosaics, too, these are the fields that all images have.
    values = {name: getattr(item, name) for name in RasterFile.__dataclass_fields__}
    return ResampledFile(
        **values,
        source=item,
        resampling=resampling,
        bands_per_token=assumed.bands_per_token,
        wanted_sensor=wanted.name if wanted and wanted.name in list_sensors() else "",
    )


def write_resampled(
    item: ResampledFile, path: Path, progress: Callable[[float], None] | None = None
) -> Path:
    """Write what is not absent as reflectance, a Cloud-Optimized GeoTIFF of float32.

    Sensor, unit and bands stand in it, so that it is read without being told anything;
    each layer says its wavelength, how it was had and its expected error.

    Args:
        item: the image.
        path: the file, which appears when it is whole.
        progress: called with the share that is done, 0..1.

    Raises:
        RasterError: the image cannot be read.
        OutputError: the file cannot be written.
    """
    had = [source for source in item.resampling.sources if source.status != "absent"]
    bands = [source.band for source in had]
    sensor = {SENSOR_TAG: item.wanted_sensor} if item.wanted_sensor else {}
    layers = Layers.of_measures(
        [band.name for band in bands],
        {UNIT_TAG: "reflectance"} | sensor | resampling_of([item]),
    )
    layers = replace(layers, layer_tags=tuple(source.tags for source in had))
    with Scene(item, bands) as scene, writing_map(path, scene.grid, layers) as write:
        height, width = scene.shape
        bands_held = len(item.resampling.found) + len(item.bands)
        rows = max(1, _MOST_VALUES // (width * bands_held))
        for row in range(0, height, rows):
            window = Window(row, 0, min(rows, height - row), width)
            raster = scene.read(window)
            write(row, np.where(raster.valid, raster.pixels, np.float32("nan")))
            if progress is not None:
                progress((row + window.height) / height)
    return path


def resampling_of(items: Iterable[RasterFile]) -> dict[str, str]:
    """Return the tag that outputs carry whose images were resampled; else nothing."""
    found = set()
    for item in items:
        own = [item.resampling.summary] if isinstance(item, ResampledFile) else []
        # What the file itself was made by comes first.
        found.add(", and of these ".join(filter(None, (item.resampled, *own))))
    shown = " | ".join(sorted(found - {""}))
    return {RESAMPLING_TAG: shown} if shown else {}


def present(item: RasterFile, bands: Sequence[Band]) -> list[int]:
    """Return which of the bands that are read of an image are not absent in it."""
    if not isinstance(item, ResampledFile):
        return list(range(len(bands)))
    had = [s.band for s in item.resampling.sources if s.status != "absent"]
    return [at for at, band in enumerate(bands) if band in had]


def absent_groups(items: Iterable[RasterFile]) -> tuple[int, ...]:
    """Return the band groups of a model that none of its images has.

    Raises:
        BandError: images lack different groups, which no batch can be made of.
    """
    found = {
        item.resampling.absent_groups(item.bands_per_token)
        if isinstance(item, ResampledFile)
        else ()
        for item in items
    }
    if len(found) > 1:
        raise BandError(
            "images of several sensors lack different bands of the model: use those of "
            "one sensor at a time."
        )
    return next(iter(found), ())


def fit_resampling(
    found: Sequence[Band],
    wanted: Sequence[Band],
    *,
    sensor: Sensor | None = None,
    wanted_sensor: Sensor | None = None,
    most_error_share: float = MOST_ERROR_SHARE,
    bands_per_token: int = 1,
    library: SpectralLibrary | None = None,
    like: Imagery | None = None,
) -> Resampling:
    """Find out how each wanted band can be had from those that an image has.

    The first of these that holds: a found band is the same (see `match_bands`) and much
    as wide; narrower bands cover its response, and are summed by it; a found band is
    the same; it is estimated from all bands; it is absent. Each takes seconds at most,
    and what was fitted on the whole library is kept.

    Args:
        found: bands of the image.
        wanted: bands to bring it to.
        sensor: whose measured responses the found bands have; Gaussians without.
        wanted_sensor: the same for the wanted bands.
        most_error_share: a band is absent whose expected error is a larger share of its
            standard deviation in the library, or in the imagery.
        bands_per_token: neighbours among the wanted bands that a model takes together;
            where it gets one of them, it gets poor estimates of the others, too.
        library: spectra to learn from; those that come with the package if None.
        like: imagery to learn estimates from, together with a library that is given;
            if none is, alone.

    Raises:
        BandError: not one of the bands can be had, or there are none.
    """
    curves = [() if s is None else s.responses for s in (sensor, wanted_sensor)]
    rules, sensors = (most_error_share, bands_per_token), (sensor, wanted_sensor)
    bands, spectra = (tuple(found), tuple(wanted)), library or load_library()
    if like is None:
        return _fit_library(*bands, sensors, rules, spectra, *curves)
    is_joint = library is not None
    return _fit(*bands, sensors, rules, spectra, like, is_joint)


@functools.lru_cache(_KEPT)
def _fit_library(
    found: tuple[Band, ...],
    wanted: tuple[Band, ...],
    sensors: tuple[Sensor | None, Sensor | None],
    rules: tuple[float, int],
    library: SpectralLibrary,
    # Sensors that differ in curves alone are equal; what is kept of them is not.
    *_curves: object,
) -> Resampling:
    return _fit(found, wanted, sensors, rules, library, None, False)


def _fit(
    found: tuple[Band, ...],
    wanted: tuple[Band, ...],
    sensors: tuple[Sensor | None, Sensor | None],
    rules: tuple[float, int],
    library: SpectralLibrary,
    like: Imagery | None,
    is_joint: bool,
) -> Resampling:
    if not found or not wanted:
        raise BandError("resampling needs bands that are found and bands to make.")
    seen, target = library.sense(found, sensors[0]), library.sense(wanted, sensors[1])
    weights = np.zeros((len(wanted), len(found)))
    sources: dict[int, BandSource] = {}
    matches = match_bands(wanted, found, allow_missing=True)
    for at, (band, match) in enumerate(zip(wanted, matches, strict=True)):
        taken = summed = None
        is_similar = False
        if match is not None:
            taken = np.eye(len(found))[match]
            is_similar = _is_similar(band, found[match])
        if not is_similar:
            summed = _sum_narrow(band, found, *response_of(band, sensors[1]))
        ways: list[tuple[Status, DoubleArray | None]]
        ways = [("resampled", summed), ("measured", taken)]
        for status, own in ways:
            if own is None:
                continue
            used = np.flatnonzero(own)
            error = seen[:, used] @ own[used] - target[:, at]
            if status == "measured" or not _rmse(error) > _MOST_SUM_ERROR:
                parts = tuple(found[i] for i in used)
                numbers = _rmse(error), _half_width(error)
                weights[at] = own
                sources[at] = BandSource(band, status, parts, *numbers)
                break
    classes = library.classes
    if like is not None:
        step = max(1, len(seen) // len(like.pixels))
        rows = np.arange(0, len(seen) if is_joint else 0, step)
        seen = np.concatenate([like.sense(found), seen[rows]])
        target = np.concatenate([like.sense(wanted), target[rows]])
        kinds = np.full(len(like.pixels), "pixel") if is_joint else like.classes
        classes = np.concatenate([kinds, classes[rows]])
    is_fitted = like is not None and not is_joint
    estimator, estimated = _estimate(
        found, wanted, sources, rules, seen, target, classes, is_fitted
    )
    sources |= estimated
    made_of = tuple(sources[at] for at in range(len(wanted)))
    if all(source.status == "absent" for source in made_of):
        raise BandError(
            f"none of the bands {_names(wanted)} can be had from {_names(found)}: "
            f"{made_of[0].reason}. Use images with more bands."
        )
    return Resampling(found, made_of, weights.astype(np.float32), estimator)


def _is_similar(band: Band, other: Band) -> bool:
    return 1 / _SIMILAR <= band.width_nm / other.width_nm <= _SIMILAR


def _sum_narrow(
    band: Band, found: tuple[Band, ...], nm: DoubleArray, response: DoubleArray
) -> DoubleArray | None:
    """Return weights (C,) of narrower bands that add up to a band, None if they do not.

    Between the centres of two bands, the spectrum is taken to be straight.
    """
    narrow = [i for i, other in enumerate(found) if other.width_nm < band.width_nm]
    centres, first = np.unique(
        [found[i].wavelength_nm for i in narrow], return_index=True
    )
    if len(centres) < _LEAST_BANDS:
        return None
    after = np.searchsorted(centres, nm).clip(1, len(centres) - 1)
    inside = (nm >= centres[0]) & (nm <= centres[-1])
    inside &= centres[after] - centres[after - 1] <= _FINE * band.width_nm
    share = response[inside].sum()
    if share < COVERED:
        return None
    weights = np.zeros(len(found))
    at = np.array(narrow)[first]
    weights[at] = spread_response(centres, nm[inside], response[inside] / share)
    return weights


def _estimate(
    found: tuple[Band, ...],
    wanted: tuple[Band, ...],
    had: Mapping[int, BandSource],
    rules: tuple[float, int],
    seen: DoubleArray,
    target: DoubleArray,
    classes: NDArray[np.str_],
    is_fitted: bool,
) -> "tuple[Estimator | None, dict[int, BandSource]]":
    """Fit what estimates the bands that are not had; say by position how each is."""
    (most_share, group), nan = rules, float("nan")
    usable = [i for i in range(len(found)) if np.isfinite(seen[:, i]).all()]
    usable.sort(key=lambda i: found[i].wavelength_nm)
    reason = "outside of the known spectra"
    if len(usable) < _LEAST_BANDS:
        reason = (
            f"estimating it needs at least {_LEAST_BANDS} bands from 400 to 2450 nm"
        )
    sources = {
        at: BandSource(band, "absent", (), nan, nan, reason)
        for at, band in enumerate(wanted)
        if at not in had
    }
    known = [at for at in sources if np.isfinite(target[:, at]).all()]
    if len(usable) < _LEAST_BANDS or not known:
        return None, sources
    nm, target_nm = (
        np.array([bands[at].wavelength_nm for at in each])
        for bands, each in ((found, usable), (wanted, known))
    )
    values, targets = seen[:, usable], target[:, known]
    estimator = Estimator(usable, nm, target_nm, values, targets, classes, is_fitted)
    parts = tuple(found[i] for i in usable)
    errors = {at: estimator.errors[:, column] for column, at in enumerate(known)}
    limits = {at: most_share * float(target[:, at].std()) for at in known}
    good = {at for at in known if _rmse(errors[at]) <= limits[at]}
    shown = {at // group for at in (*had, *good)}
    kept = [at for at in known if at in good or at // group in shown]
    for at in known:
        error, limit = _rmse(errors[at]), limits[at]
        reason = (
            f"an estimate would be off by {error:.4f}, over {most_share:.0%} of its "
            f"spread ({limit / most_share:.4f})"
        )
        status: Status = "estimated" if at in kept else "absent"
        sources[at] = BandSource(
            wanted[at],
            status,
            parts if at in kept else (),
            error,
            _half_width(errors[at]),
            "" if at in good else reason,
        )
    chosen = [column for column, at in enumerate(known) if at in kept]
    return (estimator.for_targets(chosen) if kept else None), sources


def _rmse(errors: DoubleArray) -> float:
    return float(np.sqrt((errors**2).mean()))


def _half_width(errors: DoubleArray) -> float:
    return float(np.quantile(np.abs(errors), SAID))


def _names(bands: Sequence[Band]) -> str:
    shown = ", ".join(band.name for band in bands[:_MOST_NAMED])
    return shown + (", ..." if len(bands) > _MOST_NAMED else "")
