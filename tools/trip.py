"""Print which files of the package one image passes on its way.

A newcomer who follows an image from its file to the loss, or to a pixel of a map, opens
these files. Counted are calls of functions, not what is imported; a line a file, in the
order of first entry, with the number of calls. From the project's folder:

    python tools/trip.py loss IMAGE
    python tools/trip.py map IMAGE --changes

IMAGE is any scene of Sentinel-2 L1C, such as src/spectralgpt/demo_data/scene/south.
With `--changes` the last line counts how often the main thread changes files.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

SOURCE = str(Path(__file__).resolve().parent.parent / "src" / "spectralgpt")
SENSOR = "sentinel-2-l1c"
ENCODER = {"embed_dim": 48, "depth": 2, "num_heads": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trip", choices=["loss", "map"])
    parser.add_argument("image", type=Path)
    parser.add_argument("--changes", action="store_true", help="count changes of file")
    options = parser.parse_args()
    travel = prepare_loss if options.trip == "loss" else prepare_map
    with tempfile.TemporaryDirectory() as folder:
        entered, changes = follow(travel(options.image, Path(folder)))
    for name, calls in entered.items():
        print(f"{calls:7d}  {name}")
    print(f"{len(entered)} files from the image to the {options.trip}")
    if options.changes:
        print(f"{changes} changes of file")


def follow(travel: Callable[[], object]) -> tuple[Counter[str], int]:
    """Run a trip; return the calls into each file, and the changes between files."""
    entered: Counter[str] = Counter()
    changes, last = 0, ""

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal changes, last
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(SOURCE):
            return
        # Bodies of modules and classes run when they are imported.
        if code.co_name == "<module>" or not code.co_flags & 0x2:
            return
        name = code.co_filename[len(SOURCE) + 1 :]
        entered[name] += 1
        if name != last:
            changes, last = changes + 1, name

    sys.setprofile(note)
    try:
        travel()
    finally:
        sys.setprofile(None)
    return entered, changes


def prepare_loss(image: Path, _: Path) -> Callable[[], object]:
    """Return what goes from a file to the pretraining loss of one image."""
    import torch

    import spectralgpt
    from spectralgpt.preprocessing import sensor_preprocessing
    from spectralgpt.rasters import Stated, Window, describe_raster, read_raster

    side = 32
    contract = sensor_preprocessing(SENSOR, image_size=side)
    model = spectralgpt.MaskedAutoencoder(
        side,
        len(contract.bands),
        **ENCODER,
        decoder_embed_dim=32,
        decoder_depth=2,
        decoder_num_heads=4,
        wavelengths_nm=contract.wavelengths_nm,
    )

    def travel() -> object:
        item = describe_raster(image, SENSOR, Stated(offset=0))
        raster = read_raster(item, contract.bands, Window(0, 0, side, side))
        pixels, valid = (
            torch.from_numpy(part)[None] for part in contract.prepare(raster)
        )
        return model(pixels, valid=valid).loss

    return travel


def prepare_map(image: Path, folder: Path) -> Callable[[], object]:
    """Return what maps a scene with a segmentation model, from its files to a file."""
    import spectralgpt
    from spectralgpt.preprocessing import sensor_preprocessing
    from spectralgpt.rasters import Stated, describe_raster
    from spectralgpt.scenes.maps import build_mapper, map_image

    side = 32
    contract = sensor_preprocessing(SENSOR, image_size=side)
    encoder = spectralgpt.SpectralEncoder(
        side,
        len(contract.bands),
        **ENCODER,
        wavelengths_nm=contract.wavelengths_nm,
    )
    model = spectralgpt.SegmentationModel(encoder, 2, "linear")
    facts = {"class_names": ["land", "water"], "task": "segmentation"}
    spectralgpt.save_model(folder / "model", model, contract, facts)
    mapper, _ = build_mapper(
        spectralgpt.load_model(folder / "model"), "model", flips=False
    )
    return lambda: map_image(
        mapper,
        (describe_raster(image, SENSOR, Stated(offset=0)),),
        folder / "map.tif",
    )


if __name__ == "__main__":
    main()
