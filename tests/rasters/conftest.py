"""What tests of rasters share."""

import pytest

from spectralgpt.rasters import gdal


@pytest.fixture(autouse=True)
def nothing_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test hear what a process says once."""
    monkeypatch.setattr(gdal._Quiet, "reported", set())
