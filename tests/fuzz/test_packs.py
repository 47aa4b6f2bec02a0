"""Damaged packs: one short error, or the images as they are."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.data.packing import MANIFEST, Pack, verify_pack
from spectralgpt.data.packing.manifest import INDEX
from spectralgpt.data.packing.writing import pack_images
from spectralgpt.data.sources import Source
from spectralgpt.errors import SpectralGPTError
from spectralgpt.rasters import read_raster
from tests.fuzz.mutate import bounded, mutate_bytes, mutate_value, refusal, rounds
from tests.raster_files import S2_L2A, write_tiff

CHIPS = Source(
    "chips",
    sensor="sentinel-2-l2a",
    items="*/*",
    unit="digital-numbers",
    offset=0.0,
)
VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2, 1.5, 10**9, 10**18, 10**300, float("nan")),
    *("", "x", "nan", "../x.bin", "\x00", "é" * 1000, [], {}, [[]], [None], {"a": 1}),
    *("uint8", "float64", "B02", "sentinel-2-l1c", "reflectance", "0" * 64),
]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        folder = root / "tile" / f"patch_{seed}"
        for band in S2_L2A:
            side = 24 if band in ("B02", "B03", "B04", "B08") else 12
            pixels = rng.integers(300, 4000, (1, side, side), dtype=np.uint16)
            write_tiff(folder / f"{folder.name}_{band}.tif", pixels, res=240 / side)
    folder = tmp_path_factory.mktemp("packs") / "pack"
    pack_images(CHIPS, root, folder)
    return folder


def copy_of(pack: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in pack.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def try_pack(folder: Path) -> list[np.ndarray] | None:
    """Read all of a pack, as training does; None where that was refused."""
    try:
        opened = Pack(folder)
        items = opened.items()
        if opened.manifest.series is not None:
            opened.series()
        return [read_raster(item).pixels for item in items]
    except SpectralGPTError as error:
        refusal(error)
        return None


def write_manifest(folder: Path, table: dict[str, Any], keep_digest: bool) -> None:
    """Write a manifest; without its checksum, what it says is all that speaks."""
    if not keep_digest:
        table = {name: value for name, value in table.items() if name != "sha256"}
    (folder / MANIFEST).write_text(json.dumps(table))


def test_damaged_manifests_are_found(pack: Path, tmp_path: Path) -> None:
    own = copy_of(pack, tmp_path / "own")
    text = (pack / MANIFEST).read_bytes()
    whole = try_pack(pack)
    assert whole is not None
    for seed in rounds():
        (own / MANIFEST).write_bytes(mutate_bytes(text, seed))
        with bounded():
            found = try_pack(own)
        if found is not None:
            # Damage to blank space; all else is found by the checksum.
            for one, two in zip(found, whole, strict=True):
                np.testing.assert_array_equal(one, two)


def test_hostile_manifests(pack: Path, tmp_path: Path) -> None:
    own = copy_of(pack, tmp_path / "own")
    table = json.loads((pack / MANIFEST).read_text())
    for seed in rounds():
        damaged = mutate_value(table, seed, VALUES)
        write_manifest(own, damaged, keep_digest=False)
        with bounded():
            try_pack(own)


def set_file(table: dict[str, Any], name: str, content: bytes) -> None:
    """Give a manifest the size and checksum of other content."""
    for file in (table["index"], *table["shards"]):
        if file["file"] == name:
            file["bytes"] = len(content)
            file["sha256"] = hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["table", "shard"])
def test_hostile_files(kind: str, pack: Path, tmp_path: Path) -> None:
    own = copy_of(pack, tmp_path / "own")
    table = json.loads((pack / MANIFEST).read_text())
    name = INDEX if kind == "table" else table["shards"][0]["file"]
    content = (pack / name).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    within = () if kind == "table" else (header,)
    for seed in rounds():
        damaged = mutate_bytes(content, seed, *within)
        (own / name).write_bytes(damaged)
        if not damaged:
            continue
        set_file(table, name, damaged)
        write_manifest(own, table, keep_digest=False)
        with bounded():
            try_pack(own)


def test_damaged_files_are_named_by_the_check(pack: Path, tmp_path: Path) -> None:
    own = copy_of(pack, tmp_path / "own")
    names = sorted(path.name for path in pack.iterdir() if path.name != MANIFEST)
    for seed in rounds():
        name = names[seed % len(names)]
        content = (pack / name).read_bytes()
        damaged = mutate_bytes(content, seed)
        (own / name).write_bytes(damaged)
        with bounded():
            _, faults = verify_pack(own)
        (own / name).write_bytes(content)
        assert damaged == content or (len(faults) == 1 and name in faults[0])
