"""Maps of clusters: places with like embeddings, without any labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import NO_CLASS, writing_class_map
from spectralgpt.rasters.embeddings import EmbeddingRaster

__all__ = ["Clustering", "fit_clusters", "map_rows", "sample_cells", "write_map"]

FloatArray = NDArray[np.float32]
_MOST_CELLS = 200_000
"""Cells that clusters are fitted on; the others only take part."""
_MOST_NUMBERS = 2**25
_STARTS = 4
_BATCH = 4096
_MOST_CLUSTERS = 64
_EPS = 1e-6


@dataclass(frozen=True)
class Clustering:
    """Groups of embeddings, the largest first.

    Args:
        mean: (D,), subtracted from embeddings.
        scale: (D,), which they are divided by.
        centres: (K, D) of the result.
    """

    mean: FloatArray
    scale: FloatArray
    centres: FloatArray

    @property
    def names(self) -> tuple[str, ...]:
        """What the clusters are called: nobody has told what they show."""
        return tuple(f"cluster {i + 1}" for i in range(len(self.centres)))

    def assign(self, cells: FloatArray) -> NDArray[np.int64]:
        """Return the nearest centre of each embedding (..., D)."""
        scaled = (cells - self.mean) / self.scale
        # Without the square of the cells, which is the same for every centre.
        halves = (self.centres**2).sum(axis=1) / 2
        nearest: NDArray[np.int64] = (scaled @ self.centres.T - halves).argmax(axis=-1)
        return nearest


def sample_cells(
    rasters: Sequence[EmbeddingRaster], most: int = _MOST_CELLS, seed: int = 0
) -> FloatArray:
    """Draw cells of all rasters alike, (N, D + C); all of them if there are few.

    Raises:
        DataError: there is none.
    """
    total = sum(raster.grid.height * raster.grid.width for raster in rasters)
    most = min(most, _MOST_NUMBERS // len(rasters[0].source.layer_names))
    rng, share = np.random.default_rng(seed), min(1.0, most / total)
    drawn = []
    for raster in rasters:
        for window in raster.blocks():
            values, valid = raster.read(window)
            drawn.append(values[valid & (rng.random(valid.shape) < share)])
    cells = np.concatenate(drawn)
    if not len(cells):
        raise DataError(f"{rasters[0].path} holds no cell with an embedding.")
    return cells


def fit_clusters(
    rasters: Sequence[EmbeddingRaster], count: int, seed: int = 0
) -> Clustering:
    """Group the cells of rasters by k-means on their standardised embeddings.

    Args:
        rasters: of one encoder, see `open_alike`.
        count: clusters K.
        seed: of the first centres, and of the cells that are drawn of many.

    Raises:
        ConfigError: fewer than 2 clusters, or more than 64.
        DataError: there are fewer cells than clusters.

    Source: Sculley 2010, Web-scale k-means clustering (mini-batches).
    """
    from sklearn.cluster import MiniBatchKMeans

    if not 2 <= count <= _MOST_CLUSTERS:
        raise ConfigError(
            f"{count} clusters: ask for 2 to {_MOST_CLUSTERS} with --classes."
        )
    width = rasters[0].source.width
    cells = sample_cells(rasters, seed=seed)[:, :width]
    if len(cells) < count:
        raise DataError(
            f"{len(cells)} cells do not make {count} clusters: ask for fewer."
        )
    mean, scale = cells.mean(axis=0), cells.std(axis=0) + np.float32(_EPS)
    grouping = MiniBatchKMeans(
        count, n_init=_STARTS, batch_size=_BATCH, random_state=seed
    )
    groups = grouping.fit_predict((cells - mean) / scale)
    order = np.argsort(-np.bincount(groups, minlength=count), kind="stable")
    centres = grouping.cluster_centers_[order].astype(np.float32)
    return Clustering(mean, scale, centres)


def map_rows(
    raster: EmbeddingRaster,
    work: Callable[[FloatArray, NDArray[np.bool_]], NDArray[Any]],
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read a raster part by part, and make a map of it.

    Args:
        raster: what is read.
        work: from values (h, w, D + C), and which are valid (h, w), to numbers (h, w).

    Yields:
        The first row, and numbers (rows, W), over the whole width.
    """
    for row, blocks in groupby(raster.blocks(), key=lambda block: block.row):
        parts = [work(*raster.read(block)) for block in blocks]
        yield row, np.concatenate(parts, axis=1)


def write_map(
    raster: EmbeddingRaster, clustering: Clustering, path: Path, colours: Sequence[str]
) -> NDArray[np.uint8]:
    """Write the clusters of a raster as a map of classes.

    Args:
        raster: of the encoder that the clusters are of.
        clustering: the clusters.
        path: the GeoTIFF to make.
        colours: one a cluster.

    Returns:
        The map (H, W), `NO_CLASS` where there is nothing.

    Raises:
        RasterError: the map cannot be written.
    """

    def work(values: FloatArray, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        nearest = clustering.assign(values[..., : raster.source.width])
        return np.where(valid, nearest, NO_CLASS).astype(np.uint8)

    rows = []
    with writing_class_map(path, raster.grid, clustering.names, colours) as write:
        for row, classes in map_rows(raster, work):
            write(row, classes[None])
            rows.append(classes)
    return np.concatenate(rows)
