"""Measure how well bands of one sensor are had from another's, on the library.

Spectra are left out of the fit and estimated: a fifth of each kind at a time, then
whole classes. From the project's folder:

    python tools/resampling_accuracy.py landsat-8-9-l2 sentinel-2-l2a
    python tools/resampling_accuracy.py landsat-8-9-l2 sentinel-2-l2a --bands B2,B3,B4

Each line: the band, the root mean square error of its estimates, that of linear
interpolation over wavelength, the first as a share of the second, and which share of
the values lies in the intervals that should hold 90 %.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spectralgpt.resampling import SpectralLibrary, fit_resampling, load_library
from spectralgpt.sensors import Band, Sensor, find_sensor

FOLDS = 5


@dataclass(frozen=True)
class Accuracy:
    """How well one band was had from spectra that were left out."""

    band: str
    status: str
    error: float
    interpolated: float
    covered: float

    @property
    def share(self) -> float:
        """The error as a share of interpolation's."""
        return self.error / self.interpolated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("found", type=find_sensor, help="sensor of the images")
    parser.add_argument("wanted", type=find_sensor, help="sensor to bring them to")
    parser.add_argument(
        "--bands", help="bands of the images, by commas; all if left out"
    )
    arguments = parser.parse_args()
    names = arguments.bands.split(",") if arguments.bands else None
    found, sensors = arguments.found.select(names), (arguments.found, arguments.wanted)
    library = load_library()
    print_table(
        "a fifth of each kind left out", measure(found, *sensors, split(library))
    )
    for name in np.unique(library.classes):
        is_out = library.classes == name
        print_table(f"{name} left out", measure(found, *sensors, [is_out]))


def split(library: SpectralLibrary) -> list[np.ndarray]:
    """Return which spectra each fold leaves out, (N,); it has some of each kind."""
    order = np.random.default_rng(1).permutation(len(library.kinds))
    order = order[np.argsort(library.kinds[order], kind="stable")]
    fold = np.empty(len(order), int)
    fold[order] = np.arange(len(order)) % FOLDS
    return [fold == number for number in range(FOLDS)]


def measure(
    bands: Sequence[Band], found: Sensor, wanted: Sensor, left_out: list[np.ndarray]
) -> list[Accuracy]:
    """Estimate the spectra that are left out, each from a fit on all others."""
    library = load_library()
    target = library.sense(wanted.select(), wanted)
    known = np.isfinite(target).all(axis=0)
    targets = [
        b for b, is_known in zip(wanted.select(), known, strict=True) if is_known
    ]
    target = target[:, known]
    seen = library.sense(bands, found)
    made, wide = np.full_like(target, np.nan), np.full_like(target, np.nan)
    for is_out in left_out:
        resampling = fit_resampling(
            bands,
            targets,
            sensor=found,
            wanted_sensor=wanted,
            most_error_share=np.inf,
            library=library.part(~is_out),
        )
        pixels = seen[is_out].T[:, None].astype(np.float32)
        valid = np.isfinite(pixels)
        made[is_out] = resampling.apply(pixels, valid)[0][:, 0].T
        wide[is_out] = resampling.interval(pixels, valid)[:, 0].T
    is_out = np.logical_or.reduce(left_out)
    usable = np.isfinite(seen).all(axis=0)
    centres = [
        b.wavelength_nm for b, is_usable in zip(bands, usable, strict=True) if is_usable
    ]
    nm = [band.wavelength_nm for band in targets]
    plain = np.stack([np.interp(nm, centres, row) for row in seen[:, usable]])
    rows = zip(targets, resampling.sources, (made - target)[is_out].T, strict=True)
    return [
        Accuracy(
            band.name,
            source.status,
            rms(error),
            rms((plain - target)[is_out, at]),
            float((np.abs(error) <= wide[is_out, at]).mean()),
        )
        for at, (band, source, error) in enumerate(rows)
    ]


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt((errors**2).mean()))


def print_table(title: str, rows: list[Accuracy]) -> None:
    print(title)
    for row in rows:
        print(
            f"  {row.band:5s} {row.status:10s} {row.error:.4f} {row.interpolated:.4f} "
            f"{row.share:6.3f} {row.covered:6.1%}"
        )


if __name__ == "__main__":
    main()
