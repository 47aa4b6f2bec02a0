"""Write the library of reflectance spectra in src/spectralgpt/spectra/.

From the library that the package earthlib ships (MIT), as its distribution holds it:
`pip download --no-deps earthlib==1.1.0`, unzipped. From the project's folder:

    python tools/make_spectral_library.py earthlib/data

Reflectance is rounded to 1/10,000 and kept as differences from one wavelength to the
next, which compress well; of the labels, the second and third level stay.
"""

import argparse
import csv
import re
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parent.parent / "src/spectralgpt/spectra/library.npz"
LEVELS = 10_000
NM_PER_UM = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with spectra.sli, .sli.hdr and .csv")
    folder = parser.parse_args().folder
    wavelengths = read_wavelengths((folder / "spectra.sli.hdr").read_text())
    with (folder / "spectra.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    spectra = np.fromfile(folder / "spectra.sli", "<f4").reshape(len(rows), -1)
    assert spectra.shape[1] == len(wavelengths)
    columns: dict[str, np.ndarray] = {}
    for level in (2, 3):
        names, at = np.unique(
            [row[f"LEVEL_{level}"] for row in rows], return_inverse=True
        )
        columns |= {f"names_{level}": names, f"level_{level}": at.astype(np.uint8)}
    levels = np.round(spectra * LEVELS).astype(int).T
    # Neighbours of neighbours differ little: their bytes, apart, pack best, with signs
    # in the last bit.
    bends = np.diff(np.diff(levels, axis=0, prepend=0), axis=0, prepend=0)
    folded = (bends << 1) ^ (bends >> 63)
    assert folded.max() < 2**16
    np.savez_compressed(
        TARGET,
        wavelengths_nm=np.round(wavelengths).astype(np.uint16),
        bends=np.stack([folded & 255, folded >> 8]).astype(np.uint8),
        **columns,
    )
    print(f"{TARGET}: {len(rows)} spectra, {TARGET.stat().st_size / 1e6:.2f} MB")


def read_wavelengths(header: str) -> np.ndarray:
    """Return the wavelengths of an ENVI header in nm."""
    found = re.search(r"wavelength = \{(.*?)\}", header, re.DOTALL)
    assert found, "no wavelengths"
    values = np.array([float(text) for text in found[1].split(",")])
    return values * NM_PER_UM if values[0] < 1 else values


if __name__ == "__main__":
    main()
