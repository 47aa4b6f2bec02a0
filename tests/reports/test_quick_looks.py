from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from rasterio import Affine

from spectralgpt.rasters import NO_CLASS
from spectralgpt.reports import quick_looks
from spectralgpt.reports.style import category_colours, hex_colours
from spectralgpt.scenes.maps import SceneMap
from tests.dense_files import blobs
from tests.map_scenes import describe, rule_mapper, write_scene

COLOURS = ("#0072b2", "#1b7837", "#e69f00")


def drawn(
    folder: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> Figure:
    """Draw a map of as many dates as there are names; returns the figure."""
    figures = []
    plot = quick_looks.plot_class_map
    monkeypatch.setattr(
        quick_looks,
        "plot_class_map",
        lambda *args, **options: figures.append(plot(*args, **options)) or figures[-1],
    )
    classes = blobs(40, 60, 0, 3)
    hole = np.s_[:8, :12]
    items = tuple(
        describe(write_scene(folder / f"{name}.tif", classes, hole=hole))
        for name in names
    )
    preview = classes[::4, ::4].copy()
    preview[:2, :3] = NO_CLASS
    made = SceneMap(folder / "map.tif", items, np.array([10, 60, 30]), preview)
    path = quick_looks.write_quick_look(made, rule_mapper(folder), COLOURS)
    assert path == folder / "map.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    return figures[0]


def test_a_quick_look_shows_the_scene_and_the_map_in_its_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn(tmp_path, ("a",), monkeypatch)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["water (10%)", "trees (60%)", "fields (30%)"]
    scene, shown = figure.axes
    picture = scene.get_images()[0].get_array()
    assert picture.shape == (10, 15, 3)
    np.testing.assert_array_equal(picture[:2, :3], 1)
    image = shown.get_images()[0]
    assert image.get_array().mask[:2, :3].all()
    assert image.get_array().mask.sum() == 6
    assert [tuple(image.cmap(i)) for i in range(3)] == [*map(to_rgba, COLOURS)]
    # 40 rows of 10 m shown by 10: a pixel of the picture is 40 m wide.
    assert "100 m" in [text.get_text() for text in scene.texts]


def test_a_quick_look_of_two_dates_shows_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = drawn(tmp_path, ("a", "b"), monkeypatch).axes
    assert [one.get_title() for one in axes] == ["before", "after", "map"]


@pytest.mark.parametrize("count", [2, 12])
def test_colours_as_text_are_those_of_the_reports(count: int) -> None:
    found = [to_rgba(colour) for colour in hex_colours(count)]
    wanted = [to_rgba(colour) for colour in category_colours(count)]
    np.testing.assert_allclose(found, wanted, atol=1 / 255)


@pytest.mark.parametrize("latitude", [0.0, 60.0])
def test_the_scale_bar_is_ground_along_the_picture_in_degrees_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latitude: float
) -> None:
    stated: dict[str, float] = {}
    monkeypatch.setattr(
        quick_looks,
        "plot_class_map",
        lambda *_, **options: stated.update(width=options["pixel_width_m"]) or Figure(),
    )
    classes = blobs(40, 60, 0, 3)
    step = Affine(1e-4, 0, 10.0, 0, -1e-4, latitude + 20e-4)
    path = write_scene(tmp_path / "a.tif", classes, crs="EPSG:4326", transform=step)
    made = SceneMap(
        tmp_path / "map.tif", (describe(path),), np.array([10, 60, 30]), classes
    )
    quick_looks.write_quick_look(made, rule_mapper(tmp_path), COLOURS)
    metres = 1e-4 * 111_195 * np.cos(np.radians(latitude))
    assert stated["width"] == pytest.approx(metres, rel=1e-3)
