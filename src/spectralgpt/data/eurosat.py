"""EuroSAT, all 13 bands: TorchGeo's download and split lists, our pixel reader.

The files carry no band names and keep B8A last. The order is written down here once, so
that bands go by name from then on: dropping B10 by index would drop B11 instead.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.label_files import (
    list_class_folders,
    number_samples,
    read_folder,
)
from spectralgpt.data.listings import Listing
from spectralgpt.data.samples import SINGLE_LABEL, SPLITS, SampleSet
from spectralgpt.errors import DatasetNotFoundError
from spectralgpt.files import read_text
from spectralgpt.rasters import FILE_SIZES, list_folder

SENSOR = "sentinel-2-l1c"
FILE_BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08"),
    *("B09", "B10", "B11", "B12", "B8A"),
)
_FORMAT = ImageFormat(
    sensor=SENSOR,
    bands=FILE_BANDS,
    unit="digital-numbers",
    offset=0.0,  # The archive is older than processing baseline 04.00.
    quantification=10_000.0,
    sizes=FILE_SIZES,
)


def read_eurosat(
    root: Path, lists: Literal["random", "spatial"] = "random", download: bool = False
) -> SampleSet:
    """Read EuroSAT with its published split, or a folder of its classes without one.

    Args:
        root: folder of TorchGeo's layout (`ds/images/...` and the split lists), or one
            with the class folders directly in it.
        lists: published split: `random` (Neumann et al. 2019) or `spatial` (by
            longitude).
        download: fetch the archive (2 GB) and check its sums if it is not at root.

    Raises:
        DatasetNotFoundError: it is not there and may not be downloaded.

    Source: Helber et al. 2019; band order verified on files (the ninth band's values
        are those of water vapour, the last one's follow B08).
    """
    archive = _archive_class(lists)
    if not download and not _has_archive(root, archive):
        if not (root.is_dir() and any(path.is_dir() for path in list_folder(root))):
            raise DatasetNotFoundError(
                f"EuroSAT is not at {root}. Set data.download true, or put the folders "
                "of its classes there."
            )
        return read_folder(root, _FORMAT)
    for split in SPLITS:
        # Fetches, unpacks and checks what the split needs.
        archive(root=str(root), split=split, download=download, checksum=True)
    splits = _read_lists(root, archive.split_filenames)
    listing = list_class_folders(root / archive.base_dir, lists=splits)
    listed = [entry for entry in listing.entries if entry.split]
    entries = sorted(listed, key=lambda entry: SPLITS.index(entry.split))
    names, source = listing.class_names, f"EuroSAT at {root}"
    samples = number_samples(entries, names, _FORMAT)
    return SampleSet(samples, names, SINGLE_LABEL, source, stated=_FORMAT.of_files)


def list_eurosat(root: Path, images: Path, class_names: Sequence[str]) -> Listing:
    """List the images, with the random split as far as its lists are there.

    Args:
        root: folder of the lists.
        images: the folder of classes.
        class_names: the classes that may be there.

    Raises:
        DataError: folders of splits and of classes lie side by side.
    """
    names = {split: f"eurosat-{split}.txt" for split in SPLITS}
    return list_class_folders(images, class_names, _read_lists(root, names))


def _read_lists(root: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Return the split by the name of an image without its ending."""
    splits: dict[str, str] = {}
    for split, name in names.items():
        lines = read_text(root / name).split() if (root / name).is_file() else []
        splits |= {Path(line).stem: split for line in lines}
    return splits


def _archive_class(lists: str) -> Any:
    from torchgeo.datasets import EuroSAT, EuroSATSpatial

    return EuroSATSpatial if lists == "spatial" else EuroSAT


def _has_archive(root: Path, archive: Any) -> bool:
    has_images = (root / archive.base_dir).is_dir() or (
        root / archive.filename
    ).is_file()
    has_lists = all(
        (root / name).is_file() for name in archive.split_filenames.values()
    )
    return has_images and has_lists
