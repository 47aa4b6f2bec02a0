"""Grouping the cells of a scene by their embeddings, and naming the groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectralgpt.demo.labels import CellLabels
from spectralgpt.reports.composites import choose_composites
from spectralgpt.sensors import Band

__all__ = ["Clusters", "find_clusters"]

_CLUSTERS = 6
_STARTS = 4


@dataclass(frozen=True)
class Clusters:
    """Groups of cells, the largest first.

    Args:
        index: (rows, columns) group of each cell.
        names: what each group is called.
    """

    index: NDArray[np.int64]
    names: tuple[str, ...]


def find_clusters(
    cells: NDArray[np.float32],
    spectra: NDArray[np.float32],
    bands: Sequence[Band],
    labels: CellLabels | None,
    seed: int,
) -> Clusters:
    """Group cells by k-means on their embeddings.

    Groups are named afterwards: by the labelled class found most often in them, or
    without labels by their vegetation index. The names take no part in the grouping.

    Args:
        cells: (rows, columns, D) embeddings.
        spectra: (rows, columns, C) mean reflectance.
        bands: the C bands.
        labels: known cells; None if there are none.
        seed: of the first centres.
    """
    from sklearn.cluster import KMeans

    rows, columns, width = cells.shape
    count = min(_CLUSTERS, rows * columns)
    grouping = KMeans(count, n_init=_STARTS, random_state=seed)
    raw = grouping.fit_predict(cells.reshape(-1, width)).reshape(rows, columns)
    order = np.argsort(-np.bincount(raw.ravel(), minlength=count))
    index = np.argsort(order)[raw]
    greenness = _vegetation_index(spectra, bands)
    names = [
        f"{number + 1}: " + _name(index == number, labels, greenness)
        for number in range(count)
    ]
    return Clusters(index.astype(np.int64), tuple(names))


def _name(
    members: NDArray[np.bool_],
    labels: CellLabels | None,
    greenness: NDArray[np.float32] | None,
) -> str:
    if labels is not None:
        known = labels.classes[members & (labels.classes >= 0)]
        if not known.size:
            return "no labelled cell in it"
        counts = np.bincount(known, minlength=len(labels.class_names))
        best = int(counts.argmax())
        return f"{labels.class_names[best]} in {counts[best]} of {known.size} labelled"
    if greenness is None:
        return "cluster"
    return f"NDVI {np.nanmedian(greenness[members]):.2f}"


def _vegetation_index(
    spectra: NDArray[np.float32], bands: Sequence[Band]
) -> NDArray[np.float32] | None:
    """Return (near infrared - red) / (near infrared + red), None without the bands."""
    for composite in choose_composites(bands):
        if composite.name == "false colour":
            near_infrared, red = (spectra[..., i] for i in composite.indices[:2])
            total = np.maximum(near_infrared + red, np.float32(1e-6))
            result: NDArray[np.float32] = (near_infrared - red) / total
            return result
    return None
