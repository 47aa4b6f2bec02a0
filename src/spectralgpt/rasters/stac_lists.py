"""STAC files that name many items: collections and catalogs of links, item collections.

Links are followed to local files in the first file's own folder or below, and nowhere
else. An item of a collection in one file is named FILE/ID, as members of archives are.

Source: STAC specification 1.0 and 1.1; item collections are feature collections.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from spectralgpt.errors import RasterError
from spectralgpt.files import parse_json
from spectralgpt.rasters.archives import check_text
from spectralgpt.rasters.folders import is_path

__all__ = [
    "STAC_SUFFIXES",
    "features_of",
    "is_stac_member",
    "list_stac_items",
    "read_json",
    "split_address",
]

STAC_SUFFIXES = (".json", ".geojson")
_MOST_BYTES = 2**26


def is_stac_member(path: Path) -> bool:
    """Whether a path names an item of a collection in one file, as FILE/ID."""
    return path.parent.suffix.lower() in STAC_SUFFIXES and path.parent.is_file()


def list_stac_items(path: Path) -> list[Path]:
    """List the items that a STAC file names: itself, its features, or its links.

    Args:
        path: an item, an item collection, or a collection or catalog whose links of
            kinds `item` and `child` lead to local files.

    Returns:
        Files of items, and FILE/ID for the items of a collection in one file. They need
        not be there.

    Raises:
        RasterError: it is none of these, a link leads to a place that is not allowed,
            or two items of a file share an id.
    """
    root = path.absolute().parent.resolve()
    found: list[Path] = []
    # Files to open, each once; in the order of the links.
    waiting, seen = [path], {path.absolute().resolve()}
    while waiting:
        items, children = _open(waiting.pop(0), root)
        found += items
        for child in children:
            if child.resolve() not in seen:
                seen.add(child.resolve())
                waiting.append(child)
    if not found:
        raise RasterError(f"{path} names no items: it has neither features nor links.")
    return list(dict.fromkeys(found))


def features_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the features of an item collection; none of anything else."""
    return _tables(document.get("features"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        RasterError: it cannot be read, is too large, or holds something else.
    """
    try:
        with path.open("rb") as file:
            text = check_text(str(path), file.read(_MOST_BYTES + 1))
        found = parse_json(text, str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RasterError(f"{path} cannot be read as JSON: {error}.") from None
    return found if isinstance(found, dict) else {}


def split_address(path: Path, href: str) -> SplitResult:
    """Return the parts of an address that a file names.

    Raises:
        RasterError: it is none.
    """
    try:
        return urlsplit(href)
    except ValueError as error:
        raise RasterError(
            f"{path} names '{href}', which is no address: {error}."
        ) from None


def _open(path: Path, root: Path) -> tuple[list[Path], list[Path]]:
    """Return the items that a file names, and its child catalogs."""
    document = read_json(path)
    kind = document.get("type")
    if kind == "Feature":
        return [path], []
    if kind == "FeatureCollection":
        return _members(path, document), []
    if kind in ("Collection", "Catalog"):
        links = _tables(document.get("links"))
        hrefs = {
            rel: [str(link.get("href", "")) for link in links if link.get("rel") == rel]
            for rel in ("item", "child")
        }
        items, children = (
            [_follow(path, href, root) for href in hrefs[rel]] for rel in hrefs
        )
        return items, children
    raise RasterError(
        f"{path} is neither a STAC item nor a collection of items (its type: {kind!r})."
    )


def _members(path: Path, document: Mapping[str, Any]) -> list[Path]:
    names = [str(feature.get("id") or "") for feature in features_of(document)]
    for name in names:
        if not name or name in (".", "..") or "/" in name or not is_path(name):
            raise RasterError(f"{path} has an item whose id is no name: {name!r}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RasterError(f"{path} has two items with the id {twice!r}.")
    return [path / name for name in names]


def _follow(path: Path, href: str, root: Path) -> Path:
    parts = split_address(path, href)
    if parts.scheme or not href or not is_path(unquote(parts.path)):
        raise RasterError(
            f"{path} links to '{href}': only files beside it are followed. Fetch the "
            "items, or save them as one item collection."
        )
    target = path.parent / unquote(parts.path)
    if not target.absolute().resolve().is_relative_to(root):
        raise RasterError(
            f"{path} links to '{href}', which leads out of the folder {root}."
        )
    return target


def _tables(value: Any) -> list[dict[str, Any]]:
    rows = value if isinstance(value, list) else []
    return [row for row in rows if isinstance(row, dict)]
