"""The page that shows a rebuilt stretch of a scene."""

from collections.abc import Sequence
from pathlib import Path

from spectralgpt.reports.html import Picture, Section, write_report
from spectralgpt.reports.reconstructions import (
    Reconstruction,
    plot_reconstruction,
    plot_spectra,
)
from spectralgpt.scenes.reconstruction import RebuiltWindow
from spectralgpt.sensors import Band

__all__ = ["write_rebuilt_report"]


def write_rebuilt_report(
    folder: Path,
    rebuilt: RebuiltWindow,
    bands: Sequence[Band],
    name: str,
    mask_ratio: float,
) -> Path:
    """Write report.html, reconstruction.png and spectra.png; return the report.

    Args:
        folder: made if it is not there.
        rebuilt: from `rebuild_window`.
        bands: the model's bands, in order.
        name: what the image is called.
        mask_ratio: share of hidden tokens, for the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = Reconstruction(
        rebuilt.pixels, rebuilt.rebuilt, rebuilt.masked, tuple(bands), name
    )
    pictures = {
        "reconstruction.png": plot_reconstruction(shown),
        "spectra.png": plot_spectra(shown),
    }
    for file, figure in pictures.items():
        figure.savefig(folder / file)
    window = rebuilt.window
    section = Section(
        "What was rebuilt",
        "Each tile was masked and rebuilt by itself. Pixels that the model saw are "
        "shown as they are. Whether the model was trained on this image is not known.",
        figures=[
            Picture(
                folder / "reconstruction.png",
                f"{name}: input, visible part, rebuilt image and error",
                "Rows: composites and one band. Columns: input, what the model saw, "
                "what it rebuilt, and the error where it saw nothing.",
            ),
            Picture(
                folder / "spectra.png",
                f"{name}: spectra of some pixels, true and rebuilt",
                "Open circles were hidden from the model.",
            ),
        ],
    )
    return write_report(
        folder / "report.html",
        f"Rebuilt: {name}",
        [section],
        summary=f"{mask_ratio:.0%} of the tokens were hidden.",
        facts=[
            (f"{window.height} x {window.width} px", "shown"),
            (f"{rebuilt.error:.4f}", "mean squared error where hidden (scaled)"),
        ],
    )
