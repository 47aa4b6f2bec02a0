"""EuroSAT, all 13 bands: TorchGeo's download and split lists, our pixel reader.

The files carry no band names and keep B8A last. The registry has the order, so that
bands go by name from then on: dropping B10 by index would drop B11 instead.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from spectralgpt.data.label_files import (
    list_class_folders,
    number_samples,
    read_folder,
    read_split_lists,
)
from spectralgpt.data.samples import SINGLE_LABEL, SPLITS, SampleSet
from spectralgpt.data.sources import format_of_archive
from spectralgpt.errors import DatasetNotFoundError
from spectralgpt.rasters import FILE_SIZES, list_folder


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
    from torchgeo.datasets import EuroSAT, EuroSATSpatial

    image_format = replace(format_of_archive("eurosat-ms"), sizes=FILE_SIZES)
    archive: Any = EuroSATSpatial if lists == "spatial" else EuroSAT
    files = [(split, root / name) for split, name in archive.split_filenames.items()]
    images = root / archive.base_dir
    is_there = images.is_dir() or (root / archive.filename).is_file()
    if not download and not (is_there and all(path.is_file() for _, path in files)):
        if not (root.is_dir() and any(path.is_dir() for path in list_folder(root))):
            raise DatasetNotFoundError(
                f"EuroSAT is not at {root}. Set data.download true, or put the folders "
                "of its classes there."
            )
        return read_folder(root, image_format)
    for split in SPLITS:
        # Fetches, unpacks and checks what the split needs.
        archive(root=str(root), split=split, download=download, checksum=True)
    listing = list_class_folders(images, lists=read_split_lists(files))
    listed = [entry for entry in listing.entries if entry.split]
    entries = sorted(listed, key=lambda entry: SPLITS.index(entry.split))
    names, source = listing.class_names, f"EuroSAT at {root}"
    samples = number_samples(entries, names, image_format)
    return SampleSet(samples, names, SINGLE_LABEL, source, stated=image_format.of_files)
