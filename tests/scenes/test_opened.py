"""`open_model` gives what the commands write, from files and from arrays."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import torch
from rasterio import Affine

import spectralgpt
from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.errors import (
    BandError,
    CheckpointError,
    ConfigError,
    DataError,
    UnitError,
)
from spectralgpt.models.heads import (
    ChangeModel,
    ClassificationModel,
    DenseModel,
    RegressionModel,
    SegmentationModel,
)
from spectralgpt.scenes.opened import OpenModel
from tests.product_files import write_item
from tests.raster_files import write_tiff
from tests.tiny import tiny_contract, tiny_encoder, tiny_model

BANDS = tiny_contract().band_names
CLASSES = ["water", "trees", "fields"]
NUMBERS = {"sensor": "sentinel-2-l1c", "bands": BANDS, "offset": 0}
KINDS: dict[str, tuple[type[Any], list[str]]] = {
    "single-label": (ClassificationModel, CLASSES),
    "segmentation": (SegmentationModel, CLASSES),
    "change": (ChangeModel, CLASSES),
    "regression": (RegressionModel, ["height"]),
}
TARGET = {"unit": "m", "range": None, "edges": [10.0, 20.0]}


def scene_of(seed: int, side: int = 80) -> np.ndarray:
    numbers = np.random.default_rng(seed).integers(300, 4000, (12, side, side))
    numbers = numbers.astype("uint16")
    numbers[:, :40, :8] = 0
    return numbers


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    first, second = (
        write_tiff(folder / f"{i}.tif", scene_of(i), descriptions=BANDS)
        for i in range(2)
    )
    return first, second


def model_of(folder: Path, task: str) -> Path:
    if task == "pretraining":
        return save_model(folder / task, tiny_model(), tiny_contract())
    kind, names = KINDS[task]
    torch.manual_seed(1)
    head = ("linear",) if issubclass(kind, DenseModel) else ()
    model = kind(tiny_encoder(), len(names), *head)
    # Fresh heads give all classes alike.
    for name, weights in model.named_parameters():
        if not name.startswith("encoder."):
            torch.nn.init.normal_(weights, std=0.5)
    extra = {"class_names": names, "task": task, "chip_px": 32}
    extra |= {"target": TARGET} if task == "regression" else {}
    return save_model(folder / task, model, tiny_contract(), extra)


def run(command: str, model: Path, output: Path, *words: object) -> None:
    stated = ("--sensor", "sentinel-2-l1c", "--offset", "0", "--device", "cpu")
    done = [command, "--model", model, "--output", output, *words, *stated]
    assert main(list(map(str, done))) == 0


def opened(folder: Path, task: str) -> tuple[OpenModel, Path]:
    path = model_of(folder, task)
    return spectralgpt.open_model(path, device="cpu"), path


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_maps_are_those_of_predict(
    task: str, scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    model, path = opened(tmp_path, task)
    dates = scenes if task == "change" else scenes[:1]
    words: list[object] = [dates[0]]
    if task == "change":
        words = ["--before", dates[0], "--after", dates[1]]
    run("predict", path, tmp_path / "maps", *words, "--probabilities")
    found = model.predict(*dates, sensor="sentinel-2-l1c", offset=0)
    stem = next((tmp_path / "maps").glob("*_probabilities.tif"))
    with rasterio.open(stem) as written:
        assert np.array_equal(found.probabilities, written.read(), equal_nan=True)
        assert found.transform == written.transform
        assert found.crs == written.crs.to_string()
    with rasterio.open(str(stem).replace("_probabilities", "")) as written:
        assert np.array_equal(found.classes, written.read(1))
    assert found.classes[0, 0] == 255
    assert len(np.unique(found.classes)) > 2
    assert found.class_names == tuple(CLASSES)


def test_numbers_of_a_target_are_those_of_predict(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    model, path = opened(tmp_path, "regression")
    run("predict", path, tmp_path / "maps", scenes[0])
    found = model.predict(scenes[0], sensor="sentinel-2-l1c", offset=0)
    with rasterio.open(tmp_path / "maps" / "0.tif") as written:
        assert np.array_equal(found.values, written.read(), equal_nan=True)
    assert found.unit == "m"
    with pytest.raises(ConfigError, match=r"height is a number \(m\)"):
        _ = found.classes


def test_classes_of_images_are_those_of_predict(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    model, path = opened(tmp_path, "single-label")
    run("predict", path, tmp_path / "out", scenes[0])
    found = model.predict(str(scenes[0]), sensor="sentinel-2-l1c", offset=0)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.windows) == 9
    assert [r["prediction"] for r in rows] == [CLASSES[k] for k in found.classes]
    for k, name in enumerate(CLASSES):
        stated = [float(row[f"p({name})"]) for row in rows]
        assert found.probabilities[k] == pytest.approx(stated, abs=1e-6)
    assert [(w.row, w.column) for w in found.windows] == [
        (int(row["row"]), int(row["column"])) for row in rows
    ]
    with pytest.raises(ConfigError, match="no pixels"):
        found.to_xarray()


def test_embeddings_and_what_is_rebuilt_are_those_of_the_commands(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    model, path = opened(tmp_path, "pretraining")
    words = (scenes[0], "--format", "geotiff", "--cell-px", "4")
    run("embed", path, tmp_path / "raster", *words)
    stated = {"sensor": "sentinel-2-l1c", "offset": 0}
    found = model.embed(scenes[0], cell_px=4, **stated)
    with rasterio.open(tmp_path / "raster" / "0.tif") as written:
        width = found.values.shape[-1]
        layers = np.moveaxis(written.read(list(range(1, width + 1))), 0, -1)
        assert written.transform == found.grid.transform
    # The raster holds numbers of 16 bits.
    shown = found.values.astype(np.float16)
    assert np.array_equal(layers.astype(np.float16), shown, equal_nan=True)
    assert np.isnan(found.values[0, 0]).all()

    run("reconstruct", path, tmp_path / "rebuilt", scenes[0], "--seed", "3")
    rebuilt = model.reconstruct(scenes[0], seed=3, **stated)
    scores = json.loads((tmp_path / "rebuilt" / "scores.json").read_text())
    assert rebuilt.scores.psnr_db == scores["psnr_db"]
    assert vars(rebuilt.window) == scores["window"]
    assert rebuilt.grid is not None
    assert rebuilt.grid.transform == Affine(10, 0, 500_080, 0, -10, 3_999_920)


def test_an_array_gives_what_its_file_does(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = opened(tmp_path, "segmentation")
    of_file = model.predict(scenes[0], sensor="sentinel-2-l1c", offset=0)
    numbers, place = scene_of(0), {"transform": of_file.transform, "crs": of_file.crs}
    scaled = {"bands": BANDS, "quantification": 10_000, "offset": 0}
    for array, stated in (
        (numbers, scaled),
        (numbers[::-1], {**scaled, "bands": BANDS[::-1]}),
        (np.concatenate([numbers, numbers[:1]]), {**scaled, "bands": [*BANDS, "-"]}),
        (
            np.where(numbers == 0, np.nan, numbers / np.float32(10_000)),
            {"bands": BANDS},
        ),
    ):
        found = model.predict(array, **stated, **place)
        assert np.array_equal(found.values, of_file.values, equal_nan=True)
        assert found.grid == of_file.grid


def test_an_item_of_pystac_gives_what_its_file_does(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    with rasterio.open(scenes[0]) as dataset:
        layers = dataset.read()
    for name, layer in zip(BANDS, layers, strict=True):
        write_tiff(tmp_path / f"{name}.tif", layer[None])
    assets = {name: {"href": f"./{name}.tif"} for name in BANDS}
    stated = {"s2:product_type": "S2MSI1C", "s2:processing_baseline": "02.09"}
    path = write_item(tmp_path / "item.json", assets, **stated)
    path.write_text(path.read_text().replace("_L2A", "_L1C").replace("-l2a", "-l1c"))
    path.write_text(path.read_text().replace('"links"', '"bbox": null, "links"'))
    model = spectralgpt.open_model(model_of(tmp_path, "segmentation"))
    item = pystac.Item.from_file(str(path))
    expected = model.predict(scenes[0], **NUMBERS).values
    assert np.array_equal(model.predict(item).values, expected, equal_nan=True)
    part = model.predict(
        item, bounds=(500_000, 3_999_600, 500_400, 4_000_000), bounds_crs="EPSG:32632"
    )
    assert part.grid.width < 80


def test_results_become_what_xarray_knows(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = opened(tmp_path, "segmentation")
    found = model.predict(scenes[0], sensor="sentinel-2-l1c", offset=0)
    array = found.to_xarray()
    assert array.dims == ("class", "y", "x")
    assert array.sel({"class": "trees"}, drop=True).shape == (80, 80)
    assert array.x.values[:2].tolist() == [500_005, 500_015]
    assert array.y.values[:2].tolist() == [3_999_995, 3_999_985]
    numbers = map(float, array.spatial_ref.attrs["GeoTransform"].split())
    assert Affine.from_gdal(*numbers) == found.transform
    assert "UTM zone 32N" in array.spatial_ref.attrs["crs_wkt"]
    cells = model.embed(scenes[0], sensor="sentinel-2-l1c", offset=0).to_xarray()
    assert cells.sizes["embedding"] == 48
    assert (cells.x.values[1] - cells.x.values[0]) == 80


def test_reprs_are_short(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = opened(tmp_path, "pretraining")
    stated = {"sensor": "sentinel-2-l1c", "offset": 0}
    mapper, _ = opened(tmp_path, "segmentation")
    made = mapper.predict(scenes[0], **stated)
    texts = [repr(each) for each in (model, model.loaded, made)]
    texts += [repr(model.embed(scenes[0], **stated))]
    texts += [repr(model.reconstruct(scenes[0], **stated))]
    assert all(len(text) < 200 and "\n" not in text for text in texts)
    assert "water, trees, fields of 80 x 80 px, EPSG:32632" in texts[2]
    assert "12 bands of sentinel-2-l1c" in texts[0]


@pytest.mark.parametrize(
    ("stated", "kind", "message"),
    [
        ({}, BandError, "bands=\\[...\\] naming all"),
        ({"bands": BANDS[:3]}, BandError, "found shape \\(12, 80, 80\\)"),
        ({"bands": BANDS}, UnitError, "both quantification"),
        ({"bands": BANDS, "quantification": 1e4}, UnitError, "both quantification"),
        ({"bands": BANDS, "ofset": 0}, ConfigError, "did you mean 'offset'"),
        (
            {"bands": BANDS, "quantification": 1e4, "offset": 0, "transform": 3},
            ConfigError,
            "transform is rasterio's",
        ),
        ({"bands": "B02"}, ConfigError, "'bands' must be"),
        (
            {"bands": BANDS, "bounds": (0, 0, 1, 1), "offset": 0},
            ConfigError,
            "are for files",
        ),
    ],
)
def test_arrays_that_do_not_say_what_they_are_are_refused(
    stated: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    model, _ = opened(tmp_path, "segmentation")
    with pytest.raises(kind, match=message):
        model.predict(scene_of(0), **stated)


def test_misuse_is_explained(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    plain, _ = opened(tmp_path, "pretraining")
    change, _ = opened(tmp_path, "change")
    with pytest.raises(CheckpointError, match="is not fine-tuned"):
        plain.predict(scenes[0])
    with pytest.raises(ConfigError, match="takes two dates"):
        change.predict(scenes[0])
    with pytest.raises(ConfigError, match="fit: not for change"):
        change.predict(*scenes, fit="resize")
    classifier, _ = opened(tmp_path, "single-label")
    with pytest.raises(ConfigError, match="overlap: not for single-label"):
        classifier.predict(scenes[0], overlap=0.2)
    with pytest.raises(CheckpointError, match="cannot rebuild"):
        change.reconstruct(scenes[0])
    with pytest.raises(DataError, match="holds 2 images"):
        plain.embed(scenes[0].parent)
    with pytest.raises(ConfigError, match="leave out transform and crs"):
        plain.embed(scenes[0], crs="EPSG:4326")
    empty = np.full((12, 32, 32), np.nan, np.float32)
    with pytest.raises(DataError, match="no valid pixel"):
        plain.embed(empty, bands=BANDS)
    with pytest.raises(CheckpointError, match="no model at"):
        spectralgpt.open_model(tmp_path / "gone")


def test_bounds_cut_a_scene(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = opened(tmp_path, "segmentation")
    part = {"bounds": (500_000, 3_999_500, 500_400, 4_000_000)}
    crs = {"bounds_crs": "EPSG:32632", "sensor": "sentinel-2-l1c", "offset": 0}
    assert model.predict(scenes[0], **part, **crs).classes.shape == (50, 40)
