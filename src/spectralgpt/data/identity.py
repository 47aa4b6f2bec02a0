"""Which images a model has seen, and whether a data set is still the same.

Images are known by the numbers in the middle of their first layer, so that copies are
recognised under other names, in other folders and formats. For archives whose files are
not opened to list them, and for blank images, a sample of the bytes takes their place.
Checkpoints keep what they were trained on, so that scoring the same images is noticed.
"""

import base64
import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from spectralgpt.data.samples import MaskFile, Sample
from spectralgpt.errors import CheckpointError, RasterError, ShapeError
from spectralgpt.rasters import BandFile, RasterFile, Window
from spectralgpt.rasters.gdal import GDAL_ERRORS, quiet_gdal
from spectralgpt.rasters.read import OpenFiles

_log = logging.getLogger(__name__)

_DIGEST_BYTES = 6
"""Of a million images, two have the same digest with a chance of 0.2 %."""
_TEXT = 8  # Characters of a digest.
_SAMPLE = 16_384
"""Bytes read at the beginning, in the middle and at the end of a file."""
_SAMPLED = 2_000
"""Images whose bytes are looked at before a run goes on."""
_MIDDLE_PX = 128
_KEPT = 65_536
"""Digests that are not made twice: of a split, then of its training images."""
_WHOLE: tuple[Window, ...] = ()  # In place of windows: all of an image.

_LEARNT_FROM = ("train", "val")
SPLIT_SETTINGS = (
    "split",
    "fractions",
    "block_m",
    "gap_m",
    "num_folds",
    "fold",
    "split_seed",
    "train_fraction",
    "tile_px",
    "eurosat_split",
)
"""What data sets are divided by, as far as they have it."""


@dataclass(frozen=True)
class SeenImages:
    """Images, or parts of them, in a form that a checkpoint keeps.

    Args:
        windows: parts of each image by its digest; none stands for all of it.
    """

    windows: Mapping[str, tuple[Window, ...]]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "SeenImages":
        """Note what samples show; of several dates, each."""
        whole: set[str] = set()
        parts: dict[str, set[Window]] = {}
        for sample in samples:
            for digest in _digests(sample):
                if sample.window is None:
                    whole.add(digest)
                else:
                    parts.setdefault(digest, set()).add(sample.window)
        found = {
            digest: tuple(sorted(boxes, key=astuple)) for digest, boxes in parts.items()
        }
        return cls(found | dict.fromkeys(whole, _WHOLE))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SeenImages":
        """Read what `to_dict` gave.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            text, parts = values["whole"], values["parts"]
            whole = [text[i : i + _TEXT] for i in range(0, len(text), _TEXT)]
            windows = {digest: _read_boxes(line) for digest, line in parts.items()}
        except (KeyError, TypeError, ValueError, AttributeError, ShapeError) as error:
            raise CheckpointError(
                f"what a checkpoint says of its training images is damaged: {error}. "
                "Copy it again."
            ) from error
        return cls(dict.fromkeys(whole, _WHOLE) | windows)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, some 8 bytes per image."""
        whole = sorted(digest for digest, boxes in self.windows.items() if not boxes)
        parts = {
            digest: "; ".join(" ".join(map(str, astuple(box))) for box in boxes)
            for digest, boxes in self.windows.items()
            if boxes
        }
        return {"whole": "".join(whole), "parts": parts}

    def joined(self, other: "SeenImages") -> "SeenImages":
        """Return what either has seen."""
        both = dict(self.windows)
        for digest, boxes in other.windows.items():
            own = both.get(digest, boxes)
            both[digest] = _WHOLE if not own or not boxes else tuple({*own, *boxes})
        return SeenImages(both)

    def count(self, samples: Sequence[Sample]) -> int:
        """Count samples of which any part was seen."""
        return sum(
            any(self.has(digest, sample.window) for digest in _digests(sample))
            for sample in samples
        )

    def has(self, digest: str, window: Window | None) -> bool:
        """Tell whether any part of a window of an image was seen."""
        boxes = self.windows.get(digest)
        if boxes is None or not boxes or window is None:
            return boxes is not None
        return any(_meet(box, window) for box in boxes)


def training_settings(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a model's training, by what its checkpoint says of it.

    Empty if it does not say, or says what are no settings.
    """
    config = extra.get("config")
    return config if isinstance(config, Mapping) else {}


def split_settings(extra: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return how the images of a model's training were divided.

    Args:
        extra: what its checkpoint says of it.
        kind: configuration of the data, with the settings that it knows.

    Returns:
        Settings by name; empty if the checkpoint does not say.
    """
    data = training_settings(extra).get("data")
    if not isinstance(data, Mapping):
        return {}
    known = {each.name for each in fields(kind)}
    return {name: data[name] for name in SPLIT_SETTINGS if name in {*data} & known}


def read_seen(extra: Mapping[str, Any], name: str) -> dict[str, SeenImages] | None:
    """Return the images that a model was fine-tuned on, by split.

    Args:
        extra: what its checkpoint says of it.
        name: what it is called in messages.

    Returns:
        None if it was fine-tuned and does not say; empty if it was not fine-tuned.

    Raises:
        CheckpointError: what it says is damaged.
    """
    seen = extra.get("seen")
    if seen is None:
        if "class_names" not in extra:
            return {}
        _log.warning(
            "%s does not say which images it was trained on: whether scored images are "
            "among them cannot be checked.",
            name,
        )
        return None
    if not isinstance(seen, Mapping) or set(seen) != set(_LEARNT_FROM):
        raise CheckpointError(f"{name}: what it says of its images is damaged.")
    return {split: SeenImages.from_dict(values) for split, values in seen.items()}


def count_seen(
    extra: Mapping[str, Any], name: str, samples: Sequence[Sample]
) -> tuple[dict[str, int] | None, str]:
    """Count scored images that a model was trained on, or chosen by; warn of them.

    Args:
        extra: what its checkpoint says of it.
        name: what it is called in messages.
        samples: what is scored.

    Returns:
        How many by split of the training, None if that is unknown; and a sentence
        about them, with a leading blank, or "".

    Raises:
        CheckpointError: what the checkpoint says is damaged.
    """
    seen = read_seen(extra, name)
    if seen is None:
        return None, " Whether the model was trained on them cannot be told."
    counts = {split: images.count(samples) for split, images in seen.items()}
    trained, chosen = counts.get("train", 0), counts.get("val", 0)
    if not trained and not chosen:
        return counts, ""
    told = (
        f" {trained} of the {len(samples)} scored images were trained on and {chosen} "
        "chose the weights: the scores flatter the model. Score it on the test split "
        "of its training, or on other images."
    )
    _log.warning("%s:%s", name, told)
    return counts, told


def digest_data(samples: Sequence[Sample]) -> str:
    """Tell a data set from all others, in 64 hexadecimal digits.

    It changes with the images, labels, masks and stated splits; files count by their
    name, size and time.
    """
    rows = sorted(json.dumps(_facts(sample), default=str) for sample in samples)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def sample_data(images: Sequence[RasterFile | Sample]) -> str:
    """Tell images, labels and masks from others, in 16 hexadecimal digits.

    All names and labels count, and of up to 2,000 images what their numbers stand for
    and a sample of the bytes of their files; neither times nor folders do.
    """
    digest = hashlib.sha256()
    every = -(-len(images) // _SAMPLED)
    for number, image in enumerate(images):
        paths, facts = set[Path](), [image.name]
        items: tuple[RasterFile, ...]
        if isinstance(image, Sample):
            items, masks = image.items, _masks(image)
            facts.append(repr((image.split, image.window, image.labels)))
        else:
            items, masks = (image,), ()
        if number % every == 0:
            paths |= {mask.path for mask in masks}
            for item in items:
                facts += _meaning(item)
                paths |= {Path(str(file.path)) for file in item.files.values()}
        digest.update(repr(facts).encode())
        for path in sorted(paths):
            digest.update(_sample(path) if path.is_file() else path.name.encode())
    return digest.hexdigest()[:16]


def find_copies(
    samples: Sequence[Sample], others: Sequence[Sample]
) -> list[tuple[str, str]]:
    """Return the names of samples that show pixels of others, and of one of these."""
    seen = SeenImages.of(others)
    names = {digest: sample.name for sample in others for digest in _digests(sample)}
    found = [
        (sample.name, names[digest])
        for sample in samples
        for digest in _digests(sample)
        if seen.has(digest, sample.window)
    ]
    return list(dict(found).items())


def _digests(sample: Sample) -> list[str]:
    """Digest each image of a sample."""
    return [_digest_image(item) for item in sample.items]


def _masks(sample: Sample) -> tuple[MaskFile, ...]:
    return () if sample.mask is None else (sample.mask, *sample.mask.others)


def _digest_image(item: RasterFile) -> str:
    file = item.files[min(item.files)]
    changed: int | None = None
    with contextlib.suppress(OSError):
        changed = Path(str(file.path)).stat().st_mtime_ns
    return _digest_layer(file, item.name, changed)


@functools.lru_cache(_KEPT)
def _digest_layer(file: BandFile, name: str, changed: int | None) -> str:
    digest = hashlib.sha256()
    middle = None if file.is_stated else _middle(file)
    if middle is not None:
        digest.update(middle)
    elif isinstance(file.path, Path) and file.path.is_file():
        digest.update(_sample(file.path))
    else:
        # In an archive, an image's name tells it from the others.
        digest.update(f"{file.path.name} {name}".encode())
    return base64.urlsafe_b64encode(digest.digest()[:_DIGEST_BYTES]).decode()


def _middle(file: BandFile) -> bytes | None:
    """Read the middle of a layer; None if it is blank, or cannot be read."""
    height, width = file.grid.height, file.grid.width
    rows, columns = min(_MIDDLE_PX, height), min(_MIDDLE_PX, width)
    place = Window((height - rows) // 2, (width - columns) // 2, rows, columns)
    try:
        with quiet_gdal(), contextlib.closing(OpenFiles()) as files:
            numbers = files.read(file.path, [file.index], place)
    except (*GDAL_ERRORS, RasterError):
        return None
    if (numbers == numbers.flat[0]).all() or not np.isfinite(numbers).any():
        return None
    return f"{height} {width}".encode() + numbers.astype("<f4").tobytes()


def _sample(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        parts = [str(size).encode()]
        for start in (0, size // 2, max(0, size - _SAMPLE)):
            file.seek(start)
            parts.append(file.read(_SAMPLE))
    return b"".join(parts)


def _read_boxes(line: str) -> tuple[Window, ...]:
    return tuple(Window(*map(int, text.split())) for text in line.split(";"))


def _meet(one: Window, two: Window) -> bool:
    rows = min(one.row + one.height, two.row + two.height) - max(one.row, two.row)
    right = min(one.column + one.width, two.column + two.width)
    return rows > 0 and right > max(one.column, two.column)


def _facts(sample: Sample) -> list[Any]:
    """Say all that scores depend on of a sample."""
    window = None if sample.window is None else astuple(sample.window)
    facts: list[Any] = [sample.name, sample.split, window]
    items = [_item_facts(item) for item in sample.items]
    if sample.mask is None:
        return [*facts, sample.labels, *items]
    masks = [
        [_file_facts(mask.path), mask.index, mask.nodata, mask.stands_for]
        for mask in _masks(sample)
    ]
    return [*facts, sample.place, masks, items]


def _item_facts(item: RasterFile) -> list[Any]:
    files = [
        [name, file.index, str(file.nodata), _file_facts(Path(str(file.path)))]
        for name, file in sorted(item.files.items())
    ]
    return [*_meaning(item), files]


def _meaning(item: RasterFile) -> list[str]:
    meaning = (item.sensor.name, item.quantification, item.offset, item.nodata)
    return [*map(str, (*meaning, item.other_invalid))]


def _file_facts(path: Path) -> list[Any]:
    """Return name, size and time of a file, or of the archive that it is in."""
    on_disk = next((p for p in (path, *path.parents) if p.is_file()), None)
    if on_disk is None:
        return [str(path)]
    found = on_disk.stat()
    return [path.name, found.st_size, found.st_mtime_ns]
