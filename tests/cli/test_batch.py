"""`spectralgpt batch predict` and `batch embed`."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.models.heads import ChangeModel, ClassificationModel, SegmentationModel
from spectralgpt.rasters.embeddings import open_embeddings
from tests.job_kinds import manifest
from tests.product_files import write_item
from tests.tiny import tiny_contract, tiny_model
from tests.toy import chip_pixels, write_chip

NAMES = ["field", "forest"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("model"), "segmentation")


def save_dense(folder: Path, task: str) -> Path:
    kind = ChangeModel if task == "change" else SegmentationModel
    dense = kind(tiny_model().encoder, len(NAMES), head="linear")
    extra = {"class_names": NAMES, "task": task, "window_px": 32}
    return save_model(folder, dense, tiny_contract(), extra)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in (1, 2, 3):
        pixels = chip_pixels("forest", 40, rng)
        write_chip(tmp_path / f"in/scene_2021070{number}.tif", pixels)
    return tmp_path / "in"


def batch(kind: str, *words: object) -> int:
    stated = ("--offset", "0", "--device", "cpu", "--pause_s", "0")
    return main([str(word) for word in ("batch", kind, *words, *stated)])


def test_a_bad_scene_among_good_ones_and_then_again(
    model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (scenes / "scene_20210702.tif").read_bytes()
    (scenes / "scene_20210702.tif").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    words = (scenes, "--model", model, "--probabilities", "--output", out)
    assert batch("predict", *words) == 1
    printed = capsys.readouterr().err
    *_, last = printed.splitlines()
    assert last.startswith("error: 1 of 3 scenes failed; ")
    assert "failed: " + str(scenes / "scene_20210702.tif") in printed
    lines = manifest(out)
    assert lines["scene_20210702"]["error"]
    assert not list((out / "scenes").glob("*20210702*"))
    assert not list((out / "scenes").glob(".*"))
    assert set(lines["scene_20210701"]["outputs"]) == {
        f"scenes/{path.name}" for path in (out / "scenes").glob("scene_20210701*")
    }
    first = (out / "scenes/scene_20210701.tif").stat().st_mtime_ns
    (scenes / "scene_20210702.tif").write_bytes(whole)
    assert batch("predict", *words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "manifest.jsonl")
    assert (out / "scenes/scene_20210701.tif").stat().st_mtime_ns == first
    collection = json.loads((out / "items.json").read_text())
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == 3
    for item in collection["features"]:
        for asset in item["assets"].values():
            assert (out / asset["href"]).is_file()


def test_maps_are_those_of_predict(model: Path, scenes: Path, tmp_path: Path) -> None:
    assert batch("predict", scenes, "--model", model, "--output", tmp_path / "a") == 0
    words = ("predict", scenes, "--model", model, "--output", tmp_path / "b")
    stated = ("--offset", "0", "--device", "cpu")
    assert main([str(word) for word in (*words, *stated)]) == 0
    for path in scenes.iterdir():
        for name in (path.name, f"{path.stem}.json", f"{path.stem}.png"):
            made = (tmp_path / "a/scenes" / name).read_bytes()
            assert made == (tmp_path / "b" / name).read_bytes()


def test_embeddings_of_a_stac_item_collection(tmp_path: Path) -> None:
    pretrained = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    rng = np.random.default_rng(0)
    features = []
    for name in ("S2B_48QUE_1_L2A", "S2B_48QUE_2_L2A"):
        pixels = chip_pixels("forest", 40, rng)
        path = write_chip(tmp_path / f"{name}.tif", pixels)
        with rasterio.open(path) as chip:
            bands = [{"name": band} for band in chip.descriptions]
        item = write_item(
            tmp_path / "item.json",
            {"data": {"href": f"./{name}.tif", "eo:bands": bands}},
            **{"s2:processing_baseline": "03.01"},
        )
        features.append({**json.loads(item.read_text()), "id": name})
    source = tmp_path / "found.json"
    text = {"type": "FeatureCollection", "features": features}
    source.write_text(json.dumps(text), encoding="utf-8")
    out = tmp_path / "out"
    words = (source, "--model", pretrained, "--cell_px", "4", "--dtype", "int8")
    assert batch("embed", *words, "--output", out) == 0
    lines = manifest(out)
    assert list(lines) == ["S2B_48QUE_1_L2A", "S2B_48QUE_2_L2A"]
    assert lines["S2B_48QUE_1_L2A"]["scene"] == f"{source}/S2B_48QUE_1_L2A"
    made = open_embeddings(out / "scenes/S2B_48QUE_1_L2A.tif")
    assert made.source.cell_px == 4
    wide = tmp_path / "wide"
    assert batch("embed", *words, "--image-size", "48", "--output", wide) == 0
    seen = open_embeddings(wide / "scenes/S2B_48QUE_1_L2A.tif").source.encoder
    assert seen != made.source.encoder
    items = json.loads((out / "items.json").read_text())["features"]
    assert [item["id"] for item in items] == list(lines)
    assert items[0]["properties"]["datetime"] == "2024-02-23T00:00:00Z"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{scenes}", "--model", "nowhere"), "no model at nowhere"),
        (("{scenes}", "--model", "{classifier}"), "makes no maps"),
        (("{scenes}", "--model", "{change}"), "give it --before and --after"),
        (
            ("{scenes}", "--model", "{model}", "--before", "{empty}"),
            "give it images, of one date",
        ),
        (("--model", "{model}"), "give it images, of one date"),
        (("{empty}", "--model", "{model}"), "no rasters in"),
        (("{list}", "--model", "{model}"), "names no scenes"),
        (("{json}", "--model", "{model}"), "neither a STAC item nor"),
        (
            ("{scenes}", "--model", "{model}", "--workers", "2", "--scheduler", "x"),
            "--workers or --scheduler, not both",
        ),
    ],
)
def test_wrong_use_is_one_line_and_makes_nothing(
    words: tuple[str, ...],
    message: str,
    model: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("#\n")
    (tmp_path / "list.json").write_text("{}")
    classifier = ClassificationModel(tiny_model().encoder, 2)
    values = {
        "scenes": scenes,
        "model": model,
        "empty": tmp_path / "empty",
        "list": tmp_path / "list.txt",
        "json": tmp_path / "list.json",
        "classifier": save_model(tmp_path / "c", classifier, tiny_contract()),
        "change": save_dense(tmp_path / "d", "change"),
    }
    stated = [word.format(**values) for word in words]
    assert batch("predict", *stated, "--output", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_change_of_many_places(tmp_path: Path, scenes: Path) -> None:
    rng = np.random.default_rng(1)
    for path in sorted(scenes.iterdir()):
        write_chip(tmp_path / "later" / path.name, chip_pixels("field", 40, rng))
    model = save_dense(tmp_path / "model", "change")
    words = ("--before", scenes, "--after", tmp_path / "later", "--model", model)
    assert batch("predict", *words, "--output", tmp_path / "a") == 0
    assert (
        main(
            [
                *(
                    str(word)
                    for word in ("predict", *words, "--output", tmp_path / "b")
                ),
                *("--offset", "0", "--device", "cpu"),
            ]
        )
        == 0
    )
    lines = manifest(tmp_path / "a")
    assert len(lines) == 3
    for name, line in lines.items():
        assert line["status"] == "done"
        assert line["scene"] == str(scenes / f"{name}.tif")
        assert line["after"] == str(tmp_path / f"later/{name}.tif")
        made = (tmp_path / f"a/scenes/{name}.tif").read_bytes()
        assert made == (tmp_path / f"b/{name}.tif").read_bytes()
