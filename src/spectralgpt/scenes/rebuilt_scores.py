"""How well a window was rebuilt: by pixel, by patch, by band and in all.

Scores are measured in reflectance. The signal that an error is held against is the
band's own range over the valid pixels of the window, so that scores depend neither on
the model's scaling nor on how bright a band is.
"""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.checkpoints import write_atomically
from spectralgpt.metrics import psnr, spectral_angle
from spectralgpt.scaling import image_limits
from spectralgpt.scenes.reconstruction import FloatArray, RebuiltWindow
from spectralgpt.sensors import Band

__all__ = ["BandScore", "WindowScores", "score_window", "write_scores"]


@dataclass(frozen=True)
class BandScore:
    """How well one band was rebuilt where it was hidden; NaN if it nowhere was.

    Args:
        band: the band.
        hidden: hidden, valid pixels, over which the scores are.
        peak: the band's range, reflectance.
        rmse: root mean squared error, reflectance.
        psnr_db: of the model.
        guess_psnr_db: of what needs no learning; see `RebuiltWindow.guess`.
    """

    band: Band
    hidden: int
    peak: float
    rmse: float
    psnr_db: float
    guess_psnr_db: float


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
    """

    angle: NDArray[np.float64]
    psnr_map: NDArray[np.float64]
    bands: tuple[BandScore, ...]
    psnr_db: float
    guess_psnr_db: float
    guess_angle: float

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
        }
        bands = [
            {name: _plain(value) for name, value in _row(score).items()}
            for score in self.bands
        ]
        return {
            **{name: _plain(value) for name, value in numbers.items()},
            "bands": bands,
        }


def score_window(found: RebuiltWindow) -> WindowScores:
    """Score a rebuilt window, by pixel, by patch, by band and in all."""
    low, high = image_limits(found.pixels, found.valid)
    peak = high - low
    # A constant band has no signal to hold an error against.
    counted = found.masked & found.valid & (peak > 0)
    P = found.patch_size
    C, H, W = found.pixels.shape
    cut = (C, H // P, P, W // P, P)
    patch_psnr = psnr(
        found.pixels.reshape(cut),
        found.rebuilt.reshape(cut),
        counted.reshape(cut),
        peak[..., None, None],
        axis=(0, 2, 4),
    )
    by_band = [
        psnr(found.pixels, values, counted, peak, axis=(1, 2))
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
        float(psnr(found.pixels, found.rebuilt, counted, peak)),
        float(psnr(found.pixels, found.guess, counted, peak)),
        _mean(_angle(found, found.guess)),
    )


def write_scores(
    folder: Path, scores: WindowScores, facts: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write scores.json and bands.csv; return their paths.

    Args:
        folder: where to.
        scores: from `score_window`.
        facts: what else scores.json is to say, such as the model and the mask ratio.
    """
    values = {
        **facts,
        "unit": "reflectance",
        "psnr_peak": "range of each band over the valid pixels shown",
        "counted": "hidden, valid pixels",
        **scores.as_dict(),
    }
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    summary, table = folder / "scores.json", folder / "bands.csv"
    write_atomically(summary, lambda path: _write_text(path, text))
    rows = [_row(score) for score in scores.bands]
    write_atomically(table, lambda path: _write_csv(path, rows))
    return summary, table


def _angle(found: RebuiltWindow, rebuilt: FloatArray) -> NDArray[np.float64]:
    # A band of zeros in both spectra leaves the angle as it is.
    truth = np.where(found.valid, found.pixels, 0)
    pasted = np.where(found.masked & found.valid, rebuilt, truth)
    has_angle = found.valid.sum(axis=0) > 1
    counted = has_angle & (found.masked & found.valid).any(axis=0)
    return np.where(counted, spectral_angle(truth, pasted), np.nan)


def _score_band(
    found: RebuiltWindow, index: int, peak: float, ratio: float, guess_ratio: float
) -> BandScore:
    counted = found.masked[index] & found.valid[index]
    error = (found.rebuilt[index] - found.pixels[index])[counted].astype(np.float64)
    rmse = float(np.sqrt((error**2).mean())) if error.size else math.nan
    return BandScore(
        found.bands[index], error.size, peak, rmse, float(ratio), float(guess_ratio)
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _row(score: BandScore) -> dict[str, Any]:
    return {
        "band": score.band.name,
        "wavelength_nm": score.band.wavelength_nm,
        "hidden_pixels": score.hidden,
        "range_reflectance": score.peak,
        "rmse_reflectance": score.rmse,
        "psnr_db": score.psnr_db,
        "psnr_db_without_learning": score.guess_psnr_db,
    }


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    is_unknown = isinstance(value, float) and not math.isfinite(value)
    return None if is_unknown else value


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
