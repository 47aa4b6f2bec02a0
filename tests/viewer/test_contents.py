"""Which kind of thing a path is; one heavy job at a time, and bounded memories."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError, RasterError
from spectralgpt.rasters import RasterFile
from spectralgpt.rasters.embeddings import EmbeddingRaster
from spectralgpt.rasters.maps import MapFile
from spectralgpt.viewer import Viewer, app, contents, open_sources, take_models
from spectralgpt.viewer.contents import RequestError
from tests.embedding_files import three_kinds, write_embeddings
from tests.raster_files import numbered, write_band_folder, write_tiff
from tests.tiny import tiny_contract
from tests.viewer.places import (
    write_all,
    write_classes,
    write_measures,
    write_model,
    write_scene,
)


def test_jobs_run_one_after_the_other_and_more_are_refused() -> None:
    heavy, gate = contents._OneAtATime(most=3), threading.Event()
    running, most, done, refused = [0], [0], [], []

    def job() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        gate.wait(10)
        running[0] -= 1
        done.append(True)

    def ask() -> None:
        try:
            heavy.run(job)
        except RequestError:
            refused.append(True)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(refused) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert (len(done), len(refused), most[0]) == (3, 5, 1)
    # Places are free again.
    assert heavy.run(lambda: 7) == 7


def test_a_failed_job_frees_its_place() -> None:
    heavy = contents._OneAtATime(most=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            heavy.run(lambda: 1 // 0)


def test_recent_forgets_what_was_longest_unused() -> None:
    recent: contents._Recent[str, int] = contents._Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]


def test_each_kind_is_told(tmp_path: Path) -> None:
    scene, raster, *maps = open_sources(write_all(tmp_path))
    assert isinstance(scene, RasterFile)
    assert Path(scene.name).name == "scene.tif"
    assert isinstance(raster, EmbeddingRaster)
    assert raster.path.name == "embedded.tif"
    assert [(m.path.name, m.kind) for m in maps if isinstance(m, MapFile)] == [
        ("classes.tif", "classes"),
        ("measures.tif", "measures"),
    ]


def test_a_folder_of_bands_is_a_scene(tmp_path: Path) -> None:
    bands = numbered([band.name for band in tiny_contract().bands])
    folder = write_band_folder(tmp_path / "bands", bands, side=32)
    # Without a model nothing says the sensor, with one it is the model's.
    with pytest.raises(RasterError, match="which sensor took it"):
        open_sources([folder])
    stated = ImageFormat(offset=0.0)
    (item,) = open_sources([folder], stated, tiny_contract())
    assert isinstance(item, RasterFile)
    assert item.sensor.name == "sentinel-2-l1c"
    assert len(item.bands) == 12


def test_a_raster_of_one_layer_is_a_map(tmp_path: Path) -> None:
    values = np.linspace(-5, 5, 400, dtype=np.float32).reshape(1, 20, 20)
    (found,) = open_sources([write_tiff(tmp_path / "height.tif", values)])
    assert isinstance(found, MapFile)
    assert found.kind == "measures"


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("write", [write_scene, write_classes, write_measures])
def test_truncated_files_are_told_before_the_page_is_served(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = truncate(write(tmp_path / "half.tif"))
    with pytest.raises(RasterError, match=r"half\.tif") as caught:
        Viewer(open_sources([path]))
    assert "\n" not in str(caught.value)


def test_what_is_nothing_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no raster")
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "empty", "nowhere.tif"):
        with pytest.raises(RasterError, match=name) as caught:
            open_sources([tmp_path / name])
        assert "\n" not in str(caught.value)


def test_models_are_parted_from_what_is_shown(tmp_path: Path) -> None:
    run, scene = write_model(tmp_path), tmp_path / "scene.tif"
    assert take_models([scene, run], None) == (str(run), [scene])
    assert take_models([scene], "tiny") == ("tiny", [scene])
    assert take_models([scene], None) == (None, [scene])
    with pytest.raises(ConfigError, match="name one of them"):
        take_models([scene, run], "tiny")
    with pytest.raises(ConfigError, match="alone shows nothing: name a scene"):
        take_models([run], None)


def test_a_run_without_weights_is_still_taken_for_the_model(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    name, others = take_models([tmp_path / "run", tmp_path / "scene.tif"], None)
    assert name == str(tmp_path / "run")
    assert others == [tmp_path / "scene.tif"]


def test_maps_lie_over_the_scenes_that_they_show(tmp_path: Path) -> None:
    elsewhere = write_tiff(
        tmp_path / "elsewhere.tif",
        np.ones((1, 16, 16), np.float32),
        corner=(900_000.0, 1_000_000.0),
    )
    viewer = Viewer(open_sources([*write_all(tmp_path), elsewhere]))
    scene, other = viewer.views.values()
    assert [viewer.maps[id].map.path.name for id in scene.maps] == [
        "classes.tif",
        "measures.tif",
    ]
    assert len(scene.cells) == 1
    # What lies over no scene can be looked at by itself.
    assert other.name == "elsewhere.tif"
    assert other.pictures is None


def test_embeddings_alone_show_their_reflectance(tmp_path: Path) -> None:
    raster = write_embeddings(tmp_path / "cells.tif", three_kinds())
    (view,) = Viewer(open_sources([raster.path])).views.values()
    assert view.pictures is not None
    shown = view.pictures.base
    pixels, valid = view.pictures.read(
        view.pictures.bands[1:2],
        type(shown)(24, 30, shown.transform, shown.crs),
    )
    assert valid.all()
    assert pixels[0, :, 25] == pytest.approx(np.full(24, 0.31), abs=1e-3)
    assert len(view.cells) == 1


def test_our_maps_are_maps_whatever_is_said_of_bands(tmp_path: Path) -> None:
    stated = ImageFormat(
        sensor="sentinel-2-l1c", bands=tuple(b.name for b in tiny_contract().bands)
    )
    scene = write_scene(tmp_path / "scene.tif")
    maps = [write_classes(tmp_path / "c.tif"), write_measures(tmp_path / "m.tif")]
    first, *found = open_sources([scene, *maps], stated)
    assert isinstance(first, RasterFile)
    assert Path(first.name).name == "scene.tif"
    assert [each.path for each in found if isinstance(each, MapFile)] == maps
    # A class map of three codes is none of a scene's bands either.
    one = ImageFormat(sensor="sentinel-2-l1c", bands=("B04",), offset=0.0)
    found = open_sources(maps, one)
    assert [each.path for each in found if isinstance(each, MapFile)] == maps
    band = write_tiff(tmp_path / "b.tif", np.full((1, 32, 32), 900, np.uint16))
    assert isinstance(open_sources([band], one)[0], RasterFile)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("/a/one.tif", "/a/two.tif"), ["one.tif", "two.tif"]),
        (("/a/2019/s.tif", "/a/2020/s.tif"), ["2019/s.tif", "2020/s.tif"]),
        (("/a/19/img/s.tif", "/a/20/img/s.tif"), ["19/…/s.tif", "20/…/s.tif"]),
        (
            ("/a/1/m/s.tif", "/a/1/n/s.tif", "/b/1/m/s.tif"),
            ["a/…/m/s.tif", "n/s.tif", "b/…/m/s.tif"],
        ),
        (("/s.tif", "/a/s.tif"), ["/s.tif", "a/s.tif"]),
    ],
)
def test_files_of_one_name_are_told_apart(
    paths: tuple[str, ...], names: list[str]
) -> None:
    assert list(contents._name_files([Path(path) for path in paths]).values()) == names


def test_the_page_names_scenes_and_maps_apart(tmp_path: Path) -> None:
    for folder in ("2019", "2020", "ours", "theirs"):
        (tmp_path / folder).mkdir()
    paths = [write_scene(tmp_path / year / "scene.tif") for year in ("2019", "2020")]
    paths += [write_classes(tmp_path / kind / "map.tif") for kind in ("ours", "theirs")]
    told = app._describe_viewer(Viewer(open_sources(paths)))
    assert [view["name"] for view in told["views"]] == [
        "2019/scene.tif",
        "2020/scene.tif",
    ]
    assert {each["name"] for each in told["maps"].values()} == {
        "ours/map.tif",
        "theirs/map.tif",
    }
