"""The files of the page: those that ship with the package, by name, and no others."""

from importlib.resources import files

__all__ = ["PageFiles"]

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class PageFiles:
    """All files of the page, read once."""

    def __init__(self) -> None:
        folders = [files(__package__) / "static"]
        folders.append(folders[0] / "leaflet")
        self._files = {
            file.name: (file.read_bytes(), _TYPES[suffix])
            for folder in folders
            for file in folder.iterdir()
            for suffix in _TYPES
            if file.name.endswith(suffix)
        }

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Return a file's bytes and type, None if there is none of that name."""
        return self._files.get(name)
