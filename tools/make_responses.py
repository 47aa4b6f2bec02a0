"""Write the measured responses in src/spectralgpt/sensors/responses/.

From the curves that the package pyrsr ships (Apache-2.0), as its source distribution
holds them: `pip download --no-deps --no-binary :all: pyrsr==0.8.0`, unpacked. From the
project's folder:

    python tools/make_responses.py pyrsr-0.8.0

A sensor of several satellites gets the mean of their curves; a band is written at steps
of 1 nm, relative to its peak, from the first to the last value of at least 0.1 % of it.
"""

import argparse
import textwrap
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parent.parent / "src/spectralgpt/sensors/responses"
THERMAL_NM = 3000
LEAST = 0.001
Curves = dict[str, tuple[int, np.ndarray]]
"""Of bands, by name: the first wavelength in nm, and the response at steps of 1 nm."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pyrsr", type=Path, help="unpacked source of pyrsr")
    data = parser.parse_args().pyrsr / "pyrsr" / "data"
    oli = mean([read(data / f"Landsat-{n}/OLI_TIRS", "B{}") for n in (8, 9)])
    msi = mean([read(data / f"Sentinel-2{letter}/MSI", "B{:0>2}") for letter in "AB"])
    write("landsat-4-5-tm", mean([read(data / f"Landsat-{n}/TM") for n in (4, 5)]))
    write("landsat-7-etm", read(data / "Landsat-7/ETM+"))
    write("landsat-8-9", oli)
    write("sentinel-2", msi)
    # What HLS adjusts to OLI: see sensors/hls-s30.yaml.
    shared = ("B01", "B02", "B03", "B04", "B8A", "B11", "B12")
    adjusted = dict(zip(shared, list(oli.values())[:7], strict=True))
    write("hls-s30", msi | adjusted)
    # pyrsr holds the same curves for Terra and Aqua.
    modis = read(data / "Terra/MODIS")
    write("modis", {f"B{n}": modis[f"B{n}"] for n in range(1, 8)})
    write("rapideye", read(data / "RapidEye/MSI"))


def read(folder: Path, name: str = "B{}") -> Curves:
    """Read an instrument's curves, scaled to a sum of 1, but for thermal bands."""
    found = {}
    for path in sorted(folder.glob("band_*"), key=lambda path: _order(path.name)):
        nm, values = np.loadtxt(path, skiprows=1).T
        if nm[0] < 100:
            nm = nm * 1000  # Some files are in micrometres.
        if nm[0] > THERMAL_NM:
            continue
        assert np.allclose(np.diff(nm), 1), f"{path} has other steps than 1 nm"
        values = values.clip(0)  # Noise about 0 far from the band.
        band = name.format(path.name.removeprefix("band_"))
        found[band] = (round(nm[0]), values / values.sum())
    return found


def _order(name: str) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, name))
    return int(digits), name


def mean(satellites: list[Curves]) -> Curves:
    """Return the mean of each band over satellites."""
    merged = {}
    for band in satellites[0]:
        curves = [curves[band] for curves in satellites]
        first = min(start for start, _ in curves)
        stop = max(start + len(values) for start, values in curves)
        total = np.zeros(stop - first)
        for start, values in curves:
            total[start - first :][: len(values)] += values
        merged[band] = (first, total / len(curves))
    return merged


def write(name: str, curves: Curves) -> None:
    lines = ["# Relative responses at steps of 1 nm: see README.md.", "bands:"]
    for band, (first, values) in curves.items():
        values = values / values.max()
        kept = np.flatnonzero(values >= LEAST)
        text = " ".join(f"{v:.4f}" for v in values[kept[0] : kept[-1] + 1])
        lines.append(f"  - name: {band}")
        lines.append(f"    first_nm: {first + kept[0]}")
        lines.append("    response: >-")
        lines += textwrap.wrap(
            text, 88, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    TARGET.mkdir(exist_ok=True)
    (TARGET / f"{name}.yaml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
