"""What a job has made: a manifest with a line a scene, and a STAC item collection."""

import json
import logging
from pathlib import Path
from typing import Any

from spectralgpt.atomic_files import replace_file
from spectralgpt.errors import DataError
from spectralgpt.jobs.records import RecordFolder
from spectralgpt.json_files import read_json

__all__ = ["MANIFEST", "write_items", "write_manifest"]

logger = logging.getLogger(__name__)
MANIFEST = "manifest.jsonl"
_ITEMS = "items.json"


def write_manifest(output: Path) -> None:
    """Write manifest.jsonl: a line for each scene that the folder knows, by id.

    Raises:
        OSError: it cannot be written.
    """
    store = RecordFolder(output)
    # Of several runs none may put back what it read before another one wrote.
    with store.registering():
        lines = [record.to_line() for record in store.read_all()]
        _replace_text(output / MANIFEST, "".join(lines))


def write_items(output: Path) -> int:
    """Write items.json, a STAC item collection of the scenes that are done.

    Scenes without a georeference or a day have no STAC item, and are left out.

    Returns:
        How many there are.

    Raises:
        OSError: it cannot be written.
    """
    store = RecordFolder(output)
    with store.registering():
        paths = [
            output / name
            for record in store.read_all()
            if record.status == "done"
            for name in record.outputs
            if name.endswith(".json")
        ]
        # What someone has deleted is done again by the next run.
        read = (_read_item(path) for path in paths if path.is_file())
        items = [item for item in read if item is not None]
        collection = {"type": "FeatureCollection", "features": items}
        _replace_text(output / _ITEMS, json.dumps(collection, ensure_ascii=False))
    return len(items)


def _replace_text(path: Path, text: str) -> None:
    replace_file(path, lambda made: made.write_text(text, encoding="utf-8"))


def _read_item(path: Path) -> dict[str, Any] | None:
    """Read an item that a scene's work wrote, with addresses from one folder above."""
    try:
        item: dict[str, Any] = read_json(path)
        for asset in item["assets"].values():
            asset["href"] = f"./{path.parent.name}/{asset['href'].removeprefix('./')}"
    except (DataError, KeyError, TypeError, AttributeError):
        logger.warning(
            "%s is damaged, so %s lacks it: delete it and run the job again.",
            path,
            _ITEMS,
        )
        return None
    return item
