"""Maps put each embedding and class where it belongs."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rasterio import Affine

from spectralgpt.errors import ShapeError
from spectralgpt.rasters import NO_CLASS
from spectralgpt.reports import scene_pictures
from spectralgpt.reports.scene_pictures import (
    _pca_colours,
    plot_class_map,
    plot_embedding_map,
)
from spectralgpt.scenes.maps import SceneMap
from tests.dense_files import blobs
from tests.map_scenes import describe, rule_mapper, write_scene


def test_colours_follow_the_principal_components() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(900, 3)) * [10.0, 4.0, 1.0]
    directions, _ = np.linalg.qr(generator.normal(size=(8, 3)))
    embeddings = (scores @ directions.T).reshape(30, 30, 8).astype(np.float32)
    colours, shares = _pca_colours(embeddings)
    assert colours.shape == (30, 30, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    np.testing.assert_allclose(shares, np.array([100, 16, 1]) / 117, atol=0.03)
    inside = (colours > 0) & (colours < 1)
    for component in range(3):
        kept = inside[..., component].ravel()
        drawn = colours[..., component].ravel()[kept]
        correlation = np.corrcoef(drawn, scores[kept, component])[0, 1]
        assert abs(correlation) > 0.99


def test_colours_do_not_depend_on_a_shift() -> None:
    embeddings = np.random.default_rng(1).normal(size=(6, 6, 5)).astype(np.float32)
    first, _ = _pca_colours(embeddings)
    second, _ = _pca_colours(embeddings + 3)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_embeddings_too_few_for_colours_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least 3"):
        _pca_colours(np.zeros((4, 4, 2), np.float32))


def test_class_map_covers_the_same_ground_as_the_picture() -> None:
    picture = np.zeros((16, 32, 3), np.float32)
    classes = np.array([[0, 1, 1, -1], [1, 1, 0, 0]])
    figure = plot_class_map(
        picture, classes, ["a", "b"], title="clusters", pixel_width_m=10
    )
    left, right = figure.axes
    assert left.get_images()[0].get_extent() == right.get_images()[0].get_extent()
    shown = right.get_images()[0].get_array()
    assert shown.mask.tolist() == [[False] * 3 + [True], [False] * 4]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a (43%)", "b (57%)"]
    assert "50 m" in [text.get_text() for text in left.texts]


def test_class_without_a_name_is_refused() -> None:
    with pytest.raises(ShapeError, match="class 2, but only 2 names"):
        plot_class_map(
            np.zeros((2, 2, 3), np.float32), np.array([[2]]), ["a", "b"], title="t"
        )


def test_embedding_map_has_a_panel_for_each() -> None:
    values = np.random.default_rng(0).normal(size=(4, 4, 6)).astype(np.float32)
    figure = plot_embedding_map(
        np.zeros((8, 8, 3), np.float32), [("one", values), ("two", -values)]
    )
    assert [axes.get_title() for axes in figure.axes] == ["true colour", "one", "two"]


COLOURS = ("#0072b2", "#1b7837", "#e69f00")


def drawn(
    folder: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> Figure:
    """Draw a map of as many dates as there are names; returns the figure."""
    figures = []
    plot = scene_pictures.plot_class_map
    monkeypatch.setattr(
        scene_pictures,
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
    path = scene_pictures.write_quick_look(made, rule_mapper(folder))
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


@pytest.mark.parametrize("latitude", [0.0, 60.0])
def test_the_scale_bar_is_ground_along_the_picture_in_degrees_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latitude: float
) -> None:
    stated: dict[str, float] = {}
    monkeypatch.setattr(
        scene_pictures,
        "plot_class_map",
        lambda *_, **options: stated.update(width=options["pixel_width_m"]) or Figure(),
    )
    classes = blobs(40, 60, 0, 3)
    step = Affine(1e-4, 0, 10.0, 0, -1e-4, latitude + 20e-4)
    path = write_scene(tmp_path / "a.tif", classes, crs="EPSG:4326", transform=step)
    made = SceneMap(
        tmp_path / "map.tif", (describe(path),), np.array([10, 60, 30]), classes
    )
    scene_pictures.write_quick_look(made, rule_mapper(tmp_path))
    metres = 1e-4 * 111_195 * np.cos(np.radians(latitude))
    assert stated["width"] == pytest.approx(metres, rel=1e-3)


def test_the_scale_bar_is_drawn_as_long_as_the_ground_that_it_names() -> None:
    picture = np.zeros((400, 400, 3), np.float32)
    figure = plot_class_map(
        picture, np.zeros((4, 4), int), ["a"], title="map", pixel_width_m=10
    )
    drawn = _pixels(figure)
    scene = figure.axes[0].get_window_extent()
    rows = len(drawn) - np.arange(int(scene.y0) + 4, int(scene.y1) - 4)
    left, right = int(scene.x0) + 4, int(scene.x1) - 4
    is_white = (drawn[rows, left:right] > 200).all(axis=2)
    bar_px = is_white.sum(axis=1).max()
    assert "1 km" in [text.get_text() for text in figure.axes[0].texts]
    assert bar_px / scene.width * 4 == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("length", [3, 30, 60])
def test_no_legend_is_cut_off(length: int) -> None:
    names = [f"{i}" * length for i in range(6)]
    figure = plot_class_map(
        np.zeros((8, 8, 3), np.float32), np.arange(6)[None], names, title="map"
    )
    _pixels(figure)
    (legend,) = figure.legends
    extent, whole = legend.get_window_extent(), figure.bbox
    assert extent.x0 >= whole.x0
    assert extent.x1 <= whole.x1
    assert extent.y0 >= whole.y0
    assert extent.y1 <= figure.axes[0].get_window_extent().y0


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
