"""The page that shows a rebuilt stretch of a scene."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectralgpt.reports.html import TEMPLATES, write_report
from spectralgpt.reports.reconstructions import (
    Reconstruction,
    plot_bands,
    plot_marked_spectra,
    plot_reconstruction,
    plot_score_maps,
    spread_bands,
    varied_pixels,
)
from spectralgpt.scenes.reconstruction import (
    BandScore,
    RebuiltWindow,
    score_window,
    write_scores,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 110


def write_rebuilt_report(
    folder: Path,
    rebuilt: RebuiltWindow,
    name: str,
    facts: Mapping[str, Any],
    pixels: Sequence[tuple[int, int]] = (),
    all_bands: bool = False,
) -> Path:
    """Write report.html, its pictures, scores.json and bands.csv; return the report.

    Args:
        folder: made if it is not there.
        rebuilt: from `rebuild_window`.
        name: what the image is called.
        facts: what scores.json says of the run; `mask_ratio` is named in the report.
        pixels: (row, column) in the scene whose spectra are drawn; none takes a few.
        all_bands: draw every band of many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = Reconstruction(
        rebuilt.pixels,
        rebuilt.rebuilt,
        rebuilt.masked,
        rebuilt.bands,
        name,
        "reflectance",
        rebuilt.valid,
    )
    scores = score_window(rebuilt)
    guess = "the mean of the band's visible pixels in the tile"
    if rebuilt.is_told:
        guess = "the mean of the hidden token, which the model is told"
    write_scores(folder, scores, {"image": name, **facts, "without_learning": guess})
    for old in folder.glob("bands_[0-9]*.png"):
        old.unlink()
    sheets = []
    for number, sheet in enumerate(spread_bands(len(shown.bands), all_bands), start=1):
        figure = plot_bands(shown, scores.bands, sheet)
        sheets.append((_save(folder / f"bands_{number}.png", figure), len(sheet)))
    places = [rebuilt.locate(*pixel) for pixel in pixels] or varied_pixels(shown)
    chosen = list(pixels) or [rebuilt.scene_pixel(*place) for place in places]
    names = [f"row {row}, column {column}" for row, column in chosen]
    spectra = plot_marked_spectra(shown, places, names)
    return write_report(
        folder / "report.html",
        TEMPLATES / "rebuilt.html",
        f"Rebuilt: {name}",
        facts=[
            (_describe_size(rebuilt), "shown" + _describe_enlarged(rebuilt)),
            (_number(scores.mean_angle, ".1f", "°"), "mean spectral angle"),
            (_number(scores.psnr_db, ".1f", " dB"), "PSNR where hidden"),
            (_number(rebuilt.error, ".4f"), "mean squared error where hidden (scaled)"),
        ],
        name=name,
        mask_ratio=facts["mask_ratio"],
        is_told=rebuilt.is_told,
        guess=guess,
        overview=_save(folder / "reconstruction.png", plot_reconstruction(shown)),
        score_maps=_save(folder / "scores.png", plot_score_maps(shown, scores)),
        score_rows=[
            [what, _number(model, ".2f"), _number(other, ".2f")]
            for what, model, other in (
                ("mean spectral angle (°)", scores.mean_angle, scores.guess_angle),
                ("PSNR (dB)", scores.psnr_db, scores.guess_psnr_db),
            )
        ],
        median_angle=_number(scores.median_angle, ".2f", "°"),
        sheets=sheets,
        band_rows=[_band_row(score) for score in scores.bands],
        spectra=_save(folder / "spectra.png", spectra),
        are_chosen=bool(pixels),
    )


def _band_row(score: BandScore) -> list[str]:
    return [
        score.band.name,
        f"{score.band.wavelength_nm:.0f}",
        f"{score.peak:.4f}",
        _number(score.rmse, ".4f"),
        _number(score.psnr_db, ".1f"),
        _number(score.guess_psnr_db, ".1f"),
    ]


def _describe_size(rebuilt: RebuiltWindow) -> str:
    return f"{rebuilt.window.height} x {rebuilt.window.width} px"


def _describe_enlarged(rebuilt: RebuiltWindow) -> str:
    height, width = rebuilt.pixels.shape[1:]
    is_enlarged = (height, width) != (rebuilt.window.height, rebuilt.window.width)
    return f", enlarged to {height} x {width}" if is_enlarged else ""


def _save(path: Path, figure: "Figure") -> Path:
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    return path


def _number(value: float, style: str, unit: str = "") -> str:
    return f"{value:{style}}{unit}" if np.isfinite(value) else "-"
