"""The page that shows a rebuilt stretch of a scene."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectralgpt.reports.html import Picture, Section, Table, write_report
from spectralgpt.reports.reconstructions import (
    Reconstruction,
    plot_bands,
    plot_marked_spectra,
    plot_reconstruction,
    plot_score_maps,
    spread_bands,
    varied_pixels,
)
from spectralgpt.scenes.rebuilt_scores import (
    BandScore,
    WindowScores,
    score_window,
    write_scores,
)
from spectralgpt.scenes.reconstruction import RebuiltWindow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_rebuilt_report"]

_DOTS_PER_INCH = 110
_HOW = (
    "Each tile was masked and rebuilt by itself. Pixels that the model saw are shown "
    "as they are. Whether the model was trained on this image is not known. A rebuilt "
    "picture that looks right is a guess that fits, not a measurement."
)
_TOLD = (
    "\n\nThis model's targets were normalised: it is told the mean and variance of "
    "each hidden token. Its scores cannot be compared with those of other models."
)
_SCORES = (
    "Reflectance is compared, over pixels that were hidden and hold data. PSNR is "
    "10 log10(peak² / mean squared error); the peak is each band's range over the "
    "valid pixels shown, so that bands weigh alike. The spectral angle (Kruse et al. "
    "1993) lies between a pixel's spectrum and the same with its hidden bands rebuilt, "
    "over the bands that hold data there; it sees shape, not brightness.\n\n"
    "Without learning, {guess} is filled in: hold the model against that."
)


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
    guess = _guess(rebuilt)
    write_scores(folder, scores, {"image": name, **facts, "without_learning": guess})
    sections = [
        _overview(folder, shown, rebuilt.is_told),
        _maps(folder, shown, scores, guess),
        _bands(folder, shown, scores, all_bands),
        _spectra(folder, shown, rebuilt, pixels),
    ]
    return write_report(
        folder / "report.html",
        f"Rebuilt: {name}",
        sections,
        summary=f"{facts['mask_ratio']:.0%} of the tokens were hidden.",
        facts=_headline(rebuilt, scores),
    )


def _headline(rebuilt: RebuiltWindow, scores: WindowScores) -> list[tuple[str, str]]:
    window, size = rebuilt.window, rebuilt.pixels.shape[1:]
    is_enlarged = size != (window.height, window.width)
    enlarged = f", enlarged to {size[0]} x {size[1]}" if is_enlarged else ""
    return [
        (f"{window.height} x {window.width} px", f"shown{enlarged}"),
        (_number(scores.mean_angle, ".1f", "°"), "mean spectral angle"),
        (_number(scores.psnr_db, ".1f", " dB"), "PSNR where hidden"),
        (_number(rebuilt.error, ".4f"), "mean squared error where hidden (scaled)"),
    ]


def _guess(rebuilt: RebuiltWindow) -> str:
    if rebuilt.is_told:
        return "the mean of the hidden token, which the model is told"
    return "the mean of the band's visible pixels in the tile"


def _overview(folder: Path, shown: Reconstruction, is_told: bool) -> Section:
    picture = _save(folder / "reconstruction.png", plot_reconstruction(shown))
    return Section(
        "What was rebuilt",
        _HOW + (_TOLD if is_told else ""),
        figures=[
            Picture(
                picture,
                f"{shown.name}: input, visible part, rebuilt image and error",
                "Rows: composites and one band. Columns: input, what the model saw, "
                "what it rebuilt, and the error where it saw nothing.",
            )
        ],
    )


def _maps(
    folder: Path, shown: Reconstruction, scores: WindowScores, guess: str
) -> Section:
    picture = _save(folder / "scores.png", plot_score_maps(shown, scores))
    rows = [
        ("mean spectral angle (°)", scores.mean_angle, scores.guess_angle, ".2f"),
        ("PSNR (dB)", scores.psnr_db, scores.guess_psnr_db, ".2f"),
    ]
    table = Table(
        ("where hidden", "model", "without learning"),
        [
            (what, _number(model, style), _number(other, style))
            for what, model, other, style in rows
        ],
        f"Half of the pixels lie below {_number(scores.median_angle, '.2f', '°')}. The "
        "numbers are in scores.json.",
    )
    return Section(
        "How well",
        _SCORES.format(guess=guess),
        figures=[
            Picture(
                picture,
                f"{shown.name}: picture, spectral angle map and PSNR map",
                "Yellow is worse in both maps. Grey: nothing was hidden, or "
                "nothing is known. Colours end at the 2nd and 98th percentile.",
            )
        ],
        tables=[table],
    )


def _bands(
    folder: Path, shown: Reconstruction, scores: WindowScores, all_bands: bool
) -> Section:
    count = len(shown.bands)
    sheets = spread_bands(count, all_bands)
    drawn = sum(len(sheet) for sheet in sheets)
    for old in folder.glob("bands_[0-9]*.png"):
        old.unlink()
    pictures = [
        Picture(
            _save(
                folder / f"bands_{number}.png",
                plot_bands(shown, scores.bands, sheet),
            ),
            f"{shown.name}: input, visible part, rebuilt, error of {len(sheet)} bands",
            "Pale blue was hidden. Input and rebuilt share their grey scale. Errors "
            "are drawn where the model saw nothing, as shares of the band's range.",
        )
        for number, sheet in enumerate(sheets, start=1)
    ]
    text = f"{drawn} of {count} bands are drawn"
    if drawn < count:
        text += ", spread over the spectrum (--all_bands draws every one)"
    header = ("band", "nm", "range", "RMSE", "PSNR (dB)", "without learning (dB)")
    table = Table(
        header,
        [_band_row(score) for score in scores.bands],
        "Range and RMSE in reflectance; the same is in bands.csv.",
    )
    return Section("Band by band", text + ".", figures=pictures, tables=[table])


def _band_row(score: BandScore) -> tuple[str, ...]:
    return (
        score.band.name,
        f"{score.band.wavelength_nm:.0f}",
        f"{score.peak:.4f}",
        _number(score.rmse, ".4f"),
        _number(score.psnr_db, ".1f"),
        _number(score.guess_psnr_db, ".1f"),
    )


def _spectra(
    folder: Path,
    shown: Reconstruction,
    rebuilt: RebuiltWindow,
    pixels: Sequence[tuple[int, int]],
) -> Section:
    places = [rebuilt.locate(*pixel) for pixel in pixels] or varied_pixels(shown)
    chosen = list(pixels) or [rebuilt.scene_pixel(*place) for place in places]
    names = [f"row {row}, column {column}" for row, column in chosen]
    picture = _save(folder / "spectra.png", plot_marked_spectra(shown, places, names))
    how = "as chosen" if pixels else "picked from dark to bright"
    return Section(
        "Spectra",
        f"Pixels are {how}; rows and columns count in the scene, from 0.",
        figures=[
            Picture(
                picture,
                f"{shown.name}: marked pixels and their spectra, measured and rebuilt",
                "Open circles were hidden from the model.",
            )
        ],
    )


def _save(path: Path, figure: "Figure") -> Path:
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    return path


def _number(value: float, style: str, unit: str = "") -> str:
    return f"{value:{style}}{unit}" if np.isfinite(value) else "-"
