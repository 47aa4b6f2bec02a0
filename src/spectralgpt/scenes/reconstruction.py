"""What an autoencoder rebuilds of a stretch of a scene, tile by tile, and how well.

Of whole scenes the errors are mapped. Scores are measured in reflectance. The signal
that an error is held against is the band's own range over the valid pixels of the
window: scores depend neither on the model's scaling nor on how bright a band is.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.metrics import psnr, spectral_angle
from spectralgpt.models.objective import Objective
from spectralgpt.models.weights import check_output
from spectralgpt.preprocessing import Preprocessing, image_limits
from spectralgpt.rasters import MODEL_TAG, Grid, Layers, RasterFile, Window, read_raster
from spectralgpt.resampling import resampling_of
from spectralgpt.scenes.unfinished import digest_model, making_maps, scene_facts
from spectralgpt.scenes.windows import (
    WindowBatch,
    check_size,
    choose_bands,
    compute_strips,
    plan_windows,
    read_batches,
)
from spectralgpt.sensors import Band
from spectralgpt.tasks.pretraining import ErrorSum, PretrainingTask, fillers

if TYPE_CHECKING:
    from xarray import DataArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
_OVERLAP = 0.5
"""Of the windows of a whole scene."""
_TOLD = "token mean"


@dataclass(frozen=True)
class Reconstruction:
    """One image before and after the masked autoencoder.

    Args:
        image: (C, H, W), in any unit.
        rebuilt: (C, H, W), the prediction for all tokens, in the same unit.
        is_masked: bool (C, H, W), true where the model did not see the pixel.
        bands: the C bands.
        name: where the image comes from.
        unit: of `image`, for the axes.
        valid: bool (C, H, W), false where a pixel holds no data and is left blank; None
            if all do.

    Raises:
        ShapeError: the arrays and the bands do not fit each other.
    """

    image: NDArray[np.float32]
    rebuilt: NDArray[np.float32]
    is_masked: NDArray[np.bool_]
    bands: tuple[Band, ...]
    name: str
    unit: str = "scaled reflectance"
    valid: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Check that pixels, predictions, masks and bands fit each other."""
        arrays = (self.image, self.rebuilt, self.is_masked, self.known)
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1 or self.image.ndim != 3:
            raise ShapeError(
                f"reconstruction of {self.name}: found shapes {sorted(shapes)}; image, "
                "rebuilt and is_masked must all be (bands, rows, columns)."
            )
        if len(self.bands) != len(self.image):
            raise ShapeError(
                f"reconstruction of {self.name}: {len(self.bands)} bands are named, "
                f"the image has {len(self.image)}."
            )

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where the image holds data: (C, H, W)."""
        return np.ones_like(self.is_masked) if self.valid is None else self.valid

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Where there was something to predict: hidden pixels with data, (C, H, W)."""
        return self.is_masked & self.known

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Where there is a value: data, or what was rebuilt of a band without any."""
        lacks = ~self.known.any(axis=(1, 2), keepdims=True)
        rebuilt = lacks & self.is_masked & np.isfinite(self.rebuilt)
        return self.known | (rebuilt & self.known.any(axis=0))

    @property
    def pasted(self) -> NDArray[np.float32]:
        """The image (C, H, W), its masked pixels replaced by the prediction."""
        return np.where(self.is_masked, self.rebuilt, self.image)


@dataclass(frozen=True, kw_only=True)
class RebuiltWindow(Reconstruction):
    """A window of a scene, and what the model made of its visible part, in reflectance.

    H and W are those of the window, unless it is smaller than a tile and was enlarged.

    Args:
        guess: (C, H, W), what fills the pixels without learning: the `filler` of least
            error on this very window, or the mean of the token if `is_told`.
        window: which pixels of the scene these are.
        patch_size: side of a token, pixels of the arrays.
        error: mean squared error over masked, valid pixels, in the model's scaled unit.
        guess_error: that of the guess.
        filler: by name, see `spectralgpt.tasks.pretraining.fillers`.
        is_told: the model's targets are normalised: it is told each token's mean and
            variance.
        grid: where the arrays' pixels lie; None if that is not known.
    """

    guess: FloatArray
    window: Window
    patch_size: int
    error: float
    guess_error: float
    filler: str
    is_told: bool
    grid: Grid | None = None

    @cached_property
    def scores(self) -> "WindowScores":
        """How well it was rebuilt."""
        return score_window(self)

    def to_xarray(self) -> "DataArray":
        """Return what was rebuilt as (band, y, x), see `Grid.to_xarray`."""
        grid = self.grid or Grid(*self.image.shape[1:])
        return grid.to_xarray(self.rebuilt, band=[band.name for band in self.bands])

    def __repr__(self) -> str:
        bands, height, width = self.image.shape
        shape = f"{bands} bands of {height} x {width} px"
        share = f"{self.is_masked.mean():.0%} hidden"
        return f"<RebuiltWindow of {self.name}: {shape}, {share}>"

    def locate(self, row: int, column: int) -> tuple[int, int]:
        """Return where a pixel of the scene lies in the arrays."""
        height, width = self.image.shape[1:]
        return (
            (2 * (row - self.window.row) + 1) * height // (2 * self.window.height),
            (2 * (column - self.window.column) + 1) * width // (2 * self.window.width),
        )

    def scene_pixel(self, row: int, column: int) -> tuple[int, int]:
        """Return which pixel of the scene a place in the arrays is."""
        height, width = self.image.shape[1:]
        return (
            self.window.row + row * self.window.height // height,
            self.window.column + column * self.window.width // width,
        )


@dataclass(frozen=True)
class BandScore:
    """How well one band was rebuilt where it was hidden; NaN if it nowhere was.

    Args:
        band: its name.
        wavelength_nm: its centre.
        hidden_pixels: hidden, valid pixels, over which the scores are.
        range_reflectance: from the band's lowest value to its highest.
        rmse_reflectance: root mean squared error.
        psnr_db: of the model.
        psnr_db_without_learning: of `RebuiltWindow.guess`.
    """

    band: str
    wavelength_nm: float
    hidden_pixels: int
    range_reflectance: float
    rmse_reflectance: float
    psnr_db: float
    psnr_db_without_learning: float


@dataclass(frozen=True)
class WindowScores:
    """How well a window was rebuilt.

    Args:
        angle: (H, W) degrees between the spectrum of the scene and the one with its
            hidden bands rebuilt, over the bands that hold data in the pixel; NaN where
            nothing was hidden or only one band holds data.
        psnr_map: (Hp, Wp) dB over the hidden, valid pixels of all bands in a patch; NaN
            where there are none.
        bands: by band, in the model's order.
        psnr_db: over all hidden, valid pixels of all bands.
        guess_psnr_db: the same of what needs no learning.
        guess_angle: mean angle of what needs no learning, degrees.
        error: see `RebuiltWindow`; so is the last.
        guess_error: of what needs no learning.
    """

    angle: NDArray[np.float64]
    psnr_map: NDArray[np.float64]
    bands: tuple[BandScore, ...]
    psnr_db: float
    guess_psnr_db: float
    guess_angle: float
    error: float
    guess_error: float

    @property
    def error_ratio(self) -> float:
        """Error of the model over that of what needs no learning; NaN if that is 0."""
        return self.error / self.guess_error if self.guess_error else math.nan

    @property
    def mean_angle(self) -> float:
        """Mean spectral angle, degrees; NaN if no pixel counts."""
        return _mean(self.angle)

    @property
    def median_angle(self) -> float:
        """Median spectral angle, degrees; NaN if no pixel counts."""
        known = self.angle[np.isfinite(self.angle)]
        return float(np.median(known)) if known.size else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, without the maps, as plain values for JSON."""
        numbers = {
            "spectral_angle_mean_deg": self.mean_angle,
            "spectral_angle_median_deg": self.median_angle,
            "spectral_angle_mean_deg_without_learning": self.guess_angle,
            "psnr_db": self.psnr_db,
            "psnr_db_without_learning": self.guess_psnr_db,
            "squared_error_scaled": self.error,
            "squared_error_scaled_without_learning": self.guess_error,
        }
        bands = [_plain(asdict(score)) for score in self.bands]
        return {**_plain(numbers), "bands": bands}


def centre_window(
    item: RasterFile,
    bands: tuple[Band, ...],
    side_px: int,
    tile_px: int,
    pixels: Sequence[tuple[int, int]] = (),
) -> Window:
    """Return the middle of a scene, its sides whole multiples of a tile.

    A side of the scene that is shorter than a tile is taken whole.

    Args:
        item: the scene.
        bands: the bands that are read; they say how fine its pixels are.
        side_px: side wanted, pixels; less if the scene is smaller.
        tile_px: side of a tile, pixels.
        pixels: (row, column) of the scene that must lie in it.

    Raises:
        ConfigError: less than one tile is wanted, or a pixel lies outside of it.
    """
    if side_px < tile_px:
        raise ConfigError(
            f"{side_px} px are less than one tile of {tile_px} px: give a larger "
            "--size-px."
        )
    height, width = item.shape(bands)
    rows, columns = (
        min(side_px, side) // tile_px * tile_px or side for side in (height, width)
    )
    window = Window((height - rows) // 2, (width - columns) // 2, rows, columns)
    last_row, last_column = window.row + rows - 1, window.column + columns - 1
    for row, column in pixels:
        if not (
            window.row <= row <= last_row and window.column <= column <= last_column
        ):
            raise ConfigError(
                f"pixel {row},{column} is outside of what is shown: rows {window.row} "
                f"to {last_row}, columns {window.column} to {last_column}. Choose one "
                "within, or show more with --size-px."
            )
    return window


def rebuilding_model(loaded: LoadedModel, name: str) -> tuple[Objective, Preprocessing]:
    """Return a model that rebuilds what is hidden, and its contract.

    Raises:
        CheckpointError: it does not, or does not say what images it takes.
    """
    model, contract = loaded.model, loaded.preprocessing
    if isinstance(model, Objective) and model.rebuilds and contract is not None:
        return model, contract
    raise CheckpointError(
        f"{name} cannot rebuild images here: name the pretraining run of an objective "
        "that rebuilds them, such as spectralgpt or mae, with its contract."
    )


def rebuild_window(
    model: Objective,
    preprocessing: Preprocessing,
    item: RasterFile,
    window: Window,
    mask_ratio: float = 0.9,
    seed: int = 0,
    batch_size: int = 16,
    flips: bool = False,
) -> RebuiltWindow:
    """Mask a window of a scene and rebuild it, tile by tile.

    The window is scaled as one image, so that neighbouring tiles agree. Band groups
    that it lacks are not shown to the model and are rebuilt, with nothing to hold them
    against. Bands without data whose scale only the data could tell become NaN.

    Args:
        model: what rebuilds; its device is used.
        preprocessing: its contract; `image_size` is the side of a tile.
        item: the scene.
        window: sides must be multiples of a tile, or less than one (see
            `centre_window`).
        mask_ratio: share of masked tokens, 0 <= ratio < 1.
        seed: of the masks.
        batch_size: tiles at once.
        flips: average over mirror images, see `PretrainingTask.rebuild`.

    Raises:
        BandError: a band of the contract is missing.
        ShapeError: the scene is smaller than a token.
        CheckpointError: the window is no multiple of a tile.
    """
    tile = preprocessing.image_size
    height, width = max(window.height, tile), max(window.width, tile)
    if height % tile or width % tile:
        raise CheckpointError(f"{window} is no multiple of the tile of {tile} px.")
    bands = choose_bands(preprocessing, item)
    check_size(item, bands, model.encoder.patch_size)
    raster = read_raster(item, bands, window, out_size=(height, width))
    pixels, valid = preprocessing.prepare(raster)
    tiles, known = (_split(torch.from_numpy(a), tile) for a in (pixels, valid))
    seeds = torch.arange(len(tiles)) + seed * len(tiles)
    task = PretrainingTask(model, mask_ratio)
    made, hidden = _rebuild_tiles(task, tiles, known, seeds, batch_size, flips)
    guesses, filler = _fill_tiles(model, tiles, known, hidden, batch_size)
    rebuilt, masked, guess = (
        _join(part, height // tile) for part in (made, hidden, guesses)
    )
    is_told = filler == _TOLD
    values = preprocessing.restore(rebuilt.numpy(), raster)
    if is_told or preprocessing.scaling == "image-minmax":
        values[~valid.any(axis=(1, 2))] = np.nan
    return RebuiltWindow(
        preprocessing.restore(pixels, raster),
        values,
        masked.numpy(),
        preprocessing.bands,
        item.name,
        "reflectance",
        valid,
        guess=preprocessing.restore(guess.numpy(), raster),
        window=window,
        patch_size=model.encoder.patch_size,
        error=_error(made, tiles, hidden & known),
        guess_error=_error(guesses, tiles, hidden & known),
        filler=filler,
        is_told=is_told,
        grid=item.grid(bands).part(window, (height, width)),
    )


def _rebuild_tiles(
    task: PretrainingTask,
    tiles: torch.Tensor,
    known: torch.Tensor,
    seeds: torch.Tensor,
    batch_size: int,
    flips: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is rebuilt, and what was masked, as the tiles.

    Tiles without data are not shown to the model: nothing is masked in them.
    """
    device = next(task.model.parameters()).device
    rebuilt, masked = tiles.clone(), torch.zeros_like(known)
    task.model.eval()
    for part in _with_data(known, batch_size):
        images, valid = tiles[part].to(device), known[part].to(device)
        batch = {"images": images, "valid": valid, "seed": seeds[part]}
        made, hidden = task.rebuild(batch, flips)
        rebuilt[part], masked[part] = check_output(made.float()).cpu(), hidden.cpu()
    return rebuilt, masked


def _fill_tiles(
    model: Objective,
    tiles: torch.Tensor,
    known: torch.Tensor,
    masked: torch.Tensor,
    batch_size: int,
) -> tuple[torch.Tensor, str]:
    """Return what is guessed without learning, as the tiles, and by which filler."""
    device, told = next(model.parameters()).device, model.token_means

    def tell(images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        means = told(images.to(device))
        assert means is not None, "as of the first tile"
        return means.cpu()

    is_told = told(tiles[:1].to(device)) is not None
    tried = {_TOLD: tell} if is_told else fillers()
    errors: dict[str, ErrorSum] = defaultdict(ErrorSum)
    parts, visible = _with_data(known, batch_size), ~masked & known
    for part in parts:
        hidden, images = masked[part] & known[part], tiles[part]
        for name, fill in tried.items():
            errors[name].add(fill(images, visible[part]), images, hidden)
    best, guess = min(tried, key=lambda name: errors[name].mean), tiles.clone()
    # Filled once more: all fillers' tiles together would be ten times the window.
    for part in parts:
        guess[part] = tried[best](tiles[part], visible[part])
    return guess, best


def _with_data(known: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """Return the numbers of the tiles that hold data, so many at a time."""
    return known.flatten(1).any(dim=1).nonzero()[:, 0].split(size)


def _error(made: torch.Tensor, tiles: torch.Tensor, counted: torch.Tensor) -> float:
    error = ErrorSum()
    error.add(made, tiles, counted)
    return error.mean


def _split(image: torch.Tensor, tile: int) -> torch.Tensor:
    """Cut (C, H, W) into tiles (rows * columns, C, tile, tile)."""
    tiles = image.unfold(1, tile, tile).unfold(2, tile, tile)
    return tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)  # (rows * columns, C, tile, tile)


def _join(tiles: torch.Tensor, rows: int) -> torch.Tensor:
    """Put tiles (rows * columns, C, tile, tile) together to (C, H, W)."""
    grid = tiles.unflatten(0, (rows, -1))  # (rows, columns, C, tile, tile)
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def score_window(found: RebuiltWindow) -> WindowScores:
    """Score a rebuilt window, by pixel, by patch, by band and in all."""
    low, high = image_limits(found.image, found.known)
    peak = high - low
    # A constant band has no signal to hold an error against.
    counted = found.counted & (peak > 0)
    P = found.patch_size
    C, H, W = found.image.shape
    cut = (C, H // P, P, W // P, P)
    patch_psnr = psnr(
        found.image.reshape(cut),
        found.rebuilt.reshape(cut),
        counted.reshape(cut),
        peak[..., None, None],
        axis=(0, 2, 4),
    )
    by_band = [
        psnr(found.image, values, counted, peak, axis=(1, 2))
        for values in (found.rebuilt, found.guess)
    ]
    return WindowScores(
        _angle(found, found.rebuilt),
        patch_psnr,
        tuple(
            _score_band(
                found, index, float(peak[index, 0, 0]), *(b[index] for b in by_band)
            )
            for index in range(C)
        ),
        float(psnr(found.image, found.rebuilt, counted, peak)),
        float(psnr(found.image, found.guess, counted, peak)),
        _mean(_angle(found, found.guess)),
        found.error,
        found.guess_error,
    )


def map_errors(
    model: Objective,
    preprocessing: Preprocessing,
    item: RasterFile,
    path: Path,
    *,
    mask_ratio: float = 0.75,
    seed: int = 0,
    batch_size: int = 16,
    flips: bool = False,
    name: str = "",
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Write the root mean square error of each pixel's hidden bands, in reflectance.

    Windows of the model's image size overlap by half and are masked each for itself, so
    that most pixels are hidden in several bands and windows; squares are averaged over
    them. NaN stands where nothing was hidden, or the scene holds no data. A run that
    was stopped is continued, as by `spectralgpt.scenes.maps.map_image`.

    Args:
        model: what rebuilds; its device is used.
        preprocessing: its contract.
        item: the scene.
        path: the Cloud-Optimized GeoTIFF to write.
        mask_ratio: share of masked tokens, 0 < ratio < 1.
        seed: of the masks.
        batch_size: windows rebuilt at once.
        flips: average over mirror images, see `PretrainingTask.rebuild`.
        name: what the model is called in the map's tags.
        overwrite: replace what a run of another model has left unfinished.
        progress: called with the share that is done, 0..1.

    Raises:
        BandError: a band of the contract is missing.
        ShapeError: the scene is smaller than a token.
        OutputError: the file cannot be written.
    """
    bands = choose_bands(preprocessing, item)
    check_size(item, bands, model.encoder.patch_size)
    grid = item.grid(bands)
    side, patch = preprocessing.image_size, preprocessing.patch_size
    plan = plan_windows(item, bands, side, _OVERLAP, patch)
    tags = {MODEL_TAG: name, "MASK_RATIO": f"{mask_ratio:g}"} | resampling_of([item])
    layers = Layers.of_measures(["rmse of hidden bands (reflectance)"], tags)
    settings = {
        "settings": f"{mask_ratio:g}, {seed}, {batch_size}, {flips}",
        "model": digest_model(model, next(model.parameters()).device.type),
    }
    facts = scene_facts([item], preprocessing) | settings
    task = PretrainingTask(model.eval(), mask_ratio)
    with making_maps({path: layers}, grid, facts, overwrite) as made:
        first = made.next_row
        batches = read_batches([item], [bands], plan, batch_size, first)
        measure = partial(_measure_errors, task, preprocessing, grid, seed, flips)
        for row, means in compute_strips(
            batches, plan, preprocessing, measure, 1, first_row=first
        ):
            made.write(row, [np.sqrt(means)])
            if progress is not None:
                progress(made.next_row / grid.height)
        made.export()
        made.publish()
    return path


def _angle(found: RebuiltWindow, rebuilt: FloatArray) -> NDArray[np.float64]:
    # A band of zeros in both spectra leaves the angle as it is.
    truth = np.where(found.known, found.image, 0)
    pasted = np.where(found.counted, rebuilt, truth)
    has_angle = found.known.sum(axis=0) > 1
    counted = has_angle & found.counted.any(axis=0)
    return np.where(counted, spectral_angle(truth, pasted), np.nan)


def _score_band(
    found: RebuiltWindow, index: int, peak: float, ratio: float, guess_ratio: float
) -> BandScore:
    counted = found.counted[index]
    error = (found.rebuilt[index] - found.image[index])[counted].astype(np.float64)
    rmse = float(np.sqrt((error**2).mean())) if error.size else math.nan
    band = found.bands[index]
    ratios = float(ratio), float(guess_ratio)
    return BandScore(band.name, band.wavelength_nm, error.size, peak, rmse, *ratios)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write null for NaN and infinity, which JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _measure_errors(
    task: PretrainingTask,
    preprocessing: Preprocessing,
    grid: Grid,
    seed: int,
    flips: bool,
    batch: WindowBatch,
    images: FloatArray,
    valid: BoolArray,
) -> tuple[WindowBatch, FloatArray]:
    """Give mean squares (B, 1, H, W) of hidden bands, known where there are any."""
    device = next(task.model.parameters()).device
    images, valid = images[:, 0], valid[:, 0]
    # A window's mask depends on its place alone, so that a run can be continued.
    above = (seed * grid.height + batch.row) * grid.width
    places = [above + column for column in batch.columns]
    rebuilt, masked = task.rebuild(
        {
            "images": torch.from_numpy(images).to(device),
            "valid": torch.from_numpy(valid).to(device),
            "seed": torch.tensor(places),
        },
        flips,
    )
    made = check_output(rebuilt.float().cpu()).numpy()
    hidden = masked.cpu().numpy() & valid
    side = images.shape[-1]
    rasters = [raster.padded(side, side, "constant") for (raster,) in batch.rasters]
    squares = np.stack(
        [
            (preprocessing.restore(out, r) - preprocessing.restore(true, r)) ** 2
            for out, true, r in zip(made, images, rasters, strict=True)
        ]
    )
    count = hidden.sum(axis=1)
    means = (squares * hidden).sum(axis=1) / np.maximum(count, 1)
    known = [
        (seen > 0)[: shown.shape[0], : shown.shape[1]]
        for seen, shown in zip(count, batch.is_known, strict=True)
    ]
    return replace(batch, is_known=known), means[:, None].astype(np.float32)
