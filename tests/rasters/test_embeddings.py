from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo import cog_validate

from spectralgpt.errors import DataError, RasterError
from spectralgpt.rasters import Window
from spectralgpt.rasters.embeddings import open_embeddings, writing_embeddings
from spectralgpt.rasters.write import NumberType
from tests.embedding_files import BANDS, UTM, WIDTH, three_kinds, write_embeddings


@pytest.mark.parametrize(("number_type", "error"), [("float16", 2e-3), ("int8", 1e-2)])
def test_numbers_place_and_holes_come_back(
    tmp_path: Path, number_type: NumberType, error: float
) -> None:
    classes = three_kinds()
    classes[:3, :4] = -1
    exact = write_embeddings(tmp_path / "a.tif", classes, noise=0)
    made = write_embeddings(
        tmp_path / "b.tif", classes, number_type=number_type, noise=0
    )
    values, valid = made.read()
    assert np.array_equal(valid, classes >= 0)
    assert np.abs(values - exact.read()[0]).max() < error
    expected = 0.1 + 0.1 * classes[valid] + 0.02
    np.testing.assert_allclose(values[valid][:, -1], expected, atol=error)
    assert (made.grid.transform, made.grid.crs) == (UTM, "EPSG:32632")
    part, _ = made.read(Window(5, 6, 7, 8))
    assert np.array_equal(part, values[5:12, 6:14])


@pytest.mark.parametrize("number_type", ["float16", "int8"])
def test_file_is_a_cog_whose_layers_have_names(
    tmp_path: Path, number_type: NumberType
) -> None:
    classes = three_kinds(200, 600)
    write_embeddings(tmp_path / "a.tif", classes, number_type=number_type)
    assert cog_validate(tmp_path / "a.tif") == (True, [], [])
    with rasterio.open(tmp_path / "a.tif") as made:
        assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert made.dtypes[0] == ("int8" if number_type == "int8" else "float32")
        assert made.overviews(1)
        assert made.descriptions[:2] == ("D000", "D001")
        assert made.descriptions[WIDTH:] == tuple(band.name for band in BANDS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_other_rasters_and_broken_tags_are_refused(tmp_path: Path) -> None:
    made = write_embeddings(tmp_path / "a.tif", three_kinds())
    with rasterio.open(made.path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.update_tags(SPECTRALGPT_EMBEDDING='{"bands": 3}')
    with pytest.raises(RasterError, match="broken tag"):
        open_embeddings(made.path)
    with rasterio.open(made.path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.update_tags(SPECTRALGPT_EMBEDDING=None)
    with pytest.raises(RasterError, match=r"broken tag|no raster of embeddings"):
        open_embeddings(made.path)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    made = write_embeddings(tmp_path / "in" / "a.tif", three_kinds())
    out = tmp_path / "out"

    def fail() -> None:
        with writing_embeddings(out / "b.tif", made.grid, made.source, "int8") as write:
            write(0, np.moveaxis(made.read()[0][:4], -1, 0))
            raise DataError("the model gives no numbers")

    with pytest.raises(DataError, match="no numbers"):
        fail()
    assert not out.exists()


@pytest.mark.parametrize("number_type", ["float16", "int8"])
def test_equal_embeddings_are_equal_bytes(
    tmp_path: Path, number_type: NumberType
) -> None:
    # Cells that do not fill the last blocks, and a name like that of a file beside.
    made = [
        write_embeddings(folder / "int8.tif", three_kinds(), number_type=number_type)
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    first, second = (each.path.read_bytes() for each in made)
    assert first == second


def test_numbers_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    made = write_embeddings(tmp_path / "a.tif", three_kinds())
    values = np.full((WIDTH + len(BANDS), *three_kinds().shape), 1e6, np.float32)
    with writing_embeddings(made.path, made.grid, made.source, "float16") as write:
        write(0, values)
    assert made.read()[0].min() == 1e6
