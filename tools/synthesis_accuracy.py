"""Measure how well each band of Sentinel-2 is made from the other eleven.

Pixels of real scenes, a fourth of the scenes held out at a time: by the library of
spectra, by pixels of the other scenes, by linear regression on these, and by linear
interpolation over wavelength. From the project's folder, with the samples beside it:

    python tools/synthesis_accuracy.py --data ../shared/data

Takes about five minutes on a quiet core. Exits with 1 where a band is not made better
than by interpolation and by regression.
"""

import argparse
import sys
from pathlib import Path

from spectralgpt.data.sources import find_items, read_source
from spectralgpt.scenes.synthesis import plan_synthesis
from spectralgpt.sensors import load_sensor

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "real_samples"
SETS = ("major_tom_199u", "ssl4eo_s12_s2a", "terramesh_l2a", "bigearthnet_v2")
MORE = {"barkbeetle_s2": 6}
"""Sets of many alike images, of which only the first few are taken."""
RULES = ("interpolation", "linear regression")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of samples")
    parser.add_argument("--bands", nargs="+", default=None, help="some of them")
    arguments = parser.parse_args()
    items = []
    for name in (*SETS, *MORE):
        source = read_source(EXAMPLES / f"{name}.yaml")
        items += find_items([source], arguments.data, 1.0)[: MORE.get(name)]
    sensor = load_sensor("sentinel-2-l2a")
    names = arguments.bands or sensor.band_names
    print(f"{len(items)} scenes; root mean square error, reflectance")
    worse = []
    for name in names:
        synthesis = plan_synthesis(items[0], [sensor.band(name)], items)
        (errors,), (way,) = synthesis.errors, synthesis.ways
        print(name, way, {n: round(e, 5) for n, e in errors.items()}, flush=True)
        worse += [name for rule in RULES if errors[way] >= errors[rule]]
    sys.exit(f"not better: {', '.join(worse)}" if worse else 0)


if __name__ == "__main__":
    main()
