"""Bad scenes: one line, status 1, and nothing of them is left behind."""

from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

from spectralgpt.checkpoints import save_model
from spectralgpt.cli.main import main
from spectralgpt.models.heads import ChangeModel, SegmentationModel
from tests.product_files import GSD_M, SAFE, write_safe
from tests.tiny import tiny_contract, tiny_model
from tests.toy import chip_pixels, write_chip

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09")
BANDS += ("B11", "B12")
OTHER = SAFE.replace("20240223", "20240304")
AREA = "500000,3999600,500480,4000000"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for task, kind in (("segmentation", SegmentationModel), ("change", ChangeModel)):
        model = kind(tiny_model().encoder, 2, head="linear")
        extra = {"class_names": ["a", "b"], "task": task, "window_px": 32}
        save_model(folder / task, model, tiny_contract(), extra)
    return folder


def numbers(side: int, value: int | None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for band in BANDS:
        shape = (side * 10 // GSD_M.get(band, 10),) * 2
        random = rng.integers(1500, 4000, shape)
        found[band] = random if value is None else np.full(shape, value)
    return found


def good(folder: Path) -> Path:
    return write_safe(folder / "good", numbers(48, None), crs="EPSG:32632")


def bad(
    folder: Path,
    value: int | None = None,
    side: int = 48,
    crs: str = "EPSG:32632",
    cloud: float = 3.0,
) -> Path:
    pixels = numbers(side, value)
    return write_safe(folder / "bad", pixels, name=OTHER, crs=crs, cloud=cloud)


def without_band(folder: Path) -> Path:
    path = bad(folder)
    next(path.rglob("*B05*.jp2")).unlink()
    return path


def cut_off(folder: Path) -> Path:
    path = bad(folder)
    image = next(path.rglob("*B04*.jp2"))
    image.write_bytes(image.read_bytes()[: image.stat().st_size * 3 // 4])
    return path


ALONE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing band": (without_band, "missing band B05"),
    "cut off": (cut_off, "B04_10m.jp2 cannot be read"),
    "nodata": (lambda folder: bad(folder, 0), "has no valid pixel"),
    "saturated": (lambda folder: bad(folder, 65535), "has no valid pixel"),
    "cloud": (lambda folder: bad(folder, cloud=100.0), "call 100.0 % of it cloud"),
}
BESIDE_ANOTHER: dict[str, tuple[Callable[[Path], Path], str]] = {
    "projection": (
        lambda folder: bad(folder, crs="EPSG:32633"),
        "differ in reference system: EPSG:32632 against EPSG:32633",
    ),
}


def run(*words: object) -> int:
    return main([*map(str, words), "--device", "cpu"])


def check_one_line(error: str, message: str, folder: Path) -> None:
    (line,) = error.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "out").exists()


@pytest.mark.parametrize("kind", ALONE)
@pytest.mark.parametrize(
    "command",
    [("predict", "--probabilities", "--polygons"), ("embed", "--format", "geotiff")],
    ids=lambda words: words[0],
)
def test_a_bad_scene_alone(
    kind: str,
    command: tuple[str, ...],
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, message = ALONE[kind]
    name, *more = command
    words = (name, make(tmp_path), "--model", models / "segmentation", *more)
    assert run(*words, "--output", tmp_path / "out") == 1
    check_one_line(capsys.readouterr().err, message, tmp_path)


@pytest.mark.parametrize("kind", ALONE | BESIDE_ANOTHER)
def test_a_bad_date_beside_a_good_one(
    kind: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = (ALONE | BESIDE_ANOTHER)[kind]
    dates = ("--before", good(tmp_path), "--after", make(tmp_path))
    words = ("predict", *dates, "--model", models / "change")
    assert run(*words, "--output", tmp_path / "out") == 1
    check_one_line(capsys.readouterr().err, message, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [(without_band, "missing band B05"), (cut_off, "B04_10m.jp2 cannot be read")],
)
def test_a_mosaic_with_a_broken_product(
    make: Callable[[Path], Path],
    message: str,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    area = ("--bounds", AREA, "--bounds_crs", "EPSG:32632")
    # The broken one lies on top.
    words = ("predict", make(tmp_path), good(tmp_path), *area)
    out = ("--model", models / "segmentation", "--output", tmp_path / "out")
    assert run(*words, *out) == 1
    check_one_line(capsys.readouterr().err, message, tmp_path)


@pytest.mark.parametrize("kind", ALONE)
def test_a_bad_scene_among_many(
    kind: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = ALONE[kind]
    make(tmp_path)
    scenes = (good(tmp_path), next((tmp_path / "bad").iterdir()))
    out = tmp_path / "out"
    words = ("batch", "predict", *scenes, "--model", models / "segmentation")
    assert run(*words, "--output", out, "--pause_s", 0) == 1
    assert message in capsys.readouterr().err
    assert {path.name.partition(".")[0] for path in (out / "scenes").iterdir()} == {
        SAFE.removesuffix(".SAFE")
    }


SITE = 'LOCAL_CS["building site",UNIT["metre",1]]'


@pytest.mark.parametrize(
    "command",
    [("predict", "--polygons"), ("embed", "--format", "geotiff"), ("embed",)],
    ids=" ".join,
)
def test_a_scene_of_a_local_system_loses_no_later_scene(
    command: tuple[str, ...],
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scenes = []
    for name in ("local", "later"):
        pixels = chip_pixels("forest", 40, np.random.default_rng(0))
        scenes.append(write_chip(tmp_path / "in" / f"{name}_20210701.tif", pixels))
    with rasterio.open(scenes[0], "r+") as dataset:
        dataset.crs = SITE
    name, *more = command
    out = ("--model", models / "segmentation", "--output", tmp_path / "out")
    assert run(name, *scenes, *more, *out, "--offset", "0") == 0
    assert "Traceback" not in capsys.readouterr().err
    if command == ("embed",):
        table = geopandas.read_parquet(tmp_path / "out/embeddings.parquet")
        assert list(table["longitude"].isna()) == [True, False]
        return
    items = {path.name for path in (tmp_path / "out").glob("*.json")}
    rasters = {path.name for path in (tmp_path / "out").glob("*.tif")}
    assert {"local_20210701.tif", "later_20210701.tif"} <= rasters
    # It lies nowhere on the globe.
    assert items == {"later_20210701.json"}
