"""A page served as users get it: a real server on a port of this machine."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from spectralgpt.viewer import Viewer, serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def served(viewer: Viewer) -> Iterator[str]:
    """Serve a page from another thread; yields its address."""
    with serving(viewer, 0) as page:
        thread = threading.Thread(target=page.run)
        thread.start()
        try:
            yield page.url
        finally:
            page.stop()
            thread.join(30)
            assert not thread.is_alive()


@contextlib.contextmanager
def system_browser() -> Iterator[Any]:
    """Start the system's browser, without a window."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    playwright.expect.set_options(timeout=60_000)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def browsing(url: str) -> Iterator[Any]:
    """Open a page in the system's browser; what its console says must be nothing."""
    with system_browser() as browser:
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.set_default_timeout(60_000)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: said.extend(foreign(sent.url, url)))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        yield page
        # That the server is busy is told by the page itself.
        assert [text for text in said if "status of 503" not in text] == []


def foreign(asked: str, own: str) -> list[str]:
    """Return an address that is not the server's own."""
    return [] if asked.startswith((own, "data:")) else [f"asked {asked}"]
