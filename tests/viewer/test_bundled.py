"""What ships with the page: Leaflet as it was published, with its licence."""

import hashlib
from importlib.resources import files


def test_leaflet_is_as_published() -> None:
    folder = files("spectralgpt.viewer") / "static" / "leaflet"
    sums = (folder / "SHA256SUMS").read_text().split("\n")
    named = dict(reversed(line.split()) for line in sums if line)
    assert set(named) == {"leaflet.js", "leaflet.css"}
    for name, digest in named.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert found == digest, name
    assert "BSD 2-Clause License" in (folder / "LICENSE").read_text()
    assert "1.9.4" in (folder / "leaflet.js").read_text()[:200]
