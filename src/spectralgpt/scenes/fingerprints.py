"""What a map depends on, as short texts: model, images, contract and version."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectralgpt import __version__
from spectralgpt.models.building import plain_parts
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import Mosaic, RasterItem

__all__ = ["Fingerprint", "digest_facts", "digest_model", "scene_facts"]

Fingerprint = Mapping[str, str]
"""What a map depends on, by the words that a user knows it by."""


def digest_facts(*facts: Any) -> str:
    """Tell plain values from all others, in 64 hexadecimal digits."""
    return _digest([repr(fact) for fact in facts])


def digest_model(model: torch.nn.Module, *settings: object) -> str:
    """Tell weights and settings from all others, in 64 hexadecimal digits."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        for part in plain_parts(value):
            plain = part.detach().cpu().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def scene_facts(
    items: Sequence[RasterItem], preprocessing: Preprocessing
) -> dict[str, str]:
    """Say what a map depends on of images and contract; files by size and time."""
    contract = json.dumps(preprocessing.to_dict(), sort_keys=True, default=str)
    return {
        "image": _digest([_item_facts(item) for item in items]),
        "contract": _digest([contract]),
        "version": __version__,
    }


def _item_facts(item: RasterItem) -> list[Any]:
    meaning = (item.quantification, item.offset, item.nodata, item.other_invalid)
    facts: list[Any] = [item.sensor.name, *map(str, meaning)]
    if isinstance(item, Mosaic):
        return [*facts, repr(item.area), *map(_item_facts, item.parts)]
    for band, file in sorted(item.files.items()):
        facts.append([band, file.index, *_file_facts(Path(str(file.path)))])
        facts += [] if file.nodata is None else [str(file.nodata)]
    return facts


def _file_facts(path: Path) -> list[Any]:
    """Return name, size and time of a file, or of the archive that it is in."""
    on_disk = next((p for p in (path, *path.parents) if p.is_file()), None)
    if on_disk is None:
        return [str(path)]
    found = on_disk.stat()
    return [str(path.absolute()), found.st_size, found.st_mtime_ns]


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
