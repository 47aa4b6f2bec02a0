from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.cli.main import main
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import BandError, ConfigError, DataError, ShapeError
from spectralgpt.rasters import read_raster
from spectralgpt.rasters.footprints import footprint_lonlat
from spectralgpt.scenes.embedding import (
    _cell_grid,
    _embed_strips,
    _position_response,
    _starts,
    cell_side,
    embed_scene,
)
from spectralgpt.scenes.tables import _embed_windows, embed_files
from tests.tiny import tiny_contract, tiny_encoder, tiny_model
from tests.toy import BANDS, SENSOR, chip_pixels, write_chip

FORMAT = ImageFormat(sensor=SENSOR, offset=0.0)


def scene(path: Path, size: int = 80, kind: str = "forest", **options: object) -> Path:
    pixels = chip_pixels(kind, size, np.random.default_rng(0))
    return write_chip(path, pixels, **options)  # type: ignore[arg-type]


def loaded() -> LoadedModel:
    return LoadedModel(tiny_model().encoder.eval(), tiny_contract())


def test_cells_cover_the_scene_and_keep_its_place(tmp_path: Path) -> None:
    item = FORMAT.describe(scene(tmp_path / "a.tif", size=84))
    found = embed_scene(tiny_model().encoder, tiny_contract(), item)
    assert found.values.shape == (11, 11, 48)
    assert np.isfinite(found.values).all()
    transform = found.grid.transform
    assert transform is not None
    assert (transform.c, transform.f) == (500_000.0, 4_600_000.0)
    assert (transform.a, transform.e) == (80.0, -80.0)


def test_without_overlap_cells_are_the_windows_tokens_less_their_place(
    tmp_path: Path,
) -> None:
    item = FORMAT.describe(scene(tmp_path / "a.tif", size=64))
    encoder, contract = tiny_model().encoder.eval(), tiny_contract()
    found = embed_scene(encoder, contract, item, overlap=0.0).values
    raster = read_raster(item, contract.bands)
    part = replace(
        raster, pixels=raster.pixels[:, 32:, :32], valid=raster.valid[:, 32:, :32]
    )
    image = torch.from_numpy(contract.prepare(part)[0])
    with torch.no_grad():
        expected = encoder(image[None]).mean(dim=1)[0].numpy()
    expected = expected - _position_response(encoder, 32)
    np.testing.assert_allclose(found[4:, :4], expected, atol=1e-5)


def test_overlap_lowers_the_seam_between_windows(tmp_path: Path) -> None:
    item = FORMAT.describe(scene(tmp_path / "a.tif", size=96))
    encoder, contract = tiny_model().encoder, tiny_contract()

    def seam(overlap: float) -> float:
        values = embed_scene(encoder, contract, item, overlap=overlap).values
        steps = np.linalg.norm(np.diff(values, axis=0), axis=-1).mean(axis=1)
        border = [3, 7]
        return float(steps[border].mean() / np.delete(steps, border).mean())

    assert seam(0.5) < seam(0.0)


def test_a_hole_is_marked_and_does_not_spread(tmp_path: Path) -> None:
    pixels = chip_pixels("field", 64, np.random.default_rng(0))
    for numbers in pixels.values():
        numbers[:16, :16] = 0
    item = FORMAT.describe(write_chip(tmp_path / "a.tif", pixels))
    found = embed_scene(tiny_model().encoder, tiny_contract(), item)
    assert found.valid[:2, :2].max() == 0
    assert found.valid[3:, 3:].min() == 1
    assert np.isfinite(found.values).all()


def test_band_order_does_not_change_a_bit(tmp_path: Path) -> None:
    encoder, contract = tiny_model().encoder, tiny_contract()
    first, second = (
        embed_scene(encoder, contract, FORMAT.describe(path)).values
        for path in (
            scene(tmp_path / "a.tif"),
            scene(tmp_path / "b.tif", order=BANDS[::-1]),
        )
    )
    assert np.array_equal(first, second)


def test_missing_band_and_small_scene_are_refused(tmp_path: Path) -> None:
    encoder, contract = tiny_model().encoder, tiny_contract()
    lacking = [band for band in BANDS if band != "B11"]
    item = FORMAT.describe(scene(tmp_path / "a.tif", order=lacking))
    with pytest.raises(BandError, match="B11"):
        embed_scene(encoder, contract, item)
    small = FORMAT.describe(scene(tmp_path / "b.tif", size=7))
    with pytest.raises(ShapeError, match=r"7 x 7 px, smaller than a token of 8 x 8"):
        list(_embed_windows(encoder, contract, small))


def test_small_files_are_one_image_and_large_ones_are_windows(tmp_path: Path) -> None:
    encoder, contract = tiny_model().encoder, tiny_contract()

    def count(size: int, fit: str) -> int:
        item = FORMAT.describe(scene(tmp_path / f"{size}.tif", size=size))
        windows = _embed_windows(encoder, contract, item, fit=fit)  # type: ignore
        return len(list(windows))

    assert count(16, "auto") == count(48, "auto") == 1
    assert count(80, "auto") == 9
    assert count(80, "resize") == 1
    assert count(40, "windows") == 4


def test_geoparquet_has_the_right_places(tmp_path: Path) -> None:
    paths = [
        scene(tmp_path / "a.tif", size=32, origin=(500_000.0, 4_600_000.0)),
        scene(tmp_path / "b.tif", size=32, origin=(600_000.0, 4_700_000.0)),
    ]
    made = embed_files(loaded(), paths, tmp_path / "out", image_format=FORMAT)
    frame = geopandas.read_parquet(made.path)
    assert frame.crs.to_epsg() == 4326
    assert frame["path"].tolist() == [str(path) for path in paths]
    assert np.stack(frame["embedding"]).shape == (2, 48)
    utm = frame.geometry.to_crs(32632)
    origins = ((500_000, 4_600_000), (600_000, 4_700_000))
    for polygon, (x, y) in zip(utm, origins, strict=True):
        np.testing.assert_allclose(polygon.bounds, (x, y - 320, x + 320, y), atol=0.01)
    centres = geopandas.points_from_xy(
        frame["longitude"], frame["latitude"], crs=4326
    ).to_crs(32632)
    np.testing.assert_allclose(
        (centres.x[0], centres.y[0]), (500_160, 4_599_840), atol=0.01
    )
    assert frame["bands"][0].split(",") == list(tiny_contract().band_names)


def test_npz_of_tokens_has_a_row_a_cell(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", size=44)
    made = embed_files(
        loaded(),
        [path],
        tmp_path,
        image_format=FORMAT,
        table_format="npz",
        level="token",
    )
    with np.load(made.path) as arrays:
        assert arrays["embedding"].shape == (36, 48)
        assert arrays["footprint"].shape == (36, 4, 2)
        assert (arrays["row"][-1], arrays["height"][-1]) == (40, 4)
        corner = footprint_lonlat(FORMAT.describe(path).grid())
        assert corner is not None
        np.testing.assert_allclose(arrays["footprint"][0, 0], corner[0])


def test_bad_files_are_counted_and_only_all_bad_is_an_error(tmp_path: Path) -> None:
    good = scene(tmp_path / "a.tif", size=32)
    corrupt = tmp_path / "b.tif"
    corrupt.write_bytes(good.read_bytes()[:500])
    absent = tmp_path / "c.tif"
    made = embed_files(
        loaded(), [corrupt, good, absent], tmp_path / "out", image_format=FORMAT
    )
    assert made.rows == 1
    assert [path for path, _ in made.failures] == [corrupt, absent]
    assert all("\n" not in reason for _, reason in made.failures)
    with pytest.raises(DataError, match=r"c\.tif does not exist"):
        embed_files(loaded(), [absent], tmp_path / "out2", image_format=FORMAT)
    with pytest.raises(DataError, match="None of the 2 images could be used"):
        embed_files(loaded(), [absent, corrupt], tmp_path / "out2", image_format=FORMAT)


def test_place_in_the_window_hardly_shows_in_a_flat_scene() -> None:
    encoder = tiny_model().encoder.eval()
    flat = torch.full((1, 12, 32, 32), 0.4)
    with torch.no_grad():
        cells = encoder(flat).mean(dim=1)[0].numpy()
    left = cells - _position_response(encoder, 32)
    assert left.std(axis=(0, 1)).mean() < 0.3 * cells.std(axis=(0, 1)).mean()
    np.testing.assert_allclose(
        _position_response(encoder, 32).mean(axis=(0, 1)), 0, atol=1e-5
    )


def test_failed_embedding_leaves_no_folder_and_gives_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = [band for band in BANDS if band != "B11"]
    path = scene(tmp_path / "a.tif", order=lacking)
    words = ["embed", str(path), "--model", "tiny", "--output", str(tmp_path / "out")]
    assert main([*words, "--offset", "0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: missing band B11")
    assert not (tmp_path / "out").exists()


def embed(path: Path, cell_px: int | None) -> tuple[np.ndarray, ...]:
    item = FORMAT.describe(path)
    encoder = tiny_encoder().eval()
    strips = _embed_strips(encoder, tiny_contract(), item, None, cell_px or 8)
    first, *parts = zip(*strips, strict=True)
    rows = np.cumsum([0, *map(len, parts[0])])
    assert list(first) == rows[:-1].tolist()
    return tuple(map(np.concatenate, parts))


@given(
    st.integers(8, 300),
    st.sampled_from([8, 32, 96]),
    st.sampled_from([1, 2, 4]),
    st.floats(0, 0.9),
)
def test_each_small_cell_is_met_by_every_cutting_of_patches(
    length: int, size: int, cell: int, overlap: float
) -> None:
    starts = _starts(length, size, 8, cell, overlap)
    for at in range(0, length, cell):
        covering = {-start % 8 for start in starts if start <= at < start + size}
        assert covering == set(range(0, 8, cell))


@pytest.mark.parametrize(("cell_px", "size"), [(4, 60), (2, 37), (8, 84)])
def test_small_cells_cover_any_scene(tmp_path: Path, cell_px: int, size: int) -> None:
    pixels = chip_pixels("forest", size, np.random.default_rng(0))
    path = write_chip(tmp_path / "a.tif", pixels)
    values, valid, reflectance = embed(path, cell_px)
    grid = _cell_grid(FORMAT.describe(path), tiny_contract(), None, cell_px)
    side = -(-size // cell_px)
    assert values.shape == (side, side, 48)
    assert (grid.height, grid.width) == (side, side)
    assert np.abs(values).sum(axis=-1).min() > 0
    assert valid.min() == 1
    raster = read_raster(FORMAT.describe(path), tiny_contract().bands)
    cell = raster.pixels[:, :cell_px, cell_px : 2 * cell_px]
    expected = np.concatenate([cell.mean(axis=(1, 2)), cell.std(axis=(1, 2))])
    np.testing.assert_allclose(reflectance[0, 1], expected, atol=1e-5)


def test_small_cells_find_an_edge_more_exactly(tmp_path: Path) -> None:
    pixels = chip_pixels("forest", 64, np.random.default_rng(0))
    for numbers in pixels.values():
        numbers[:, :28], numbers[:, 28:] = 500, 3000
    path = write_chip(tmp_path / "a.tif", pixels)

    def width_px(cell_px: int) -> float:
        values = embed(path, cell_px)[0].mean(axis=0)
        low, high = values[0], values[-1]
        along = (values - low) @ (high - low) / ((high - low) ** 2).sum()
        return float(((along > 0.25) & (along < 0.75)).sum() * cell_px)

    assert width_px(2) <= width_px(8) + 2


def test_a_hole_stays_a_hole(tmp_path: Path) -> None:
    pixels = chip_pixels("field", 96, np.random.default_rng(0))
    for numbers in pixels.values():
        numbers[:, :40] = 0
    _, valid, _ = embed(write_chip(tmp_path / "a.tif", pixels), 4)
    # The bands of 20 m know half a pixel more, through resampling.
    assert valid[:, :9].max() == 0
    assert valid[:, 11:].min() == 1


@pytest.mark.parametrize("cell_px", [0, 3, 16])
def test_cells_that_do_not_divide_a_patch_are_refused(cell_px: int) -> None:
    with pytest.raises(ConfigError, match="use 1, 2, 4, 8"):
        cell_side(8, cell_px)
