"""A real server: many requests at once, ports, and how it ends."""

import socket
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spectralgpt.errors import ConfigError
from spectralgpt.viewer import serving
from tests.viewer.places import make_viewer
from tests.viewer.serving import served


def ask(url: str, limit_s: float = 120) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=limit_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_fifty_requests_at_once_are_answered_or_refused(tmp_path: Path) -> None:
    viewer = make_viewer(tmp_path)
    (view,) = viewer.views.values()
    (cells,) = view.cells
    with served(viewer) as url:
        base = f"{url}api/views/{view.id}"
        seen = "top=0&left=0&height=96&width=120"
        urls = [
            *[f"{base}/tiles/0/0/0?bands={band}" for band in ("B02", "B03", "B8A")] * 4,
            *[f"{base}/maps/{id}/tiles/0/0/0" for id in view.maps] * 4,
            *[f"{base}/pixel?row={row}&column=7" for row in range(10)],
            *[f"{base}/rebuild?{seen}&seed={seed}" for seed in range(10)],
            *[
                f"{base}/similar/{cells}/tiles/0/0/0?row=9&column={9 * i}"
                for i in range(6)
            ],
            *[f"{url}static/..%2f..%2f{name}" for name in ("app.py", "scene.tif")] * 2,
        ]
        assert len(urls) == 50
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(ask, urls))
        statuses = Counter(status for status, _ in answers)
        assert set(statuses) <= {200, 404, 503}
        assert statuses[404] == 4
        for (status, body), asked in zip(answers, urls, strict=True):
            if status == 503:
                assert "rebuild" in asked
                assert b"try again" in body
        # One runs and three wait; those after them may find places again.
        assert statuses[200] >= 50 - 4 - 6
        # It still answers.
        assert ask(f"{url}api/state")[0] == 200


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    viewer = make_viewer(tmp_path, with_model=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = pytest.raises(ConfigError, match="choose another with --port")
        with told, serving(viewer, port):
            pass
    for port in (-1, 70_000):
        with pytest.raises(ConfigError, match="ports are 0"), serving(viewer, port):
            pass


def test_it_listens_to_this_machine_alone(tmp_path: Path) -> None:
    viewer = make_viewer(tmp_path, with_model=False)
    with serving(viewer, 0) as page:
        assert page.listener.getsockname()[0] == "127.0.0.1"
        assert page.url.startswith("http://127.0.0.1:")


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    viewer = make_viewer(tmp_path, with_model=False)
    with (
        pytest.raises(ConfigError, match=r"pip install 'spectralgpt\[view\]'"),
        serving(viewer, 0),
    ):
        pass
