from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import embeddings
from spectralgpt.scenes.similarity import (
    Query,
    _sample_cells,
    _write_rows,
    fit_clusters,
)
from tests.embedding_files import WIDTH, three_kinds, write_embeddings


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> object:
    def shrink() -> None:
        monkeypatch.setattr(embeddings, "_BLOCK_PX", 8)
        monkeypatch.setattr(embeddings, "_MOST_NUMBERS", 8 * 16 * 8)

    return shrink


def test_parts_of_a_raster_give_what_the_whole_gives(
    tmp_path: Path, small_blocks: object
) -> None:
    classes = three_kinds()
    classes[3:5, 7:12] = -1
    raster = write_embeddings(tmp_path / "a.tif", classes)
    values, valid = raster.read()
    query = Query.at(raster, (np.array([12]), np.array([15])), [raster])
    whole = query.find([raster], 9, 3)
    small_blocks()  # type: ignore[operator]
    assert len(list(raster.blocks())) == 6
    written: list[tuple[int, np.ndarray]] = []
    made = _write_rows(
        raster, lambda v, ok: v[..., 2] + ok, lambda *part: written.append(part)
    )
    assert [row for row, _ in written] == [0, 8, 16]
    assert np.array_equal(made, values[..., 2] + valid)
    assert np.array_equal(np.concatenate([p[0] for _, p in written]), made)
    assert query.find([raster], 9, 3) == whole


def test_the_place_itself_is_found_first(tmp_path: Path) -> None:
    # The index holds 16-bit floats: cells must differ by more than their rounding.
    raster = write_embeddings(tmp_path / "a.tif", three_kinds(), noise=0.2)
    query = Query.at(raster, (np.array([4]), np.array([25])), [raster])
    first = query.find([raster], 1, 1)[0]
    assert (first.row, first.column) == (4, 25)
    assert first.similarity == pytest.approx(1, abs=2e-3)


def test_drawn_cells_are_cells_and_all_of_them_if_few(tmp_path: Path) -> None:
    classes = three_kinds()
    classes[0] = -1
    raster = write_embeddings(tmp_path / "a.tif", classes)
    cells = _sample_cells([raster, raster])
    assert len(cells) == 2 * (classes >= 0).sum()
    few = _sample_cells([raster], most=100)
    assert 50 < len(few) < 150
    known = {tuple(cell) for cell in cells}
    assert all(tuple(cell) in known for cell in few)


def test_clusters_are_sorted_by_size_and_seeded(tmp_path: Path) -> None:
    classes = np.repeat([0, 1, 2], [4, 9, 17])[None].repeat(20, axis=0)
    raster = write_embeddings(tmp_path / "a.tif", classes)
    first, again = (fit_clusters([raster], 3, seed=1) for _ in range(2))
    anywhere = np.random.default_rng(0).normal(size=(5000, WIDTH)).astype(np.float32)
    assert len(np.unique(first(anywhere))) == 3
    assert np.array_equal(first(anywhere), again(anywhere))
    assert np.array_equal(first(raster.read()[0][..., :WIDTH]), 2 - classes)


def test_too_many_clusters_or_no_cells_are_refused(tmp_path: Path) -> None:
    raster = write_embeddings(tmp_path / "a.tif", three_kinds(3, 3))
    with pytest.raises(DataError, match="9 cells do not make 12 clusters"):
        fit_clusters([raster], 12)
    with pytest.raises(ConfigError, match="2 to 64"):
        fit_clusters([raster], 65)
    classes = three_kinds(3, 3)
    classes[1:] = -1
    classes[0] = -1
    classes[0, 0] = 0
    lonely = write_embeddings(tmp_path / "b.tif", classes)
    with pytest.raises(DataError, match="no embedding there"):
        Query.at(lonely, (np.array([2]), np.array([2])), [lonely])
