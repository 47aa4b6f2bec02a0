"""What a job has made: a manifest with a line a scene, and a STAC item collection."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectralgpt.atomic_files import replace_file
from spectralgpt.jobs.records import RecordFolder, SceneRecord

__all__ = ["MANIFEST", "write_items", "write_manifest"]

MANIFEST = "manifest.jsonl"
_ITEMS = "items.json"


def write_manifest(output: Path) -> list[SceneRecord]:
    """Write manifest.jsonl: a line for each scene that the folder knows, by id.

    Returns:
        The lines.

    Raises:
        OSError: it cannot be written.
    """
    records = RecordFolder(output).read_all()
    text = "".join(record.to_line() + "\n" for record in records)
    replace_file(
        output / MANIFEST, lambda path: path.write_text(text, encoding="utf-8")
    )
    return records


def write_items(output: Path, records: Sequence[SceneRecord]) -> int:
    """Write items.json, a STAC item collection of the scenes that are done.

    Scenes without a georeference or a day have no STAC item, and are left out.

    Returns:
        How many there are.

    Raises:
        OSError: it cannot be written.
    """
    items = [
        _read_item(output / name)
        for record in records
        if record.status == "done"
        for name in record.outputs
        if name.endswith(".json")
    ]
    collection = {"type": "FeatureCollection", "features": items}
    text = json.dumps(collection, ensure_ascii=False) + "\n"
    replace_file(output / _ITEMS, lambda path: path.write_text(text, encoding="utf-8"))
    return len(items)


def _read_item(path: Path) -> dict[str, Any]:
    """Read an item that a scene's work wrote, with addresses from one folder above."""
    item: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for asset in item["assets"].values():
        asset["href"] = f"./{path.parent.name}/{asset['href'].removeprefix('./')}"
    return item
