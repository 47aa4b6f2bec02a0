"""Places that look alike: clusters of embeddings, and search by cosine similarity.

faiss finds the places: it is released often, and holds vectors at 2 bytes per number in
an index that looks at all of them, so that no place is missed for speed. hnswlib has
had no release since 2023, and it and usearch are made for graphs, which miss some.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from spectralgpt.errors import ConfigError, DataError, require
from spectralgpt.files import write_file
from spectralgpt.rasters import NO_CLASS, Layers, Window, writing_map
from spectralgpt.rasters.embeddings import EmbeddingRaster, open_embeddings
from spectralgpt.rasters.footprints import LONLAT, cut_at_180, footprint_lonlat

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_EPS = 1e-8
_MORE = 8
"""Cells looked at for a place wanted, as neighbours of a place are alike as well."""
_MOST_CELLS = 200_000
"""Cells that clusters are fitted on; the others only take part."""
_MOST_NUMBERS = 2**25
_STARTS = 4
_BATCH = 4096
_MOST_CLUSTERS = 64
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Args:
        mean: (D,), subtracted from embeddings: what all places share tells nothing.
        direction: (D,) of length 1.
    """

    mean: FloatArray
    direction: FloatArray

    @classmethod
    def of(cls, cells: FloatArray, mean: FloatArray) -> Self:
        """Average embeddings (N, D) into a query.

        Args:
            cells: the embeddings that are looked for.
            mean: (D,), of all that are searched.
        """
        return cls(mean, _unit(_unit(cells - mean).mean(axis=0)))

    @classmethod
    def at(
        cls,
        raster: EmbeddingRaster,
        cells: tuple[NDArray[np.int64], NDArray[np.int64]],
        rasters: Sequence[EmbeddingRaster],
    ) -> Self:
        """Average the embeddings of cells at some places into a query.

        Args:
            raster: that they lie in.
            cells: their rows and columns, (N,) each.
            rasters: all that are searched; their mean embedding is subtracted.

        Raises:
            DataError: there is no embedding at any of the cells.
        """
        values, valid = read_cells(raster, *cells)
        if not valid.any():
            raise DataError(f"{raster.path} has no embedding there: it shows nothing.")
        width = raster.source.width
        mean = _sample_cells(rasters)[:, :width].mean(axis=0)
        return cls.of(values[valid][:, :width], mean)

    def similarity(self, cells: FloatArray) -> FloatArray:
        """Return the cosine of embeddings (..., D) with the query, -1..1."""
        # BLAS's product of matrix and vector can warn of numbers beside the array.
        unit = _unit(cells - self.mean)
        found: FloatArray = np.einsum("...d,d->...", unit, self.direction)
        return found

    def find(
        self, rasters: Sequence[EmbeddingRaster], top: int, spacing: int
    ) -> list["_Place"]:
        """Find the cells that are most like the query, most similar first.

        Vectors of one raster at a time are held, 2 bytes per number.

        Args:
            rasters: where.
            top: places wanted; fewer are found if there are no more.
            spacing: least distance between two places of a raster, cells.

        Raises:
            ConfigError: faiss is not installed, or a number is not positive.
        """
        if top < 1 or spacing < 1:
            raise ConfigError(f"ask for 1 place or more (found: {top}), 1 cell apart.")
        places = [
            place for raster in rasters for place in _find(self, raster, top, spacing)
        ]
        return sorted(places, key=lambda place: -place.similarity)[:top]

    def write_map(self, raster: EmbeddingRaster, path: Path) -> FloatArray:
        """Write the similarity of every cell as a GeoTIFF, NaN for nodata.

        Returns:
            The map (H, W).

        Raises:
            RasterError: it cannot be written.
        """

        def work(values: FloatArray, valid: BoolArray) -> FloatArray:
            found = self.similarity(values[..., : raster.source.width])
            return np.where(valid, found, np.float32("nan"))

        layers = Layers.of_measures(("similarity",))
        with writing_map(path, raster.grid, layers) as write:
            return _write_rows(raster, work, write)


class _Place(NamedTuple):
    """A cell like the query, and the cosine of both, -1..1."""

    raster: EmbeddingRaster
    row: int
    column: int
    similarity: float


def open_alike(paths: Sequence[Path]) -> list[EmbeddingRaster]:
    """Open rasters of embeddings that one encoder made, on cells of one size.

    Raises:
        DataError: they are of different encoders or cells, or none is named.
        RasterError: one cannot be read, or does not hold embeddings.
    """
    if not paths:
        raise DataError("name at least one raster of embeddings.")
    rasters = [open_embeddings(path) for path in paths]
    first = rasters[0]
    for other in rasters[1:]:
        for what in ("encoder", "cell_px", "width"):
            values = [getattr(raster.source, what) for raster in (first, other)]
            if values[0] != values[1]:
                raise DataError(
                    f"{first.path} and {other.path} differ in {what} ({values[0]} and "
                    f"{values[1]}): embed both scenes with the same model and cells."
                )
    return rasters


def read_cells(
    raster: EmbeddingRaster, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[FloatArray, BoolArray]:
    """Read cells that lie close together: values (N, D + C), and which are valid (N,).

    Args:
        raster: that they lie in.
        rows: (N,) of the cells.
        columns: (N,) of the cells.
    """
    top, left = int(rows.min()), int(columns.min())
    window = Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    values, valid = raster.read(window)
    return values[rows - top, columns - left], valid[rows - top, columns - left]


def _find(
    query: Query, raster: EmbeddingRaster, top: int, spacing: int
) -> list[_Place]:
    index, cells = _build_index(query, raster)
    width = raster.grid.width
    wanted = min(len(cells), top * _MORE)
    while True:
        scores, found = index.search(query.direction[None], wanted)
        places = _apart(cells[found[0]], scores[0], top, spacing, width)
        if len(places) == top or wanted == len(cells):
            return [_Place(raster, at // width, at % width, s) for at, s in places]
        wanted = min(len(cells), wanted * _MORE)


def _build_index(
    query: Query, raster: EmbeddingRaster
) -> tuple[Any, NDArray[np.int64]]:
    """Index the directions of a raster's valid cells; returns it, and their numbers."""
    require("faiss")
    import faiss

    kind = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexScalarQuantizer(
        raster.source.width, kind, faiss.METRIC_INNER_PRODUCT
    )
    numbers = []
    for block in raster.blocks():
        values, valid = raster.read(block)
        cells = values[valid][:, : raster.source.width]
        if len(cells):
            index.add(np.ascontiguousarray(_unit(cells - query.mean)))
            rows, columns = np.nonzero(valid)
            start = block.row * raster.grid.width + block.column
            numbers.append(start + rows * raster.grid.width + columns)
    return index, np.concatenate([np.zeros(0, np.int64), *numbers])


def _apart(
    cells: NDArray[np.int64], scores: FloatArray, top: int, spacing: int, width: int
) -> list[tuple[int, float]]:
    """Keep the first cells that lie `spacing` apart, along rows or columns."""
    kept: list[tuple[int, float]] = []
    at = np.zeros((0, 2), np.int64)
    for cell, score in zip(cells.tolist(), scores.tolist(), strict=True):
        place = np.array([divmod(cell, width)])
        if (np.abs(at - place).max(axis=1) >= spacing).all():
            kept.append((cell, score))
            at = np.concatenate([at, place])
        if len(kept) == top:
            break
    return kept


def write_places(places: Sequence[_Place], path: Path) -> Path:
    """Write the outlines of cells, in EPSG:4326, by the suffix of `path`.

    Columns are rank, similarity, scene, longitude and latitude.

    Args:
        places: the most similar first.
        path: a .geojson or .gpkg file.

    Raises:
        ConfigError: another suffix.
        DataError: a raster has no place on the globe.
        OutputError: it cannot be written.
    """
    require("geopandas")
    import geopandas
    import pandas
    from shapely import Polygon

    drivers = {".geojson": "GeoJSON", ".gpkg": "GPKG"}
    if path.suffix not in drivers:
        raise ConfigError(f"{path.name}: use one of {', '.join(drivers)}.")
    parts = []
    for rank, place in enumerate(places, start=1):
        cell = Window(place.row, place.column, 1, 1)
        corners = footprint_lonlat(place.raster.grid, cell)
        if corners is None:
            raise DataError(
                f"{place.raster.path} lies nowhere on the globe (its reference system: "
                f"{place.raster.grid.crs}), so the places found in it have no outlines."
            )
        row = {
            "rank": [rank],
            "similarity": [round(place.similarity, 4)],
            "scene": [place.raster.source.scene],
        }
        outline = cut_at_180(Polygon(corners))
        parts.append(geopandas.GeoDataFrame(row, geometry=[outline], crs=LONLAT))
    frame = pandas.concat(parts, ignore_index=True)
    centre = frame.representative_point()
    frame["longitude"], frame["latitude"] = centre.x.round(6), centre.y.round(6)
    driver = drivers[path.suffix]

    def write(to: Path) -> None:
        # GeoPackages want their suffix, which a temporary file has not.
        named = to.with_name(f"{to.name}{path.suffix}")
        try:
            frame.to_file(named, driver=driver, layer=path.stem)
            named.replace(to)
        finally:
            named.unlink(missing_ok=True)

    write_file(path, write)
    return path


def _unit(vectors: FloatArray) -> FloatArray:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: FloatArray = (vectors / np.maximum(norm, _EPS)).astype(np.float32)
    return unit


def _sample_cells(
    rasters: Sequence[EmbeddingRaster], most: int = _MOST_CELLS, seed: int = 0
) -> FloatArray:
    """Draw cells of all rasters alike, (N, D + C); all of them if there are few."""
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
) -> Callable[[FloatArray], NDArray[np.int64]]:
    """Group the cells of rasters by k-means on their standardised embeddings.

    Args:
        rasters: of one encoder, see `open_alike`.
        count: clusters K.
        seed: of the first centres, and of the cells that are drawn of many.

    Returns:
        What takes embeddings (..., D + C) and returns the clusters (...) that they are
        in, the largest of all cells being 0.

    Raises:
        ConfigError: fewer than 2 clusters, or more than 64.
        DataError: there are fewer cells than clusters.

    Source: Sculley 2010, Web-scale k-means clustering (mini-batches).
    """
    require("sklearn")
    from sklearn.cluster import MiniBatchKMeans

    if not 2 <= count <= _MOST_CLUSTERS:
        raise ConfigError(
            f"{count} clusters: ask for 2 to {_MOST_CLUSTERS} with --classes."
        )
    width = rasters[0].source.width
    cells = _sample_cells(rasters, seed=seed)[:, :width]
    if len(cells) < count:
        raise DataError(
            f"{len(cells)} cells do not make {count} clusters: ask for fewer."
        )
    mean, scale = cells.mean(axis=0), cells.std(axis=0) + np.float32(_LEAST_SPREAD)
    grouping = MiniBatchKMeans(
        count, n_init=_STARTS, batch_size=_BATCH, random_state=seed
    )
    groups = grouping.fit_predict((cells - mean) / scale)
    order = np.argsort(-np.bincount(groups, minlength=count), kind="stable")
    centres = grouping.cluster_centers_[order].astype(np.float32)
    halves = (centres**2).sum(axis=1) / 2

    def nearest(cells: FloatArray) -> NDArray[np.int64]:
        """Return the nearest centre of embeddings, the first D of (..., D + C)."""
        scaled = (cells[..., : len(mean)] - mean) / scale
        # Without the square of the cells, which is the same for every centre.
        found: NDArray[np.int64] = (scaled @ centres.T - halves).argmax(axis=-1)
        return found

    return nearest


def _write_rows(
    raster: EmbeddingRaster,
    work: Callable[[FloatArray, BoolArray], NDArray[Any]],
    write: Callable[[int, NDArray[Any]], object],
) -> NDArray[Any]:
    """Make a map (H, W) of a raster, part by part, and write it by rows.

    `work` turns values (h, w, D + C), and which are valid (h, w), to numbers (h, w);
    `write` gets the first row, and numbers (1, rows, W), over the whole width.
    """
    rows = []
    for row, blocks in groupby(raster.blocks(), key=lambda block: block.row):
        parts = [work(*raster.read(block)) for block in blocks]
        rows.append(np.concatenate(parts, axis=1))
        write(row, rows[-1][None])
    return np.concatenate(rows)


def write_class_map(
    raster: EmbeddingRaster,
    classify: Callable[[FloatArray], NDArray[np.int64]],
    names: Sequence[str],
    colours: Sequence[str],
    path: Path,
) -> NDArray[np.uint8]:
    """Write a map of classes of a raster of embeddings.

    Args:
        raster: what is mapped.
        classify: from values (h, w, D + C) to classes (h, w).
        names: of the classes.
        colours: one per class.
        path: the GeoTIFF to make.

    Returns:
        The map (H, W), `NO_CLASS` where there is nothing.

    Raises:
        RasterError: a file cannot be read or written.
    """

    def work(values: FloatArray, valid: BoolArray) -> NDArray[np.uint8]:
        return np.where(valid, classify(values), NO_CLASS).astype(np.uint8)

    with writing_map(path, raster.grid, Layers.of_classes(names, colours)) as write:
        return _write_rows(raster, work, write)
