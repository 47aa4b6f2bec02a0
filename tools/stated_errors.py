"""Do the errors that resampling states of estimated bands hold on real forest?

Bark-beetle places of 2020 (those of training; labels are not read) have all bands of
Sentinel-2: some are withheld and estimated, from the library of spectra or from the
imagery of pretraining, and held against what was measured.

    python tools/stated_errors.py --data ../shared/data --imagery DESCRIPTION.yaml ...
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transfer_study import (
    S2_LAYERS,
    WITHHELD,
    Array,
    draw_pretraining,
    read_month,
)

from spectralgpt.resampling import Imagery, fit_resampling
from spectralgpt.sensors import load_sensor

SENSOR = load_sensor("sentinel-2-l2a")
BANDS = SENSOR.select(S2_LAYERS)
PIXELS = 100  # of each place


def forest(root: Path) -> Array:
    """Draw pixels of the places to learn from: (12, N)."""
    rng = np.random.default_rng(0)
    drawn = []
    for mask in sorted(root.glob("masks/train/mask_*.tif")):
        raster = read_month(root, mask, BANDS)
        valid = np.flatnonzero(raster.valid.all(axis=0))
        chosen = rng.permutation(valid)[:PIXELS]
        drawn.append(raster.pixels.reshape(len(BANDS), -1)[:, chosen])
    return np.concatenate(drawn, axis=1)


def lines(
    truth: Array, withheld: Sequence[str], like: Imagery | None, learned: str
) -> list[str]:
    """Say what is stated and what is so, a line an estimated band."""
    at = [band.name in withheld for band in BANDS]
    found = [band for band, is_at_hand in zip(BANDS, at, strict=True) if is_at_hand]
    resampling = fit_resampling(
        found,
        BANDS,
        sensor=SENSOR,
        wanted_sensor=SENSOR,
        most_error_share=np.inf,
        like=like,
    )
    pixels = truth[at][:, None]
    made, _, wide, _ = resampling.estimate(pixels, np.ones(pixels.shape, bool))
    shown = []
    for row in resampling.positions("estimated"):
        error, name = made[row, 0] - truth[row], BANDS[row].name
        reached = np.sqrt((error**2).mean())
        inside = (np.abs(error) <= wide[row, 0]).mean()
        stated = f"{resampling.sources[row].error:.4f} | {reached:.4f} | {inside:.0%}"
        shown.append(f"| {'+'.join(withheld)} | {name} | {learned} | {stated} |")
    return shown


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--imagery", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    truth = forest(args.data / "barkbeetle_s2")
    like = draw_pretraining(args.imagery, args.data, SENSOR.name)
    print("| at hand | band | learned from | stated | found | in the interval |")
    print("| --- " * 6 + "|")
    for withheld in WITHHELD.values():
        for learned, source in ("library", None), ("imagery", like):
            print("\n".join(lines(truth, withheld, source, learned)), flush=True)


if __name__ == "__main__":
    main()
