"""Maps put each embedding and class where it belongs."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spectralgpt.errors import ShapeError
from spectralgpt.reports.maps import pca_colours, plot_class_map, plot_embedding_map


def test_colours_follow_the_principal_components() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(900, 3)) * [10.0, 4.0, 1.0]
    directions, _ = np.linalg.qr(generator.normal(size=(8, 3)))
    embeddings = (scores @ directions.T).reshape(30, 30, 8).astype(np.float32)
    colours, shares = pca_colours(embeddings)
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
    first, _ = pca_colours(embeddings)
    second, _ = pca_colours(embeddings + 3)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_embeddings_too_few_for_colours_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least 3"):
        pca_colours(np.zeros((4, 4, 2), np.float32))


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
