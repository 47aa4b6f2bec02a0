"""Bands that an image does not have, made from those that it has.

There are three ways: the library of measured spectra, pixels of imagery that has the
bands, and an autoencoder that rebuilds them. Which is best is measured on pixels of
that imagery that nothing was learned from. Where an image shows what none of them has
seen, nothing is written.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import BandError, CheckpointError, DataError
from spectralgpt.estimating import fit_linear, interpolation_weights
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.weights import check_output
from spectralgpt.rasters import (
    SENSOR_TAG,
    Layers,
    Raster,
    RasterFile,
    Scene,
    Window,
    read_raster,
    writing_map,
)
from spectralgpt.rasters.files import UNIT_TAG
from spectralgpt.resampling import (
    Imagery,
    Resampling,
    fit_resampling,
    resample_file,
    wavelength_tags,
)
from spectralgpt.scenes.windows import (
    WindowBatch,
    compute_strips,
    plan_windows,
    read_batches,
)
from spectralgpt.sensors import Band, Sensor, match_bands
from spectralgpt.spectra import SpectralLibrary, load_library

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
REBUILT = "encoder-decoder"
_LIBRARY, _IMAGERY, _BOTH = "library", "imagery", "library and imagery"
_BY_NUMBER = re.compile(r"(\d+(?:\.\d+)?)nm(?::(\d+(?:\.\d+)?))?")
_WIDTH_NM = 10.0
"""Of a band that is named by its wavelength alone."""
_WINDOWS, _SIDE_PX, _PIXELS = 12, 64, 250
"""Windows of an image that pixels are drawn from, their side, and pixels of each."""
_MOST_PIXELS = 6000
_FOLDS = 4
_ROWS, _OVERLAP = 256, 0.5
_SAID = 1.645
"""Standard deviations that hold 90 % of errors."""
_BLOCK_PX = 32
_LEAST_DISTINCT = 0.1
"""Share of a block's pixels that differ; imagery has some noise in all its bands."""
_Pixels = tuple[DoubleArray, DoubleArray, DoubleArray]
"""Values (N, C), targets (N, D), and what the autoencoder rebuilds, or none (0, D)."""


def find_wanted(names: Sequence[str], item: RasterFile) -> tuple[Band, ...]:
    """Return the bands that names mean.

    Args:
        names: of bands of the image's sensor, or wavelengths such as `1240nm`, which is
            10 nm wide, or `1240nm:30`, with another width.
        item: the image.

    Raises:
        BandError: a name is unknown or given twice, or there is none.
    """
    gsd_m = min(band.gsd_m for band in item.bands)
    found = []
    for name in names:
        number = _BY_NUMBER.fullmatch(name.strip())
        if number is None:
            found.append(item.sensor.band(name.strip()))
            continue
        nm, width_nm = float(number[1]), float(number[2] or _WIDTH_NM)
        found.append(Band(f"{nm:g}nm", nm, width_nm, gsd_m))
    if not found or len(set(found)) != len(found):
        raise BandError(f"bands {', '.join(names) or 'none'}: name each band once.")
    return tuple(found)


@dataclass(frozen=True)
class Synthesis:
    """How wanted bands are made of those that an image has; see `plan_synthesis`.

    Args:
        found: the bands of the image that they are made of.
        wanted: the bands to make.
        ways: how each is made: by library, imagery, both or encoder-decoder.
        fits: what makes bands by each way but the last.
        errors: of each wanted band, by way and by rule of thumb, the root mean square
            error on held-out pixels of imagery, reflectance; none without imagery.
        loaded: what rebuilds bands; None if nothing does.
    """

    found: tuple[Band, ...]
    wanted: tuple[Band, ...]
    ways: tuple[str, ...]
    fits: Mapping[str, Resampling]
    errors: tuple[Mapping[str, float], ...]
    loaded: LoadedModel | None = None

    @property
    def lines(self) -> list[str]:
        """Say of each band how it is made and how well, for people."""
        lines = []
        for band, way, errors in zip(self.wanted, self.ways, self.errors, strict=True):
            name = f"{band.name} ({band.wavelength_nm:g} nm, {band.width_nm:g} wide)"
            if not errors:
                (source,) = (s for s in self.fits[way].sources if s.band == band)
                text = f"+-{source.error:.4f} in the library, not tried on imagery"
            else:
                order = sorted(errors, key=errors.__getitem__)
                tried = ", ".join(f"{each} {errors[each]:.5f}" for each in order)
                text = f"error on held-out pixels: {tried}"
            lines.append(f"{name}: by {way}; {text}")
        return lines

    def make(
        self, raster: Raster, rebuilt: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Make the wanted bands of a part of the image.

        Args:
            raster: the found bands, H x W.
            rebuilt: (D, H, W), what the autoencoder makes; needed if it is a way.

        Returns:
            Values and half the widths of intervals that hold 90 %, (D, H, W) each, NaN
            where nothing is known; and where the image is like what was learned from,
            bool (D, H, W).
        """
        shape = (len(self.wanted), *raster.valid.shape[1:])
        values, wide = (np.full(shape, np.nan, np.float32) for _ in range(2))
        is_like = np.zeros(shape, np.bool_)
        natural = looks_measured(raster)
        # The autoencoder does not say what it has seen; the pixels do.
        fitted = [_IMAGERY if way == REBUILT else way for way in self.ways]
        by_fit = {
            way: self.fits[way].estimate(raster.pixels, raster.valid)
            for way in set(fitted)
        }
        for at, (band, own) in enumerate(zip(self.wanted, fitted, strict=True)):
            made, valid, width, like = by_fit[own]
            row = self.fits[own].bands.index(band)
            known = valid[row]
            values[at] = np.where(known, made[row], np.nan)
            wide[at] = np.where(known, width[row], np.nan)
            if self.ways[at] == REBUILT:
                assert rebuilt is not None
                values[at] = np.where(known, rebuilt[at], np.nan)
                wide[at] = np.where(known, _SAID * self.errors[at][REBUILT], np.nan)
            is_like[at] = like & natural
        return values, wide, is_like


def looks_measured(raster: Raster) -> BoolArray:
    """Return where a raster is not made of few numbers again and again, (H, W).

    Constants, fill, test patterns and saturation are: of 32 x 32 px, fewer than a tenth
    of the spectra differ. No sensor measures that.
    """
    height, width = raster.valid.shape[1:]
    known: BoolArray = np.logical_or.reduce(raster.valid)
    natural = np.ones((height, width), np.bool_)
    for row in range(0, height, _BLOCK_PX):
        for column in range(0, width, _BLOCK_PX):
            at = np.s_[row : row + _BLOCK_PX, column : column + _BLOCK_PX]
            spectra = raster.pixels[:, at[0], at[1]][:, known[at]].T
            if len(spectra):
                distinct = len(np.unique(np.ascontiguousarray(spectra), axis=0))
                natural[at] = distinct >= max(2, _LEAST_DISTINCT * len(spectra))
    return natural


def plan_synthesis(
    item: RasterFile,
    wanted: Sequence[Band],
    like: Sequence[RasterFile] = (),
    loaded: LoadedModel | None = None,
    seed: int = 0,
) -> Synthesis:
    """Find out how each wanted band is made best.

    Bands of the image that are themselves wanted are not made use of.

    Args:
        item: the image.
        wanted: bands to make.
        like: imagery that has both; a fourth of the images at a time is held out, of a
            single image a fourth of its parts.
        loaded: an autoencoder with its contract, to rebuild bands.
        seed: of the draw of pixels.

    Raises:
        BandError: a band cannot be made, or images lack bands.
        CheckpointError: the model cannot rebuild the bands.
        DataError: it cannot be compared, for want of imagery, or that has too few
            pixels.
    """
    taken = set(match_bands(wanted, item.bands, allow_missing=True))
    found = tuple(b for at, b in enumerate(item.bands) if at not in taken)
    sensor, fits = item.sensor, {}
    with suppress(BandError) if like else nullcontext():
        fits[_LIBRARY] = _fit(found, wanted, sensor)
    if not like:
        if loaded is not None:
            raise DataError(
                "whether the model makes bands better than the library cannot be told "
                "without imagery that has them: name some by --like."
            )
        absent = [str(s) for s in fits[_LIBRARY].sources if s.status == "absent"]
        if absent:
            raise BandError(f"{absent[0]}. Name imagery that has it by --like.")
        ways = (_LIBRARY,) * len(wanted)
        return Synthesis(found, tuple(wanted), ways, fits, ({},) * len(wanted))
    if loaded is not None:
        _check_model(loaded, wanted)
    rng = np.random.default_rng(seed)
    drawn = [_draw(each, found, wanted, loaded, rng) for each in like]
    parts = _parts(drawn)
    errors = _compare(found, wanted, parts, fits.get(_LIBRARY), sensor)
    values, targets, _ = _join(parts, rng)
    fits |= _fit_imagery(found, wanted, values, targets, sensor)
    names = (*fits, REBUILT)
    ways = tuple(
        min((n for n in names if n in each), key=each.__getitem__) for each in errors
    )
    return Synthesis(found, tuple(wanted), ways, fits, errors, loaded)


def _fit(
    found: tuple[Band, ...],
    wanted: Sequence[Band],
    sensor: Sensor,
    like: Imagery | None = None,
    library: SpectralLibrary | None = None,
) -> Resampling:
    return fit_resampling(
        found,
        wanted,
        sensor=sensor,
        wanted_sensor=sensor,
        most_error_share=np.inf,
        library=library,
        like=like,
    )


def _fit_imagery(
    found: tuple[Band, ...],
    wanted: Sequence[Band],
    values: DoubleArray,
    targets: DoubleArray,
    sensor: Sensor,
) -> dict[str, Resampling]:
    """Learn from pixels alone, and together with the library if it knows the bands."""
    pixels, alone = np.concatenate([values, targets], axis=1), np.arange(len(values))
    like = Imagery((*found, *wanted), pixels, alone.astype(str))
    fits = {_IMAGERY: _fit(found, wanted, sensor, like)}
    with suppress(BandError):
        fits[_BOTH] = _fit(found, wanted, sensor, like, load_library())
    return fits


def _check_model(loaded: LoadedModel, wanted: Sequence[Band]) -> None:
    contract = loaded.preprocessing
    if not isinstance(loaded.model, MaskedAutoencoder) or contract is None:
        raise CheckpointError(
            "the model cannot rebuild bands: name a pretraining run of objective "
            "spectralgpt, or a model with its decoder and contract."
        )
    match_bands(wanted, contract.bands)


def _draw(
    item: RasterFile,
    found: tuple[Band, ...],
    wanted: Sequence[Band],
    loaded: LoadedModel | None,
    rng: np.random.Generator,
) -> list[_Pixels]:
    """Draw pixels of an image from windows all over it."""
    both = (*found, *wanted)
    try:
        own = [item.bands[i] for i in match_bands(both, item.bands) if i is not None]
    except BandError as error:
        raise BandError(f"{item.name} cannot be learned from: {error}") from None
    side = _SIDE_PX
    if loaded is not None and loaded.preprocessing is not None:
        side = loaded.preprocessing.image_size
        source = _in_model_bands(item, own[: len(found)], loaded)
    grid, drawn = item.grid(own), []
    size = min(side, grid.height), min(side, grid.width)
    for _ in range(_WINDOWS):
        row = int(rng.integers(grid.height - size[0] + 1))
        column = int(rng.integers(grid.width - size[1] + 1))
        window = Window(row, column, *size)
        raster = read_raster(item, own, window)
        places = np.flatnonzero(raster.valid.all(axis=0))
        if len(places) < 2:
            continue
        places = rng.permutation(places)[:_PIXELS]
        spectra = raster.pixels.reshape(len(both), -1)[:, places].T.astype(float)
        rebuilt = np.empty((0, len(wanted)))
        if loaded is not None:
            shown = read_raster(source, source.bands, window)
            made = _rebuild(loaded, wanted, [shown])[0, :, : size[0], : size[1]]
            rebuilt = made.reshape(len(wanted), -1)[:, places].T.astype(float)
        drawn.append((spectra[:, : len(found)], spectra[:, len(found) :], rebuilt))
    return drawn


def draw_imagery(
    items: Sequence[RasterFile], bands: Sequence[Band], seed: int = 0
) -> Imagery:
    """Draw pixels of images, or parts of a single one, for `fit_resampling`.

    Raises:
        BandError: an image lacks one of the bands.
        DataError: there are too few pixels that are valid in all of them.
    """
    rng = np.random.default_rng(seed)
    parts = _parts([_draw(each, tuple(bands), (), None, rng) for each in items])
    drawn = [np.concatenate([window[0] for window in part]) for part in parts]
    pixels = np.concatenate([np.empty((0, len(bands))), *drawn])
    names = np.arange(len(drawn)).astype(str)
    chosen = rng.permutation(len(pixels))[:_MOST_PIXELS]
    classes = np.repeat(names, [len(each) for each in drawn])
    return Imagery(tuple(bands), pixels[chosen], classes[chosen])


def _parts(drawn: Sequence[list[_Pixels]]) -> list[list[_Pixels]]:
    """Return what can be held out: images, or the windows of a single one."""
    known = [windows for windows in drawn if windows]
    return [[window] for window in known[0]] if len(known) == 1 else known


def _join(parts: Sequence[Sequence[_Pixels]], rng: np.random.Generator) -> _Pixels:
    """Join at most as many pixels as help."""
    if not parts:
        raise DataError("the imagery has no pixel that is valid in all bands.")
    windows = [window for part in parts for window in part]
    values, targets, rebuilt = (
        np.concatenate(each) for each in zip(*windows, strict=True)
    )
    chosen = rng.permutation(len(values))[:_MOST_PIXELS]
    return values[chosen], targets[chosen], rebuilt[chosen[: len(rebuilt)]]


def _compare(
    found: tuple[Band, ...],
    wanted: Sequence[Band],
    parts: Sequence[Sequence[_Pixels]],
    library: Resampling | None,
    sensor: Sensor,
) -> tuple[Mapping[str, float], ...]:
    """Return the errors of all ways on parts that were not learned from, by band."""
    rng = np.random.default_rng(0)
    squares: dict[str, list[DoubleArray]] = {}
    folds = min(_FOLDS, len(parts))
    if folds < 2:
        raise DataError("the imagery is too small to hold some of it out.")
    for fold in range(folds):
        values, targets, _ = _join(
            [p for at, p in enumerate(parts) if at % folds != fold], rng
        )
        seen, truth, rebuilt = _join(parts[fold::folds], rng)
        linear = fit_linear(values, targets)
        fits = _fit_imagery(found, wanted, values, targets, sensor)
        order = np.argsort([band.wavelength_nm for band in found])
        nm = np.array([found[i].wavelength_nm for i in order])
        target = np.array([band.wavelength_nm for band in wanted])
        made = {
            **{way: _apply(fit, seen) for way, fit in fits.items()},
            "linear regression": seen @ linear[:-1] + linear[-1],
            "interpolation": seen[:, order] @ interpolation_weights(nm, target),
        }
        if library is not None:
            made[_LIBRARY] = _apply(library, seen)
        if len(rebuilt):
            made[REBUILT] = rebuilt
        for name, guess in made.items():
            squares.setdefault(name, []).append((guess - truth) ** 2)
    means = {n: np.sqrt(np.concatenate(s).mean(axis=0)) for n, s in squares.items()}
    return tuple(
        {name: float(mean[at]) for name, mean in means.items() if np.isfinite(mean[at])}
        for at in range(len(wanted))
    )


def _apply(fit: Resampling, values: DoubleArray) -> DoubleArray:
    """Return what a fit makes of values (N, C): (N, D), NaN where a band is absent."""
    pixels = values.T[:, None].astype(np.float32)
    made, valid = fit.apply(pixels, np.ones(pixels.shape, np.bool_))
    return np.where(valid, made, np.nan)[:, 0].T.astype(float)


def _in_model_bands(
    item: RasterFile, found: Sequence[Band], loaded: LoadedModel
) -> RasterFile:
    """Return an image in a model's bands, made of some of its own alone."""
    assert loaded.preprocessing is not None
    files = {band.name: item.files[band.name] for band in found}
    return resample_file(replace(item, files=files), loaded.preprocessing.unstated)


def _rebuild(
    loaded: LoadedModel, wanted: Sequence[Band], rasters: Sequence[Raster]
) -> FloatArray:
    """Rebuild bands (B, D, H, W) from all band groups that hold none of them.

    Rasters are windows of the model's bands, of its size at most, which they get.
    """
    model, contract = loaded.model, loaded.preprocessing
    assert isinstance(model, MaskedAutoencoder)
    assert contract is not None
    at = [i for i in match_bands(wanted, contract.bands) if i is not None]
    groups = -(-len(contract.bands) // contract.bands_per_token)
    hidden = sorted({index // contract.bands_per_token for index in at})
    if len(hidden) == groups:
        raise BandError("the wanted bands lie in all band groups: ask for fewer.")
    noise = torch.zeros(len(rasters), groups)
    noise[:, hidden] = 1.0
    # Half a group less, so that rounding hides no other one.
    ratio = (len(hidden) - 0.5) / groups
    device, side = next(model.parameters()).device, contract.image_size
    rasters = [raster.padded(side, side, "constant") for raster in rasters]
    pairs = [contract.prepare(raster) for raster in rasters]
    images, valid = (
        torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True)
    )
    with torch.inference_mode():
        output = model.eval()(
            images.to(device),
            ratio,
            noise.to(device),
            valid=valid.to(device),
            mask_style="spectral",
        )
        made = check_output(model.reconstruct(output).float().cpu()).numpy()
    restored = [contract.restore(m, r) for m, r in zip(made, rasters, strict=True)]
    return np.stack(restored)[:, at]


def errors_beside(path: Path) -> Path:
    """Return the file of errors that is written beside a file of made bands."""
    return path.with_name(f"{path.stem}_error{path.suffix}")


def write_synthesis(
    synthesis: Synthesis,
    item: RasterFile,
    path: Path,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> tuple[Path, Path]:
    """Write the wanted bands, and beside them how far they can be trusted.

    Args:
        synthesis: how they are made.
        item: the image.
        path: the Cloud-Optimized GeoTIFF of float32 reflectance; NaN where the image
            is unlike all that was learned from, and where it holds no data.
        batch_size: windows that the autoencoder takes at once.
        progress: called with the share that is done, 0..1.

    Returns:
        The file, and NAME_error.tif: of each band half the width of the interval that
        holds its value with 90 % probability, and whether it was left out, 0 or 1.

    Raises:
        RasterError: the image cannot be read.
        OutputError: a file cannot be written.
    """
    beside = errors_beside(path)
    names = [band.name for band in synthesis.wanted]
    tags = {
        UNIT_TAG: "reflectance",
        "SPECTRALGPT_SYNTHESIS": " | ".join(synthesis.lines),
    }
    if all(band in item.sensor.bands for band in synthesis.wanted):
        tags[SENSOR_TAG] = item.sensor.name
    waves = tuple(map(wavelength_tags, synthesis.wanted))
    bands = replace(Layers.of_measures(names, tags), layer_tags=waves)
    trust = [f"{name} {what}" for what in ("error", "left out") for name in names]
    errors = Layers.of_measures(trust, tags)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(item, synthesis.found))
        write = stack.enter_context(writing_map(path, scene.grid, bands))
        write_error = stack.enter_context(writing_map(beside, scene.grid, errors))
        height, width = scene.shape
        for row, rows, rebuilt in _strips(synthesis, item, scene, batch_size):
            raster = scene.read(Window(row, 0, rows, width))
            # What damaged files hold may be beyond all numbers; it is like nothing.
            with np.errstate(over="ignore", invalid="ignore"):
                values, wide, is_like = synthesis.make(raster, rebuilt)
            left_out = np.where(np.isfinite(values), ~is_like, np.nan)
            write(row, np.where(is_like, values, np.float32("nan")))
            write_error(row, np.concatenate([wide, left_out]).astype(np.float32))
            if progress is not None:
                progress((row + rows) / height)
    return path, beside


def _strips(
    synthesis: Synthesis, item: RasterFile, scene: Scene, batch_size: int
) -> Iterator[tuple[int, int, FloatArray | None]]:
    """Yield the first row of strips, their rows, and what the autoencoder rebuilds."""
    height, _ = scene.shape
    if REBUILT not in synthesis.ways:
        for row in range(0, height, _ROWS):
            yield row, min(_ROWS, height - row), None
        return
    loaded = synthesis.loaded
    assert loaded is not None
    contract = loaded.preprocessing
    assert contract is not None
    source = _in_model_bands(item, synthesis.found, loaded)
    side, patch = contract.image_size, contract.patch_size
    plan = plan_windows(source, source.bands, side, _OVERLAP, patch)
    batches = read_batches([source], [source.bands], plan, batch_size)

    def rebuild(
        batch: WindowBatch, *_: FloatArray | BoolArray
    ) -> tuple[WindowBatch, FloatArray]:
        rasters = [raster for (raster,) in batch.rasters]
        return batch, _rebuild(loaded, synthesis.wanted, rasters)

    layers = len(synthesis.wanted)
    for row, means in compute_strips(batches, plan, contract, rebuild, layers):
        yield row, means.shape[1], means
