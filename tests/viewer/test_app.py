"""What the server answers, and what it refuses."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.rasters import Layers, writing_map
from spectralgpt.rasters.grid import Grid
from spectralgpt.viewer import Viewer, open_sources
from spectralgpt.viewer.app import make_app
from spectralgpt.viewer.model import ViewModel
from tests.tiny import tiny_contract, tiny_model
from tests.viewer.places import (
    BANDS,
    HEIGHT,
    NAMES,
    WIDTH,
    make_viewer,
    reflectance,
    write_scene,
)

PORT = 8123
SEEN = {"top": 0, "left": 0, "height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    viewer = make_viewer(tmp_path_factory.mktemp("viewer"))
    base = f"http://127.0.0.1:{PORT}"
    with TestClient(make_app(viewer, PORT), base_url=base) as client:
        yield client


@pytest.fixture(scope="module")
def state(client: TestClient) -> dict[str, Any]:
    return client.get("/api/state").json()


@pytest.fixture(scope="module")
def view(state: dict[str, Any]) -> str:
    return f"/api/views/{state['views'][0]['id']}"


def picture_of(client: TestClient, url: str, **query: Any) -> np.ndarray:
    answer = client.get(url, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_state_names_files_without_their_paths(
    client: TestClient, state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (view,) = state["views"]
    assert (view["name"], view["height"], view["width"]) == ("scene.tif", HEIGHT, WIDTH)
    assert [band["name"] for band in view["bands"]] == [band.name for band in BANDS]
    assert view["composites"][0]["bands"] == ["B04", "B03", "B02"]
    (embedded,) = view["embeddings"]
    assert (embedded["name"], embedded["level"]) == ("embedded.tif", 2)
    kinds = {m["name"]: m["kind"] for m in state["maps"].values()}
    assert kinds == {"classes.tif": "classes", "measures.tif": "measures"}
    assert view["refused"] == ""
    assert str(tmp_path_factory.getbasetemp()) not in client.get("/api/state").text


def test_tiles_show_each_pixel_as_it_is(client: TestClient, view: str) -> None:
    tile = picture_of(client, view + "/tiles/0/0/0", bands="B04,B03,B02")
    assert tile.shape == (256, 256, 4)
    shown = tile[:HEIGHT, :WIDTH]
    assert (shown[:4, :4, 3] == 0).all()
    assert (shown[4:, 4:, 3] == 255).all()
    assert (tile[HEIGHT:, :, 3] == 0).all()
    assert (tile[:, WIDTH:, 3] == 0).all()
    red = reflectance()[[band.name for band in BANDS].index("B04")]
    valid = np.ones(red.shape, bool)
    valid[:4, :4] = False
    low, high = np.percentile(red[valid], (2, 98))
    expected = np.clip((red - low) / (high - low), 0, 1) * 255
    assert np.abs(shown[..., 0] - expected)[valid].max() <= 1


def test_coarser_tiles_take_every_second_pixel(client: TestClient, view: str) -> None:
    fine = picture_of(client, view + "/tiles/0/0/0", bands="B08")
    coarse = picture_of(client, view + "/tiles/1/0/0", bands="B08")
    assert (
        coarse[: HEIGHT // 2, : WIDTH // 2, 3] == fine[1:HEIGHT:2, 1:WIDTH:2, 3]
    ).all()
    assert (coarse[4:40, 4:50] == fine[9:81:2, 9:101:2]).all()


def test_maps_come_with_their_own_colours(
    client: TestClient, view: str, state: dict[str, Any]
) -> None:
    (id,) = [i for i, m in state["maps"].items() if m["kind"] == "classes"]
    tile = picture_of(client, f"{view}/maps/{id}/tiles/0/0/0")
    assert tile[50, 10].tolist() == [0, 0, 255, 255]
    assert tile[50, 60].tolist() == [0, 170, 0, 255]
    assert tile[50, 110].tolist() == [255, 204, 0, 255]
    assert (tile[HEIGHT - 8 :, :, 3] == 0).all()
    legend = state["maps"][id]["classes"]
    assert [each["name"] for each in legend] == list(NAMES)
    assert legend[1]["colour"].lower() == "#00aa00"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_tiles_of_scene_and_map_lie_on_each_other_to_the_pixel(
    client: TestClient, view: str, state: dict[str, Any], level: int
) -> None:
    (id,) = [i for i, m in state["maps"].items() if m["kind"] == "classes"]
    place = f"/tiles/{level}/0/0"
    scene = picture_of(client, view + place, bands="B08").astype(int)
    classes = picture_of(client, f"{view}/maps/{id}{place}").astype(int)
    assert scene.shape == classes.shape == (256, 256, 4)
    # Brightness and class change at the same two columns.
    row, width = 40 >> level, WIDTH >> level
    steps = np.diff(scene[row, :width, 0])
    edges = np.flatnonzero(np.diff(classes[row, :width, :3], axis=0).any(axis=-1))
    assert sorted(np.argsort(steps)[-2:]) == edges.tolist()
    assert edges.tolist() == [(40 >> level) - 1, (80 >> level) - 1]


def test_the_page_leaves_tiles_the_size_that_leaflet_gives_them(
    client: TestClient,
) -> None:
    style = client.get("/static/viewer.css").text
    rules = re.findall(r"([^{}]*leaflet-tile[^{}]*)\{([^{}]*)\}", style)
    assert not [rule for _, rule in rules if "width" in rule or "height" in rule]
    assert "tileSize: TILE" in client.get("/static/scene_map.js").text


def test_measures_have_layers_and_a_range(
    client: TestClient, view: str, state: dict[str, Any]
) -> None:
    (id,) = [i for i, m in state["maps"].items() if m["kind"] == "measures"]
    assert state["maps"][id]["layers"] == ["down", "across"]
    ramp = state["maps"][id]["ramps"][1]
    assert 0.1 <= ramp["low"] < 0.2
    assert 1.1 < ramp["high"] <= 1.19
    down = picture_of(client, f"{view}/maps/{id}/tiles/0/0/0", layer=0)
    across = picture_of(client, f"{view}/maps/{id}/tiles/0/0/0", layer=1)
    assert (down[:, :10, 3] == 0).all()
    assert (down[20, 20:100] == down[20, 20]).all()
    assert (across[20:80, 50] == across[20, 50]).all()
    assert (across[20, 20] != across[20, 100]).any()


def test_pixel_tells_spectrum_place_and_class(
    client: TestClient, view: str, state: dict[str, Any]
) -> None:
    (id,) = [i for i, m in state["maps"].items() if m["kind"] == "classes"]
    found = client.get(view + "/pixel", params={"row": 30, "column": 70, "map": id})
    values = found.json()
    assert (values["x"], values["y"]) == (500_705, 4_599_695)
    assert values["map"] == "trees"
    expected = reflectance()[:, 30, 70]
    assert values["spectrum"] == pytest.approx(expected.tolist(), abs=1e-4)
    empty = client.get(view + "/pixel", params={"row": 2, "column": 2}).json()
    assert empty["spectrum"] == [None] * len(BANDS)


def test_reconstruction_at_a_ratio(client: TestClient, view: str) -> None:
    asked = {**SEEN, "mask_ratio": 0.6, "seed": 3}
    made = client.get(view + "/rebuild", params=asked).json()
    assert made["window"] == {"row": 0, "column": 12, "height": 96, "width": 96}
    # The same is not made twice, another ratio is.
    assert client.get(view + "/rebuild", params=asked).json()["id"] == made["id"]
    other = client.get(view + "/rebuild", params={**asked, "mask_ratio": 0.3}).json()
    assert other["id"] != made["id"]
    url = f"/api/rebuilt/{made['id']}"
    bands = {"bands": "B03,B02,B01"}
    rebuilt, visible, angle = (
        picture_of(client, f"{url}/{kind}", **bands)
        for kind in ("rebuilt", "visible", "angle")
    )
    assert rebuilt.shape == visible.shape == (96, 96, 4)
    grey = (visible[..., :3] == 140).all(axis=-1)
    # All three bands lie in one band group, of which 6 in 10 tokens are hidden.
    assert 0.5 < grey.mean() < 0.7
    seen = ~grey
    assert (rebuilt[seen] == visible[seen]).all()
    assert (rebuilt[grey] != visible[grey]).any(axis=-1).mean() > 0.9
    assert angle.shape == rebuilt.shape
    place = {"row": 50, "column": 60, "rebuilt": made["id"]}
    found = client.get(view + "/pixel", params=place).json()["rebuilt"]
    known = [value for value in found if value is not None]
    # Whole band groups are hidden or seen.
    assert len(found) == len(BANDS)
    assert len(known) in (3, 6, 9)
    assert np.isfinite(known).all()
    outside = {"row": 50, "column": 3, "rebuilt": made["id"]}
    assert client.get(view + "/pixel", params=outside).json()["rebuilt"] is None


def test_similarity_finds_the_class_that_was_clicked(
    client: TestClient, view: str, state: dict[str, Any]
) -> None:
    id = state["views"][0]["embeddings"][0]["id"]
    url = f"{view}/similar/{id}"
    place = {"row": 40, "column": 100}
    assert client.get(url, params=place).json() == place
    tile = picture_of(client, url + "/tiles/0/0/0", **place).astype(int)
    shown = tile[:HEIGHT, :WIDTH]
    assert (shown[..., 3] == 255).all()
    brightness = shown[..., :3].sum(axis=-1)
    assert brightness[:, 84:].min() > brightness[:, :76].max() + 100


def test_similarity_by_the_model_of_what_is_in_view(
    client: TestClient, view: str
) -> None:
    place = {"row": 90, "column": 118}
    made = client.get(view + "/embed", params={**SEEN, **place}).json()
    assert made["level"] == 3
    window = made["window"]
    assert window["row"] <= 90 < window["row"] + window["height"]
    assert window["column"] <= 118 < window["column"] + window["width"]
    url = f"{view}/similar/{made['id']}"
    assert client.get(url, params=place).status_code == 200
    tile = picture_of(client, url + "/tiles/0/0/0", **place)
    # The place itself is the brightest of the colours.
    assert tile[90, 118, :3].tolist() == [252, 255, 164]
    outside = client.get(url, params={"row": 90, "column": 0})
    assert outside.status_code == 422
    assert "choose another" in outside.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/%2e%2e/contents.py",
        "/static/%2fetc%2fpasswd",
        "/static/SHA256SUMS",
        "/../../etc/passwd",
        "/static//etc/passwd",
        "/scene.tif",
        "/api/views/..%2f..%2fscene.tif/tiles/0/0/0?bands=B04",
        "/api/views/scene.tif/tiles/0/0/0?bands=B04",
        "/api/rebuilt/00000000/rebuilt?bands=B04",
        "/api/views/nothing/pixel?row=0&column=0",
        "/openapi.json",
    ],
)
def test_nothing_but_what_was_named(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]
    assert answer.text.count("\n") <= 1


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/tiles/99/0/0?bands=B04", 400, "level"),
        ("/tiles/0/99999999/0?bands=B04", 400, "tile_row"),
        ("/tiles/0/-1/0?bands=B04", 400, "tile_row"),
        ("/tiles/0/0/0", 400, "bands"),
        ("/tiles/0/0/0?bands=B04,B03", 422, "one band or three"),
        ("/tiles/0/0/0?bands=B04,XX,B02", 422, "no band 'XX' (there: B01"),
        ("/tiles/0/0/0?bands=" + "B" * 500, 400, "names with commas"),
        ("/tiles/0/" + "9" * 900 + "/0?bands=B04", 400, "tile_row"),
        ("/tiles/0/0/٣?bands=B04", 400, "tile_column"),
        ("/tiles/0/0/0?bands=" + "B" * 5000, 414, "longer"),
        ("/pixel?row=96&column=0", 400, "row must be a whole number from 0 to 95"),
        ("/pixel?row=1e3&column=0", 400, "row"),
        ("/pixel?row=1", 400, "column"),
        ("/pixel?row=1&column=1&map=zzz", 404, "no such map"),
        ("/rebuild?top=0&left=0&height=9&width=9&mask_ratio=1.5", 400, "mask_ratio"),
        ("/rebuild?top=0&left=0&height=9&width=9&mask_ratio=nan", 400, "mask_ratio"),
        ("/rebuild?top=0&left=0&height=9&width=9&mask_ratio=x", 400, "mask_ratio"),
        ("/rebuild?top=0&left=0&height=99999999999&width=9", 400, "height"),
        ("/rebuild?top=0&left=0&height=9&width=0", 400, "width"),
        ("/similar/zzz?row=1&column=1", 404, "click again"),
    ],
)
def test_bad_parameters_are_named(
    client: TestClient, view: str, path: str, status: int, message: str
) -> None:
    answer = client.get(view + path)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_it_only_reads(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = client.request(method, "/api/state")
        assert answer.status_code == 405
        assert "read-only" in answer.json()["error"]


def test_localhost_is_this_machine_too(client: TestClient) -> None:
    headers = {"host": f"localhost:{PORT}", "sec-fetch-site": "same-origin"}
    assert client.get("/api/state", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": f"evil.example:{PORT}"},
        {"host": f"127.0.0.1.evil.example:{PORT}"},
        {"host": f"127.0.0.1:{PORT + 1}"},
        {"host": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.get("/api/state", headers=headers)
    assert answer.status_code == 403
    assert "views" not in answer.text


def test_every_answer_says_what_browsers_may_do(client: TestClient, view: str) -> None:
    for path in ("/", "/static/viewer.js", "/api/state", view + "/pixel", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_has_no_inline_script_and_loads_nothing_from_elsewhere(
    client: TestClient,
) -> None:
    page = client.get("/").text
    assert "<style" not in page
    assert " style=" not in page
    assert " on" not in page.replace(" one", "").split("<body>")[1].split("aria")[0]
    assert page.count("<script") == page.count('<script src="/static/')
    assert "://" not in page


def test_faults_of_ours_are_one_line_too(
    client: TestClient, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectralgpt.viewer import app

    def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(app, "_describe_pixel", fail)
    answer = client.get(view + "/pixel", params={"row": 0, "column": 0})
    assert answer.status_code == 500
    assert answer.json() == {"error": "this failed: RuntimeError."}


def test_without_georeference_all_of_it_works_too(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "plain.tif", Grid(HEIGHT, WIDTH))
    coarse = tmp_path / "coarse.tif"
    with writing_map(coarse, Grid(24, 30), Layers.of_measures(("column",))) as write:
        write(0, np.mgrid[:24, :30].astype(np.float32)[1:])
    loaded = LoadedModel(tiny_model().eval(), tiny_contract())
    viewer = Viewer(open_sources([scene, coarse]), ViewModel(loaded, "tiny"))
    (view,) = viewer.views.values()
    (map_id,) = view.maps
    base = f"http://127.0.0.1:{PORT}"
    with TestClient(make_app(viewer, PORT), base_url=base) as client:
        url = f"/api/views/{view.id}"
        place = {"row": 50, "column": 70}
        found = client.get(f"{url}/pixel", params={**place, "map": map_id}).json()
        assert "x" not in found
        # Both cover the same rectangle: column 70 of 120 is column 17 of 30.
        assert found["map"] == "17"
        made = client.get(f"{url}/embed", params={**SEEN, **place}).json()
        tiles = f"{url}/similar/{made['id']}/tiles/0/0/0"
        tile = picture_of(client, tiles, **place)
        assert tile[50, 70, :3].tolist() == [252, 255, 164]
        rebuilt = client.get(f"{url}/rebuild", params=SEEN)
        assert rebuilt.json()["window"]["height"] == HEIGHT


def test_without_a_model_rebuilding_says_what_to_do(tmp_path: Path) -> None:
    viewer = make_viewer(tmp_path, with_model=False)
    (id,) = viewer.views
    base = f"http://127.0.0.1:{PORT}"
    with TestClient(make_app(viewer, PORT), base_url=base) as client:
        answer = client.get(f"/api/views/{id}/rebuild", params=SEEN)
    assert answer.status_code == 422
    assert "--model" in answer.json()["error"]
