"""Damaged labels: one short error, or what the undamaged part of them says."""

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.labelling.labels import UNLABELLED, LabelSource, open_labels
from spectralgpt.errors import SpectralGPTError
from spectralgpt.rasters import Grid, Window
from spectralgpt.rasters.files import read_header
from spectralgpt.scenes.places import _labelled_cells, _read_shapes
from tests.fuzz.mutate import (
    NUMBERS,
    WORDS,
    bounded,
    mutate_bytes,
    mutate_text,
    mutate_value,
    rounds,
    said,
)
from tests.label_files import halves, write_labels, write_scene
from tests.raster_files import write_tiff

SIDE = 24
VALUES: list[Any] = [
    *(None, True, 0, -1, 95.0, 1e9, 1e300, 10**400, math.nan, math.inf, -math.inf),
    *([], {}, [[]], [1, 2], [[9.0, 36.0]], [[[9.0, 36.0]]], [None, None], {"a": 1}),
    *("Point", "LineString", "MultiPolygon", "GeometryCollection", "Feature"),
    *("EPSG:4326", "urn:ogc:def:crs:EPSG::32632", "EPSG:999999", "water"),
    *(word for word in WORDS if word not in NUMBERS),
]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    folder = tmp_path_factory.mktemp("scene")
    return read_header(write_scene(folder / "scene.tif", SIDE, SIDE)).grid


def try_shapes(path: Path, grid: Grid) -> int:
    """Read a layer in every way; returns how many were not refused."""

    def paint() -> None:
        classes, painter_on, _ = open_labels(LabelSource(path, "cover"), [grid])
        painted, _ = painter_on(grid)(Window(0, 0, SIDE, SIDE))
        assert painted.shape == (SIDE, SIDE)
        assert {*np.unique(painted)} <= {*classes.code_of.values(), UNLABELLED}

    def find_cells() -> None:
        cells = _labelled_cells(path, "cover", None, grid)
        assert len(cells.names) > 1
        assert (cells.rows < SIDE).all()
        assert (cells.columns < SIDE).all()
        assert np.isfinite(cells.centres).all()

    done = 0
    for read in (paint, find_cells, lambda: _read_shapes(path, grid)):
        with contextlib.suppress(SpectralGPTError), bounded(), said():
            read()
            done += 1
    return done


@pytest.mark.parametrize(
    "damage",
    [
        lambda text, seed: mutate_bytes(text.encode(), seed),
        lambda text, seed: mutate_text(text, seed).encode("utf-8", "surrogatepass"),
        lambda text, seed: json.dumps(
            mutate_value(json.loads(text), seed, VALUES)
        ).encode("utf-8", "surrogatepass"),
    ],
    ids=["bytes", "text", "values"],
)
def test_damaged_geojson(
    damage: Callable[[str, int], bytes], grid: Grid, tmp_path: Path
) -> None:
    whole = write_labels(tmp_path / "whole.geojson", *halves(SIDE), crs="EPSG:4326")
    assert try_shapes(whole, grid) == 3
    path = tmp_path / "labels.geojson"
    for seed in rounds():
        path.write_bytes(damage(whole.read_text(), seed))
        try_shapes(path, grid)


def test_damaged_geopackages(grid: Grid, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "whole.gpkg", *halves(SIDE))
    assert try_shapes(path, grid) == 3
    whole = path.read_bytes()
    for seed in rounds():
        path = tmp_path / f"{seed}.gpkg"
        path.write_bytes(mutate_bytes(whole, seed, 4096))
        try_shapes(path, grid)
        path.unlink()


def test_damaged_tables_of_labels(tmp_path: Path) -> None:
    rows = ["image,label,split,place"]
    for number, name in enumerate(("wood", "lake", "wood", "field")):
        write_tiff(
            tmp_path / f"chips/{number}.tif",
            np.full((1, 4, 4), 1000, "uint16"),
            descriptions=("B04",),
        )
        rows.append(f"chips/{number}.tif,{name},{'train' if number else 'val'},p{name}")
    text = "\n".join(rows) + "\n"
    own = {tmp_path / f"chips/{number}.tif" for number in range(4)}
    stated = LabelledDataConfig(
        str(tmp_path), layout="csv", sensor="sentinel-2-l2a", offset=0.0
    )
    table = tmp_path / "labels.csv"
    for seed in rounds():
        damaged = mutate_text(text, seed).encode("utf-8", "surrogatepass")
        table.write_bytes(damaged if seed % 2 else mutate_bytes(text.encode(), seed))
        with contextlib.suppress(SpectralGPTError), bounded(), said():
            config = replace(stated, allow_unlisted=bool(seed % 3))
            found = read_labelled(config, divided=False)
            paths = [file.path for c in found.samples for file in c.item.files.values()]
            assert {*paths} <= own
            assert all(chip.labels for chip in found.samples) or found.task
            assert all(found.class_names)
