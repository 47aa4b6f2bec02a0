"""The page in a real browser: each control is tried."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.viewer.places import HEIGHT, WIDTH, make_viewer
from tests.viewer.serving import browsing, served


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(make_viewer(tmp_path_factory.mktemp("page"))) as url:
        yield url


@pytest.fixture
def page(url: str) -> Iterator[Any]:
    with browsing(url) as page:
        yield page


def settle(page: Any) -> None:
    """Wait until nothing is loaded any more, and tiles have faded in."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)


def screen(page: Any) -> np.ndarray:
    """Return the map as a picture (H, W, 3)."""
    shot = page.locator("#map").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def scene_box(page: Any) -> tuple[float, float, float, float]:
    """Left, top, width and height of the scene on the page, by its first tile."""
    tile = page.locator(".picture img").first.bounding_box()
    share = tile["width"] / 256
    return tile["x"], tile["y"], WIDTH * share, HEIGHT * share


def point(page: Any, row: int, column: int) -> tuple[float, float]:
    left, top, width, height = scene_box(page)
    return (
        left + (column + 0.5) / WIDTH * width,
        top + (row + 0.5) / HEIGHT * height,
    )


def colour_at(page: Any, row: int, column: int) -> np.ndarray:
    x, y = point(page, row, column)
    return screen(page)[int(y), int(x)]


def tile_bands(page: Any) -> str:
    return page.locator(".picture img").first.get_attribute("src").split("?")[1]


def choose(page: Any, id: str, label: str) -> None:
    page.locator(f"#{id}").select_option(label=label)


def slide(page: Any, id: str, value: int) -> None:
    page.locator(f"#{id}").fill(str(value))


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


def test_the_scene_is_shown_whole_and_bands_are_chosen(page: Any) -> None:
    settle(page)
    expect(page.locator("#about")).to_contain_text("96 x 120 px · EPSG:32632")
    choose(page, "overlay", "no map")
    settle(page)
    left, top, width, height = scene_box(page)
    assert width > 500
    assert left >= 0
    assert left + width <= 1016
    assert top + height <= 768
    true_colour = screen(page)
    page.locator("#composite").select_option(index=1)
    settle(page)
    assert tile_bands(page) == "bands=B08%2CB04%2CB03"
    page.locator("#composite").select_option("own")
    expect(page.locator("#own-bands")).to_be_visible()
    for colour, band in (("red", "B12"), ("green", "B01"), ("blue", "B09")):
        page.locator(f"#{colour}").select_option(band)
    settle(page)
    assert tile_bands(page) == "bands=B12%2CB01%2CB09"
    assert screen(page).shape == true_colour.shape


def tile_boxes(page: Any, layer: str) -> dict[str, list[float]]:
    """Left, top, width and height of each tile of a layer, by level, row and column."""
    found: dict[str, list[float]] = page.evaluate(
        """(layer) => Object.fromEntries([...document.querySelectorAll(`.${layer} img`)]
          .map((tile) => [tile.src.match(/tiles.([^?]*)/)[1],
                          tile.getBoundingClientRect()])
          .map(([at, box]) => [at, [box.x, box.y, box.width, box.height]]))""",
        layer,
    )
    return found


def test_tiles_of_scene_and_map_have_one_geometry_at_any_zoom(page: Any) -> None:
    for _ in range(3):
        settle(page)
        scene, overlay = (tile_boxes(page, name) for name in ("picture", "overlay"))
        assert set(scene) & set(overlay)
        for at in set(scene) & set(overlay):
            assert scene[at] == pytest.approx(overlay[at], abs=1e-3)
        page.locator(".leaflet-control-zoom-in").click()


def test_the_map_has_a_legend_layers_and_an_opacity(page: Any) -> None:
    settle(page)
    expect(page.locator("#legend li")).to_have_text(["water", "trees", "fields"])
    slide(page, "opacity", 100)
    settle(page)
    assert colour_at(page, 50, 10) == pytest.approx([0, 0, 255], abs=3)
    assert colour_at(page, 50, 60) == pytest.approx([0, 170, 0], abs=3)
    slide(page, "opacity", 0)
    settle(page)
    scene = colour_at(page, 50, 10)
    assert scene[0] == pytest.approx(scene[2], abs=40)
    expect(page.locator("#opacity-value")).to_have_text("0 %")
    choose(page, "overlay", "measures.tif")
    expect(page.locator("#layer")).to_be_visible()
    slide(page, "opacity", 100)
    settle(page)
    down = colour_at(page, 20, 60)
    choose(page, "layer", "across")
    settle(page)
    assert np.abs(colour_at(page, 20, 60) - down).max() > 30
    expect(page.locator("#legend .ends span")).to_have_count(2)


def test_the_map_is_swiped_off_the_scene(page: Any) -> None:
    settle(page)
    slide(page, "opacity", 100)
    slide(page, "swipe", 50)
    settle(page)
    middle = page.locator("#map").bounding_box()["width"] / 2
    left, _, width, _ = scene_box(page)
    column = int((middle - left) / width * WIDTH)
    # All of these are trees.
    assert column - 8 > 40
    assert column + 8 < 80
    trees = pytest.approx([0, 170, 0], abs=3)
    assert colour_at(page, 50, column + 6) == trees
    assert colour_at(page, 50, column - 6) != trees
    page.locator(".leaflet-control-zoom-in").click()
    settle(page)
    shown = screen(page)
    row = shown.shape[0] // 2
    assert shown[row, int(middle) + 30] == trees
    assert shown[row, int(middle) - 30] != trees
    slide(page, "swipe", 0)
    settle(page)
    assert screen(page)[row, int(middle) - 30] == trees


def test_the_scale_says_lengths_on_the_ground(page: Any) -> None:
    settle(page)
    line = page.locator(".leaflet-control-scale-line")
    said, unit = line.inner_text().split()
    metres = float(said) * {"m": 1, "km": 1000}[unit]
    _, _, width, _ = scene_box(page)
    length = line.evaluate("line => line.offsetWidth")
    assert metres / (length / width * WIDTH) == pytest.approx(10, rel=0.05)


def test_the_spectrum_follows_the_cursor(page: Any) -> None:
    settle(page)
    page.mouse.move(*point(page, 50, 60))
    expect(page.locator("#place")).to_have_text("row 50, column 60")
    expect(page.locator("#pixel")).to_contain_text("map: trees")
    expect(page.locator("#chart circle.scene")).to_have_count(12)
    first = page.locator("#chart path.scene").get_attribute("d")
    page.locator("summary").click()
    expect(page.locator("#numbers tr").first).to_contain_text("B01")
    page.mouse.move(*point(page, 20, 110))
    expect(page.locator("#place")).to_have_text("row 20, column 110")
    assert page.locator("#chart path.scene").get_attribute("d") != first


def test_the_reconstruction_follows_the_ratio(page: Any) -> None:
    settle(page)
    choose(page, "overlay", "no map")
    expect(page.locator("#kind")).to_be_disabled()
    page.locator("#rebuild").click()
    expect(page.locator("#scores")).to_contain_text("96 x 96 px with 75 % hidden")
    settle(page)
    page.mouse.move(*point(page, 50, 60))
    expect(page.locator("#chart path.rebuilt")).to_have_count(2)
    images = page.locator("img.rebuilt")
    first = images.get_attribute("src")
    slide(page, "ratio", 40)
    expect(page.locator("#scores")).to_contain_text("40 % hidden")
    settle(page)
    second = images.get_attribute("src")
    assert second != first
    page.locator("#other-mask").click()
    expect(images).not_to_have_attribute("src", second)
    choose(page, "kind", "what the model saw")
    settle(page)
    assert "/visible?" in images.get_attribute("src")
    grey = (screen(page) == 140).all(axis=-1).mean()
    choose(page, "kind", "spectral angle, its error")
    expect(page.locator("#angle-legend")).to_be_visible()
    settle(page)
    assert grey > 0.05 > (screen(page) == 140).all(axis=-1).mean()
    choose(page, "kind", "the scene itself")
    expect(images).to_have_count(0)


def test_a_click_shows_what_is_alike(page: Any) -> None:
    settle(page)
    choose(page, "overlay", "no map")
    slide(page, "similar-opacity", 100)
    page.mouse.click(*point(page, 40, 100))
    expect(page.locator("#picked")).to_contain_text("Like row 40, column 100")
    expect(page.locator("#similar-legend")).to_be_visible()
    settle(page)
    alike, other = colour_at(page, 80, 90), colour_at(page, 80, 20)
    assert alike.sum() > other.sum() + 100
    # A cell a pixel: one tile of level 2 is all there is.
    expect(page.locator(".similar img")).to_have_count(1)
    assert "/tiles/2/0/0?" in page.locator(".similar img").get_attribute("src")
    page.locator("#clear").click()
    expect(page.locator("#picked")).to_contain_text("Click a place")
    expect(page.locator(".similar img")).to_have_count(0)
    page.locator("#source").select_option("model")
    page.mouse.click(*point(page, 40, 100))
    expect(page.locator("#picked")).to_contain_text("Like row 40, column 100")
    settle(page)
    assert page.locator(".similar img").count() > 0


def test_everything_is_reached_by_keyboard(page: Any) -> None:
    settle(page)
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_contain_text("row")
    expect(page.locator("#cross")).to_be_visible()
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    expect(page.locator("#picked")).to_contain_text("Like row")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.locator(":focus").first.get_attribute("id"))
        if "clear" in reached:
            break
    assert {"composite", "overlay", "opacity", "ratio", "rebuild", "source"} <= reached
    # Every control has a name.
    for control in page.locator("aside :is(select, input)").all():
        assert control.evaluate("control => control.labels.length") == 1


def test_errors_of_the_server_are_told(page: Any) -> None:
    settle(page)
    page.route(
        "**/rebuild?*",
        lambda route: route.fulfill(
            status=503, content_type="application/json", body='{"error": "busy"}'
        ),
    )
    page.locator("#rebuild").click()
    expect(page.locator("#status")).to_have_text("busy")
    expect(page.locator("#status")).to_have_class("error")
    page.unroute("**/rebuild?*")
    page.locator("#rebuild").click()
    expect(page.locator("#scores")).to_contain_text("hidden")
    expect(page.locator("#status")).to_have_text("")


def test_a_real_scene(shared: Path) -> None:
    cell = shared / "data" / "major-tom" / "S2L2A" / "199U" / "199U_1099R"
    if not cell.is_dir():
        pytest.skip(f"the Major TOM cell is not at {cell}")
    from spectralgpt.viewer import Viewer, open_sources

    (scene,) = cell.iterdir()
    with served(Viewer(open_sources([scene]))) as url, browsing(url) as page:
        settle(page)
        expect(page.locator("#about")).to_contain_text("2020-02-23 · 1068 x 1068 px")
        expect(page.locator("#rebuild-part")).to_be_hidden()
        expect(page.locator("#similar-part")).to_be_hidden()
        shown = screen(page)
        # Neither dark nor flat: fields, woods and a river.
        assert 20 < shown[100:-100, 200:-200].mean() < 200
        assert shown[100:-100, 200:-200].std() > 15
        page.mouse.move(500, 350)
        expect(page.locator("#chart circle.scene")).to_have_count(12)
