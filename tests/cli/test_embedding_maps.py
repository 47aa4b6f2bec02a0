"""`embed --format geotiff`, `cluster`, `similar` and `probe`."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rio_cogeo import cog_validate
from shapely.geometry import Point, box

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.rasters.embeddings import open_embeddings
from tests.embedding_files import UTM, three_kinds, write_embeddings, write_labels
from tests.tiny import tiny_contract, tiny_model
from tests.toy import chip_pixels, write_chip

NAMES = ("fields", "water", "woods")
LABELLED = ("--labels", "{labels}", "--class_column", "kind")


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    classes = three_kinds()
    classes[:2, :3] = -1
    return write_embeddings(tmp_path / "scene.tif", classes).path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels.geojson", three_kinds(), NAMES)


def test_embed_writes_a_raster_with_picture_and_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    pixels = chip_pixels("forest", 50, np.random.default_rng(0))
    scene = write_chip(tmp_path / "in" / "scene.tif", pixels)
    words = ("embed", scene, "--model", model, "--format", "geotiff", "--offset", "0")
    out = ("--output", tmp_path / "out", "--device", "cpu")
    assert run(*words, *out, "--cell_px", "4", "--dtype", "int8") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    made = open_embeddings(tmp_path / "out/scene.tif")
    assert (made.grid.height, made.grid.width) == (13, 13)
    assert made.grid.transform is not None
    assert (made.grid.transform.a, made.grid.transform.c) == (40.0, 500_000.0)
    assert made.source.cell_px == 4
    assert len(made.source.bands) == 12
    assert made.read()[1].all()
    assert (tmp_path / "out/scene.png").read_bytes().startswith(b"\x89PNG")
    assert "scene.tif,13,13,72" in (tmp_path / "out/embeddings.csv").read_text()
    capsys.readouterr()
    assert run(*words, *out) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert run(*words, "--output", tmp_path / "no", "--cell_px", "3") == 1
    assert "do not divide" in capsys.readouterr().err
    assert run(*words, "--output", tmp_path / "no", "--image-size", "21") == 1
    assert "no multiple of" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    # What windows show is part of what cells say: such rasters are not mixed.
    assert run(*words, "--output", tmp_path / "wide", "--image-size", "48") == 0
    wide = open_embeddings(tmp_path / "wide/scene.tif")
    assert wide.source.encoder != made.source.encoder


def test_scenes_over_an_area_become_one_raster(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    pixels = chip_pixels("forest", 48, np.random.default_rng(0))
    left = write_chip(tmp_path / "in" / "left.tif", pixels)
    right = write_chip(
        tmp_path / "in" / "right.tif", pixels, origin=(500_480.0, 4_600_000.0)
    )
    words = ("embed", left, right, "--model", model, "--format", "geotiff")
    area = ("--bounds", "500240,4599520,500720,4600000", "--bounds_crs", "EPSG:32632")
    more = ("--offset", "0", "--device", "cpu")
    assert run(*words, *area, *more, "--output", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").glob("*.tif")
    made = open_embeddings(path)
    assert (made.grid.height, made.grid.width) == (6, 6)
    assert made.grid.transform is not None
    assert made.grid.transform.c == 500_240
    assert made.read()[1].all()


def test_clusters_are_the_kinds_of_cells(raster: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("cluster", raster, "--classes", "3", "--output", out) == 0
    with rasterio.open(out / "scene_clusters.tif") as made:
        found = made.read(1)
        assert made.tags()["CLASS_0"] == "cluster 1"
        assert made.crs == "EPSG:32632"
        assert made.transform == UTM
        assert made.colormap(1)[0][:3] != made.colormap(1)[1][:3]
    kinds = three_kinds()
    assert (found[:2, :3] == 255).all()
    for kind in range(3):
        members = found[(kinds == kind) & (found != 255)]
        assert len(set(members.tolist())) == 1
    assert (out / "scene_clusters.png").is_file()


def test_maps_of_large_rasters_are_cloud_optimized(tmp_path: Path) -> None:
    kinds = three_kinds(530, 560)
    large = write_embeddings(tmp_path / "large.tif", kinds).path
    labels = write_labels(tmp_path / "labels.geojson", kinds, NAMES, step=40)
    out = ("--output", tmp_path / "out")
    assert run("cluster", large, "--classes", "3", *out) == 0
    point = ("--point", "500100,4599900", "--crs", "EPSG:32632")
    assert run("similar", large, *point, "--top", "3", *out) == 0
    words = ("--labels", labels, "--class_column", "kind", "--block_m", "2000")
    assert run("probe", large, *words, *out) == 0
    for name in ("clusters", "similarity", "map"):
        made = tmp_path / f"out/large_{name}.tif"
        assert cog_validate(made) == (True, [], [])
        with rasterio.open(made) as dataset:
            assert dataset.overviews(1)
            assert (dataset.transform, dataset.crs.to_epsg()) == (UTM, 32632)


def test_embed_describes_its_raster_as_a_stac_item(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    pixels = chip_pixels("forest", 50, np.random.default_rng(0))
    scene = write_chip(tmp_path / "in" / "scene_20210703.tif", pixels)
    for number_type in ("float16", "int8"):
        out = tmp_path / number_type
        words = ("embed", scene, "--model", model, "--format", "geotiff", "--offset")
        more = ("--device", "cpu", "--dtype", number_type, "--output", out)
        assert run(*words, "0", *more) == 0
        item = json.loads((out / "scene_20210703.json").read_text())
        assert item["properties"]["datetime"] == "2021-07-03T00:00:00Z"
        assert item["properties"]["proj:shape"] == [7, 7]
        assert item["properties"]["spectralgpt:model"] == "model"
        assert set(item["assets"]) == {"embeddings", "quicklook"}
        bands = item["assets"]["embeddings"]["bands"]
        with rasterio.open(out / item["assets"]["embeddings"]["href"]) as made:
            assert [band["name"] for band in bands] == list(made.descriptions)
            stored = "int8" if number_type == "int8" else "float32"
            assert {band["data_type"] for band in bands} == {stored}
            if number_type == "int8":
                assert [band["raster:scale"] for band in bands] == list(made.scales)
                assert any("/raster/" in name for name in item["stac_extensions"])
        (last,) = [band for band in bands if band["name"] == "B12"]
        assert last["eo:center_wavelength"] == pytest.approx(2.2, abs=0.05)


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_600_000.0), "EPSG:32632"),
        (Affine(1e-4, 0.0, 9.0, 0.0, -1e-4, 47.0), "EPSG:4326"),
        (Affine(8.66, 5.0, 500_000.0, 5.0, -8.66, 4_600_000.0), "EPSG:32632"),
    ],
    ids=["utm", "geographic", "rotated"],
)
def test_embeddings_and_clusters_lie_where_the_scene_lies(
    transform: Affine, crs: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    pixels = chip_pixels("forest", 48, np.random.default_rng(0))
    scene = write_chip(tmp_path / "in/scene.tif", pixels)
    with rasterio.open(scene, "r+") as dataset:
        dataset.transform, dataset.crs = transform, crs
    words = ("embed", scene, "--model", model, "--format", "geotiff", "--offset", "0")
    assert run(*words, "--device", "cpu", "--output", tmp_path / "e") == 0
    made = tmp_path / "e/scene.tif"
    assert run("cluster", made, "--classes", "2", "--output", tmp_path / "c") == 0
    for path in (made, tmp_path / "c/scene_clusters.tif"):
        with rasterio.open(path) as dataset:
            assert dataset.crs == crs
            assert dataset.shape == (6, 6)
            expected = transform @ Affine.scale(8)
            assert dataset.transform.almost_equals(expected, precision=1e-9)


@pytest.mark.slow
def test_what_a_killed_embedding_left_is_removed_by_the_next(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    pixels = chip_pixels("forest", 400, np.random.default_rng(0))
    scene = write_chip(tmp_path / "in/scene.tif", pixels)
    words = ("embed", scene, "--model", model, "--format", "geotiff", "--offset", "0")
    more = ("--device", "cpu", "--cell_px", "4", "--output", tmp_path / "out")
    command = [sys.executable, "-m", "spectralgpt", *map(str, (*words, *more))]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "out").glob(".scene.tif.*.making/made/scene.tif.rows")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = (tmp_path / "out").iterdir()
    assert run(*words, *more) == 0
    assert not left.exists()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"scene.tif", "scene.png", "embeddings.csv"}


def test_similar_finds_places_of_the_same_kind(raster: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    x, y = 500_000 + 40 * 15.5, 4_600_000 - 40 * 12.5
    point = ("--point", f"{x},{y}", "--crs", "EPSG:32632")
    words = ("similar", raster, *point, "--top", "6", "--spacing", "3")
    assert run(*words, "--output", out) == 0
    places = geopandas.read_file(out / "places.geojson")
    assert places["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert places["similarity"].is_monotonic_decreasing
    assert str(places.crs) == "EPSG:4326"
    centres = places.to_crs("EPSG:32632").centroid
    columns = ((centres.x - 500_000) // 40).astype(int)
    rows = ((4_600_000 - centres.y) // 40).astype(int)
    assert (three_kinds()[rows, columns] == 1).all()
    apart = np.maximum(
        np.abs(np.subtract.outer(rows.to_numpy(), rows.to_numpy())),
        np.abs(np.subtract.outer(columns.to_numpy(), columns.to_numpy())),
    )
    assert apart[~np.eye(6, dtype=bool)].min() >= 3
    with rasterio.open(out / "scene_similarity.tif") as made:
        heat = made.read(1)
    assert np.isnan(heat[0, 0])
    assert heat[12, 15] > 0.9 > np.nanmax(heat[:, 20:])


def test_similar_takes_polygons_and_many_scenes(raster: Path, tmp_path: Path) -> None:
    other = write_embeddings(tmp_path / "other.tif", three_kinds(9, 9)).path
    area = box(500_000 + 40 * 22, 4_600_000 - 400, 500_000 + 40 * 27, 4_600_000 - 80)
    frame = geopandas.GeoDataFrame(geometry=[area], crs="EPSG:32632")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "area.gpkg")
    words = ("--polygon", tmp_path / "area.gpkg", "--format", "gpkg", "--spacing", "1")
    out = tmp_path / "out"
    assert run("similar", raster, other, *words, "--top", "90", "--output", out) == 0
    found = geopandas.read_file(out / "places.gpkg")
    assert set(found["scene"]) == {"scene", "other"}
    assert (out / "other_similarity.png").is_file()


def test_probe_maps_from_few_labels_and_again_from_its_file(
    raster: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("probe", raster, "--labels", labels, "--class_column", "kind")
    assert run(*words, "--block_m", "300", "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert re.search(r"map: .* on (embedding|reflectance).*, chosen on held-out", said)
    assert "floor: a random forest on reflectance alone has accuracy 1.000" in said
    with rasterio.open(tmp_path / "out/scene_map.tif") as made:
        found = made.read(1)
        assert [made.tags()[f"CLASS_{i}"] for i in range(3)] == list(NAMES)
    kinds = three_kinds()
    assert (found[found != 255] == kinds[found != 255]).all()
    assert (found == 255).sum() == 6
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["accuracy"] == 1.0
    assert scores["labels"] == scores["cells"] == 47
    assert scores["folds"] == len(scores["chosen"]) == 5
    assert scores["floor"]["accuracy"] == 1.0
    confusion = (tmp_path / "out/confusion.csv").read_text().splitlines()
    assert confusion[0] == "labelled / predicted,fields,water,woods"
    probe = tmp_path / "out/probe.safetensors"
    again = tmp_path / "again"
    assert run("probe", raster, "--probe", probe, "--output", again) == 0
    with rasterio.open(again / "scene_map.tif") as made:
        assert np.array_equal(made.read(1), found)


def test_rasters_go_by_their_folder_and_labels_beside_them_are_counted(
    raster: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "embedded"
    folder.mkdir()
    # Beside them may lie maps of them.
    raster.rename(folder / "scene.tif")
    write_chip(folder / "a_map.tif", chip_pixels("field", 16, np.random.default_rng(0)))
    # Twice as long as the raster, downwards.
    kinds = np.concatenate([three_kinds(), three_kinds()])
    labels = write_labels(tmp_path / "labels.geojson", kinds, NAMES)
    words = ("probe", folder, "--labels", labels, "--class_column", "kind")
    assert run(*words, "--block_m", "300", "--output", tmp_path / "out") == 0
    assert "note: 48 of the 96 shapes lie on the scene." in capsys.readouterr().out
    said = "1 GeoTIFFs without embeddings are left out, such as a_map.tif."
    assert said in caplog.text
    assert {path.name for path in (tmp_path / "out").glob("*.tif")} == {"scene_map.tif"}


def test_probe_says_when_the_embeddings_do_not_pay(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raster = write_embeddings(tmp_path / "scene.tif", three_kinds(), noise=9.0).path
    words = ("probe", raster, "--labels", labels, "--class_column", "kind")
    words += ("--block_m", "300", "--features", "embedding", "--head", "ridge")
    assert run(*words, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "map: ridge regression of penalty" in said
    assert "these embeddings do not pay here" in said
    bare = write_embeddings(tmp_path / "bare.tif", three_kinds(), bands=False).path
    words = ("probe", bare, *words[2:6], "--block_m", "300", "--head", "linear")
    assert run(*words, "--output", tmp_path / "bare") == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "no floor stands beside the scores" in said
    assert json.loads((tmp_path / "bare/scores.json").read_text())["floor"] is None


def test_probe_says_that_the_encoder_learned_from_labels(
    labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = {"class_names": ["a", "b"], "trained_on": "the fields of Ohio"}
    model = save_model(tmp_path / "model", tiny_model().encoder, tiny_contract(), facts)
    scene = write_chip(
        tmp_path / "in/scene.tif", chip_pixels("forest", 50, np.random.default_rng(0))
    )
    words = ("embed", scene, "--model", model, "--format", "geotiff", "--offset", "0")
    assert run(*words, "--device", "cpu", "--output", tmp_path / "out") == 0
    made = open_embeddings(tmp_path / "out/scene.tif").source
    assert made.trained_on == "the fields of Ohio"
    raster = tmp_path / "raster.tif"
    write_embeddings(raster, three_kinds(), trained_on=made.trained_on)
    words = ("probe", raster, "--labels", labels, "--class_column", "kind")
    words += ("--block_m", "300", "--head", "linear")
    assert run(*words, "--output", tmp_path / "map") == 0
    assert "was fine-tuned on the fields of Ohio" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cluster", "{raster}", "--classes", "1"), "ask for 2 to 64"),
        (("cluster", "{raster}", "{other}"), "differ in encoder (one and two)"),
        (("cluster", "{plain}"), "is no raster of embeddings"),
        (("cluster", "missing.tif"), "missing.tif does not exist"),
        (("cluster", "{chips}"), "chips holds no raster of embeddings"),
        (("similar", "{raster}"), "either --point or --polygon"),
        (("similar", "{raster}", "--point", "9"), "two numbers such as"),
        (("similar", "{raster}", "--point", "9,4"), "is outside of the image"),
        (("similar", "{raster}", "--point", "-60,-3"), "is outside of the image"),
        (
            ("similar", "{raster}", "--point", "9,4", "--crs", "mars"),
            "no reference system 'mars'",
        ),
        (("similar", "{raster}", "--polygon", "no.gpkg"), "no shapes at no.gpkg"),
        (("similar", "{raster}", "--polygon", "{away}"), "lies on the raster"),
        (("similar", "{placeless}", "--point", "9,4"), "has no reference system"),
        (("probe", "{raster}"), "give either --labels"),
        (("probe", "{raster}", "--labels", "no.gpkg"), "no layer of labels at"),
        (("probe", "{raster}", "--labels", "{labels}"), "has no column 'class'"),
        (("probe", "{raster}", "--labels", "{away}"), "lies on a scene"),
        (("probe", "{raster}", "--labels", "{one}"), "labels of 1 class"),
        (("probe", "{raster}", "--labels", "{empty}"), "none of the 0 shapes"),
        (
            ("probe", "{raster}", "--labels", "{lone}"),
            "'fields' has 1 label, in one block of 1000 m, so nothing tells how well "
            "it is found elsewhere: label it in more places, over 1000 m apart.",
        ),
        (
            ("probe", "{raster}", *LABELLED, "--block_m", "-3"),
            "--block-m is -3.0; it must be above 0",
        ),
        (
            ("probe", "{raster}", *LABELLED, "--block_m", "90000"),
            "in one block of 90000 m",
        ),
        (
            ("probe", "{bare}", *LABELLED, "--features", "both"),
            "holds no reflectance",
        ),
        (("probe", "{raster}", "--probe", "{raster}"), "is no probe"),
    ],
)
def test_wrong_use_is_one_line_and_makes_nothing(
    words: tuple[str, ...],
    message: str,
    raster: Path,
    labels: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = three_kinds()
    write_embeddings(tmp_path / "other.tif", kinds, encoder="two")
    write_embeddings(tmp_path / "placeless.tif", kinds, transform=None)
    write_embeddings(tmp_path / "bare.tif", kinds, bands=False)
    write_chip(
        tmp_path / "plain.tif", chip_pixels("field", 16, np.random.default_rng(0))
    )
    near = [(9.001, 41.549), (9.002, 41.548)]
    for name, points in (("away", [(9, 4), (9, 5)]), ("one", near[:1]), ("lone", near)):
        write_points(tmp_path / f"{name}.geojson", points)
    write_points(tmp_path / "empty.gpkg", [])
    values = {path.stem: path for path in tmp_path.iterdir() if path.is_file()}
    (tmp_path / "chips").mkdir()
    shutil.copy(tmp_path / "plain.tif", tmp_path / "chips")
    values |= {"raster": raster, "labels": labels, "chips": tmp_path / "chips"}
    stated = [word.format(**values) for word in words]
    assert run(*stated, "--output", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def write_points(path: Path, points: list[tuple[float, float]]) -> None:
    kinds = [NAMES[i] for i in range(len(points))]
    frame = geopandas.GeoDataFrame(
        {"class": kinds},
        geometry=[Point(at) for at in points],
        crs="EPSG:4326",
    )
    frame.to_file(path)


def test_a_probe_is_not_applied_to_another_encoder(
    raster: Path,
    labels: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("probe", raster, "--labels", labels, "--class_column", "kind")
    words += ("--block_m", "300", "--head", "ridge", "--features", "embedding")
    assert run(*words, "--output", tmp_path / "out") == 0
    other = write_embeddings(tmp_path / "other.tif", three_kinds(), encoder="two").path
    probe = tmp_path / "out/probe.safetensors"
    capsys.readouterr()
    assert run("probe", other, "--probe", probe, "--output", tmp_path / "no") == 1
    assert "encoder two, the probe was fitted on one" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "form",
    [
        ("geoparquet",),
        ("npz",),
        ("geotiff", "--cell_px", "4"),
        ("geotiff", "--dtype", "int8"),
    ],
)
def test_the_same_embed_twice_gives_the_same_bytes(
    form: tuple[str, ...], tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    pixels = chip_pixels("forest", 50, np.random.default_rng(0))
    scene = write_chip(tmp_path / "in" / "scene_20210701.tif", pixels)
    words = ("embed", scene, "--model", model, "--offset", "0", "--device", "cpu")
    made = []
    for out in (tmp_path / "a", tmp_path / "b"):
        assert run(*words, "--format", *form, "--output", out) == 0
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
        # Of what holds a time of writing, another one.
        time.sleep(2.1 if form == ("npz",) else 0)
    assert made[0] == made[1]
    assert len(made[0]) == (4 if form[0] == "geotiff" else 1)
