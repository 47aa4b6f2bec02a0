"""Packs: images of a data set as shards that are fast to draw crops from.

A pack is a folder, on disk or in object storage:

- `pack.json`: what the pack holds, with the size and checksum of each other file;
- `images.parquet`: one row per image: name, place, where it lies, which shard has it;
- `shard-00000.safetensors` and so on: the numbers of the files as they were, those of
  images that are alike stacked, so that any window of any image is one read.

Nothing is resampled, scaled or converted: training reads the same numbers as from the
files. Nothing is unpickled, and no path inside a pack is followed.
"""

from spectralgpt.data.packing.manifest import MANIFEST, is_pack
from spectralgpt.data.packing.reading import Pack, verify_pack

__all__ = ["MANIFEST", "Pack", "is_pack", "verify_pack"]
