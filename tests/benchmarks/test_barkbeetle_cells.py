"""The table of bark-beetle cells keeps to its protocol, on a made-up archive."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import barkbeetle_cells as bench
from spectralgpt.checkpoints import LoadedModel, save_model
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import Raster
from tests.raster_files import S2_L2A, write_tiff
from tests.tiny import tiny_contract, tiny_encoder

PLACES = {"train": range(100, 112), "test": range(200, 204)}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Images of 35 x 43 px in which damaged ground is brighter in B11."""
    root = tmp_path / "archive"
    for split, numbers in PLACES.items():
        for number in numbers:
            rng = np.random.default_rng(number)
            damaged = np.kron(rng.random((5, 6)) < 0.3, np.ones((8, 8)))[:35, :43]
            pixels = rng.normal(2000, 100, (12, 35, 43))
            pixels[S2_L2A.index("B11")] += 60 * damaged
            image = "2020-09-01 - 2020-09-30/sentinel_2/geojson_{}.tif"
            write_tiff(root / image.format(number), pixels.astype(np.uint16))
            mask = root / f"masks/{split}/mask_{number}.tif"
            write_tiff(mask, damaged[None].astype(np.uint8))
    return root


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["barkbeetle_cells.py", *map(str, words)])
    bench.main()


def test_cells_are_whole_and_damaged_from_a_half(archive: Path) -> None:
    mask = np.zeros((1, 35, 43), np.uint8)
    mask[0, :8, :4] = 1  # half of the first cell
    mask[0, 8:16, :3] = 1  # less than half of the one below
    write_tiff(archive / "masks/train/mask_100.tif", mask)
    cells = bench.read_cells(archive)
    assert (len(cells.train), len(cells.test)) == (12, 4)
    assert cells.train[0].raster.pixels.shape == (12, 32, 40)
    assert np.flatnonzero(cells.train[0].damaged).tolist() == [0]
    statistics = bench.band_statistics(cells.train[0])
    assert statistics.shape == (20, 24)
    first = cells.train[0].raster.pixels[:, :8, :8]
    expected = [*first.mean(axis=(1, 2)), *first.std(axis=(1, 2))]
    np.testing.assert_allclose(statistics[0], expected, rtol=1e-4)


@pytest.mark.slow
def test_the_table_has_floors_and_models(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = save_model(tmp_path / "own", tiny_encoder(), tiny_contract())
    words = ("--data", archive, "--seeds", 2, "--fractions", 0.5, 1)
    run(monkeypatch, model, *words, "--json", tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    names = (bench.STATISTICS, "random weights, tiny", str(model))
    both = [f"{name} + statistics" for name in names[1:]]
    like = f"random weights like {model}"
    assert set(found["rows"]) == {*names, *both, like}
    assert found["places"] == {"train": 12, "test": 4}
    floor = found["rows"][bench.STATISTICS]
    assert [len(floor[part]["ap"]) for part in ("0.5", "1")] == [2, 1]
    assert floor["1"]["ap"][0] > 0.9
    assert floor["1"]["f1"][0] > 0.8
    drawn = found["rows"]["random weights, tiny"]["1"]["ap"]
    assert len(set(drawn)) == 2
    table = capsys.readouterr().out.splitlines()
    mean = np.mean(floor["0.5"]["ap"])
    assert table[2].startswith(f"| {bench.STATISTICS} | {mean:.3f} ± ")
    assert len(table) == 2 + 6


def test_the_penalty_is_chosen_without_the_test_places(archive: Path) -> None:
    cells = bench.read_cells(archive)
    described = [
        list(map(bench.band_statistics, part)) for part in (cells.train, cells.test)
    ]
    features = described[0], np.concatenate(described[1])
    honest = bench.score(cells, features, range(12))
    swapped = [replace(place, damaged=~place.damaged) for place in cells.test]
    told = bench.score(replace(cells, test=tuple(swapped)), features, range(12))
    assert told["strength"] == honest["strength"]
    assert honest["best_ap"] >= honest["ap"]
    with pytest.raises(ConfigError, match="raise --fractions"):
        bench.score(cells, features, [0])


@pytest.mark.parametrize("tile_px", [64, 16])
def test_a_cell_has_the_tokens_that_lie_on_it(archive: Path, tile_px: int) -> None:
    place = bench.read_cells(archive).train[0]
    contract = tiny_contract()
    loaded = LoadedModel(tiny_encoder().eval(), contract)
    found = bench.embed(loaded, contract, place, tile_px)
    assert found.shape == (4 * 5, 4 * 48)

    def encode(raster: Raster) -> np.ndarray:
        with torch.no_grad():
            images = torch.from_numpy(contract.prepare(raster)[0])
            return (
                loaded.encoder(images[None])[0].permute(1, 2, 0, 3).flatten(2).numpy()
            )

    whole = found.reshape(4, 5, -1)
    if tile_px == 64:
        np.testing.assert_allclose(whole, encode(place.raster), atol=1e-5)
    else:  # the last tile of a row ends with the image
        raster, part = place.raster, np.s_[:, 16:32, 24:40]
        pixels, valid = raster.pixels[part], raster.valid[part]
        last = replace(raster, pixels=pixels, valid=valid, crs=None, transform=None)
        np.testing.assert_allclose(whole[2:4, 3:5], encode(last), atol=1e-5)


@pytest.mark.parametrize(("patch", "cell"), [(16, (1, 2)), (4, (3, 1))])
def test_tokens_of_other_patches_come_onto_cells(
    archive: Path, patch: int, cell: tuple[int, int]
) -> None:
    place = bench.read_cells(archive).train[0]
    contract = replace(tiny_contract(), patch_size=patch)
    encoder = tiny_encoder()
    encoder = type(encoder)(**(encoder.config | {"patch_size": patch})).eval()
    loaded = LoadedModel(encoder, contract)
    found = bench.embed(loaded, contract, place, 64).reshape(4, 5, -1)
    raster = place.raster.padded(32, 48 if patch == 16 else 40, "constant")
    with torch.no_grad():
        tokens = encoder(torch.from_numpy(contract.prepare(raster)[0])[None])[0]
    row, column = cell
    if patch == 16:
        expected = tokens[:, row // 2, column // 2]
    else:
        at = np.s_[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        expected = tokens[at].mean(dim=(1, 2))
    np.testing.assert_allclose(found[cell], expected.flatten().numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="do not divide each other"):
        bench.embed(loaded, contract, place, 20)
