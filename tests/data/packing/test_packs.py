"""A pack gives what the files give, to the bit, and survives what may happen to it."""

import json
import math
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectralgpt.data.crops import CropConfig
from spectralgpt.data.packing import MANIFEST, Pack, verify_pack
from spectralgpt.data.packing.manifest import DTYPES
from spectralgpt.data.packing.reading import Storage
from spectralgpt.data.packing.writing import pack_images
from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.data.sources import Source, find_items, read_source
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    OutputError,
    SpectralGPTError,
)
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.rasters import Window, gdal, read_raster
from tests.raster_files import S2_L2A, write_tiff
from tests.small_disks import small_disk

SIDES = {"B01": 4, "B09": 4} | dict.fromkeys(("B02", "B03", "B04", "B08"), 24)
CHIPS = Source(
    "chips", sensor="sentinel-2-l2a", items="*/*", unit="digital-numbers", offset=0.0
)


def write_patch(folder: Path, seed: int) -> None:
    """Write a patch like those of BigEarthNet: a file a band, some pixels nodata."""
    rng = np.random.default_rng(seed)
    for band in S2_L2A:
        side = SIDES.get(band, 12)
        pixels = rng.integers(300, 4000, (1, side, side), dtype=np.uint16)
        if seed % 2:
            pixels[0, :1, :1] = 0
        write_tiff(folder / f"{folder.name}_{band}.tif", pixels, res=240 / side)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    for seed in range(7):
        write_patch(root / f"tile_{seed % 2}" / f"patch_{seed}", seed)
    return root


@pytest.fixture(scope="module")
def pack(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "pack"
    # About two patches a shard.
    pack_images(CHIPS, patches, folder, shard_mb=0.015)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def copy_of(pack: Path, folder: Path) -> Path:
    folder.mkdir()
    for name, content in files_of(pack).items():
        (folder / name).write_bytes(content)
    return folder


def same_images(found: list, expected: list) -> None:
    assert [item.name for item in found] == [item.name for item in expected]
    for one, two in zip(found, expected, strict=True):
        assert one.bands == two.bands
        assert one.sensor.responses == two.sensor.responses
        for name in ("sensor", "place", "holdout", "weight", "quantification"):
            # Rules for finding an offset do not matter once it is found.
            change = {"baseline": None, "product_name": ""}
            mine, other = getattr(one, name), getattr(two, name)
            assert mine == (replace(other, **change) if name == "sensor" else other)
        first, second = read_raster(one), read_raster(two)
        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(first.valid, second.valid)
        assert (first.crs, first.transform) == (second.crs, second.transform)


def test_pack_holds_the_images_to_the_bit(patches: Path, pack: Path) -> None:
    same_images(find_items([read_source(pack)], "."), find_items([CHIPS], patches))
    manifest, faults = verify_pack(pack)
    assert faults == []
    assert len(manifest.shards) > 2
    assert sorted(files_of(pack)) == sorted(
        [MANIFEST, "images.parquet", *(shard.file for shard in manifest.shards)]
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_samples_are_those_of_the_files(patches: Path, pack: Path, split: str) -> None:
    contract = sensor_preprocessing("sentinel-2-l2a", image_size=16)
    crops = CropConfig(val_share=0.3)
    from_files, from_pack = (
        PretrainingDataset(find_items([source], root), contract, split, crops)
        for source, root in ((CHIPS, patches), (read_source(str(pack)), "."))
    )
    assert len(from_files) == len(from_pack) > 0
    # As loader processes that are spawned get it.
    from_pack = pickle.loads(pickle.dumps(from_pack))
    for index in range(len(from_files)):
        one, two = from_files[index], from_pack[index]
        for key in one:
            assert torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key]))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    shapes=st.lists(st.tuples(*[st.integers(1, 20)] * 2), min_size=1, max_size=4),
    dtype=st.sampled_from([name for name in DTYPES if "64" not in name] + ["float64"]),
    shard_kb=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_any_numbers_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[tuple[int, int]],
    dtype: str,
    shard_kb: int,
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("any")
    rng = np.random.default_rng(seed)
    written = []
    for number, shape in enumerate(shapes):
        raw = rng.bytes(2 * math.prod(shape) * np.dtype(dtype).itemsize)
        # Any bits at all, NaN and infinity among them.
        written.append(np.frombuffer(raw, dtype).reshape(2, *shape))
        path = root / "in" / f"{number}.tif"
        write_tiff(path, written[-1], descriptions=["B04", "B08"])
    source = Source("any", sensor="sentinel-2-l2a", offset=0.0, unit="reflectance")
    pack_images(source, root / "in", root / "out", shard_kb / 1024)
    items = Pack(root / "out").items()
    for item, numbers in zip(items, written, strict=True):
        whole = Window(0, 0, *numbers.shape[1:])
        for index, band in enumerate(("B04", "B08")):
            file = item.files[band]
            assert file.store is not None
            found = file.store.read([file.index], whole)[0]
            assert found.dtype == dtype
            assert found.tobytes() == numbers[index].tobytes()


def test_pack_of_a_pack_is_the_same(pack: Path, tmp_path: Path) -> None:
    source = read_source(pack)
    pack_images(source, ".", tmp_path / "again", shard_mb=0.015)
    assert files_of(tmp_path / "again") == files_of(pack)


def test_a_pack_that_a_disk_does_not_hold_goes_on(
    patches: Path, pack: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 32) as disk:
        wanted = r"cannot write .*disk/out.* Make room .*goes on with what is done\.$"
        with pytest.raises(OutputError, match=wanted):
            pack_images(CHIPS, patches, disk / "out", 0.015)
        assert not (disk / "out" / MANIFEST).exists()
        shutil.copytree(disk / "out", tmp_path / "out")
    pack_images(CHIPS, patches, tmp_path / "out", 0.015)
    assert [item.name for item in Pack(tmp_path / "out").items()] == [
        item.name for item in Pack(pack).items()
    ]


def test_interrupted_packing_goes_on(patches: Path, pack: Path, tmp_path: Path) -> None:
    """Kill the process between two shards, then repeat the call."""
    out = tmp_path / "pack"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.data.packing.test_packs import CHIPS, pack_images\n"
        "def wait(done, total):\n"
        "    if done == 5: print('five', flush=True); time.sleep(600)\n"
        "pack_images(CHIPS, sys.argv[1], Path(sys.argv[2]), 0.015,"
        " report=wait)\n"
    )
    words = [sys.executable, "-c", code, str(patches), str(out)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path_of_tests()}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"five\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (out / MANIFEST).exists()
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        Pack(out)
    done = [path for path in out.glob("shard-*.safetensors")]
    times = {path: path.stat().st_mtime_ns for path in done}
    assert done
    # What a kill in the middle of a write leaves behind.
    (out / ".shard-00002.safetensors.partial").write_bytes(b"half")
    other = replace(CHIPS, items="tile_0/*")
    with pytest.raises(ConfigError, match="beginning of a pack of other images"):
        pack_images(other, patches, out, 0.015)
    time.sleep(0.01)
    pack_images(CHIPS, patches, out, 0.015)
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert files_of(out) == files_of(pack)


def path_of_tests() -> str:
    return os.pathsep.join(entry for entry in (os.getcwd(), *sys.path) if entry)


def test_finished_packs_and_other_folders_are_not_touched(
    patches: Path, pack: Path, tmp_path: Path
) -> None:
    own = copy_of(pack, tmp_path / "own")
    with pytest.raises(ConfigError, match=r"holds a pack already.*--overwrite"):
        pack_images(CHIPS, patches, own)
    pack_images(CHIPS, patches, own, overwrite=True)
    assert len(verify_pack(own)[0].shards) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is not empty and holds no pack"):
            pack_images(CHIPS, patches, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "words"


def test_bad_images_are_left_out_or_refused(tmp_path: Path) -> None:
    for seed in range(4):
        write_patch(tmp_path / "in" / "tile" / f"patch_{seed}", seed)
    path = tmp_path / "in" / "tile" / "patch_2" / "patch_2_B02.tif"
    noise = np.random.default_rng(9).integers(300, 4000, (1, 24, 24), dtype=np.uint16)
    write_tiff(path, noise, compress="deflate")
    with rasterio.open(path) as dataset:
        at = int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[at : at + 100] = b"\xff" * 100
    path.write_bytes(content)
    made = pack_images(CHIPS, tmp_path / "in", tmp_path / "a", 1, 1, 0.3)
    names = [item.name for item in Pack(tmp_path / "a").items()]
    assert names == [f"chips/tile/patch_{n}" for n in (0, 1, 3)]
    assert len(made.left_out) == 1
    assert "patch_2_B02.tif" in made.left_out[0]
    with pytest.raises(DataError, match=r"More than the share of 0\.1"):
        pack_images(CHIPS, tmp_path / "in", tmp_path / "b")
    assert not (tmp_path / "b" / MANIFEST).exists()


def test_truncated_shard_is_one_clear_line_on_opening(
    pack: Path, tmp_path: Path
) -> None:
    own = copy_of(pack, tmp_path / "own")
    shard = own / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-00001.* truncated or changed"):
        Pack(own)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00001.* is missing"):
        Pack(own)


@pytest.mark.parametrize("file", ["shard-00001.safetensors", "images.parquet"])
def test_a_flipped_bit_is_found(pack: Path, tmp_path: Path, file: str) -> None:
    own = copy_of(pack, tmp_path / "own")
    content = bytearray((own / file).read_bytes())
    content[len(content) // 2] ^= 1
    (own / file).write_bytes(content)
    _, faults = verify_pack(own)
    assert len(faults) == 1
    assert f"{file} is corrupt: its checksum is not the one" in faults[0]


def test_broken_header_of_a_shard_is_a_bad_image(pack: Path, tmp_path: Path) -> None:
    own = copy_of(pack, tmp_path / "own")
    shard = own / "shard-00000.safetensors"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    first = Pack(own).items()[0]
    with pytest.raises(SpectralGPTError, match=r"shard-00000\.safetensors is corrupt"):
        read_raster(first)


@pytest.mark.parametrize(
    "name",
    ["../secret.bin", "/etc/passwd", "..", "a/b.bin", "s3://bucket/x.bin", "a\\b.c"],
)
def test_no_path_of_a_manifest_is_followed(
    pack: Path, tmp_path: Path, name: str
) -> None:
    own = copy_of(pack, tmp_path / "own")
    table = json.loads((own / MANIFEST).read_text())
    # Whoever means harm leaves out the checksum, or writes a fitting one.
    del table["sha256"]
    for change in (table["shards"][0], table["index"]):
        before = change["file"]
        change["file"] = name
        (own / MANIFEST).write_text(json.dumps(table))
        with pytest.raises(DataError, match="is no name of a file in a pack's folder"):
            Pack(own)
        change["file"] = before


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("format", "other", "this is no pack"),
        ("version", 99, "another version"),
        ("images", 3, "7 rows for 3 images"),
        ("layouts", [], "a layout or shard that there is not"),
        ("sensors", {}, "no sound manifest"),
        ("extra", 1, "unknown key 'extra'"),
    ],
)
def test_manifest_is_read_strictly(
    pack: Path, tmp_path: Path, key: str, value: object, says: str
) -> None:
    own = copy_of(pack, tmp_path / "own")
    table = json.loads((own / MANIFEST).read_text()) | {key: value}
    del table["sha256"]
    (own / MANIFEST).write_text(json.dumps(table))
    with pytest.raises(DataError, match=says):
        Pack(own)


def test_a_changed_number_of_a_manifest_is_found(pack: Path, tmp_path: Path) -> None:
    own = copy_of(pack, tmp_path / "own")
    text = (own / MANIFEST).read_text()
    changed = text.replace('"quantification": 10000.0', '"quantification": 10001.0')
    assert changed != text
    (own / MANIFEST).write_text(changed)
    with pytest.raises(DataError, match="its checksum is not the one that was written"):
        Pack(own)


def test_pack_from_before_checksums_of_manifests_opens(
    pack: Path, tmp_path: Path
) -> None:
    own = copy_of(pack, tmp_path / "own")
    table = json.loads((own / MANIFEST).read_text())
    del table["sha256"]
    (own / MANIFEST).write_text(json.dumps(table))
    same_images(Pack(own).items(), Pack(pack).items())


def test_pack_is_read_from_object_storage(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for name, content in files_of(pack).items():
        system.pipe_file(f"/bucket/pack/{name}", content)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = read_source("memory://bucket/pack")
    same_images(find_items([source], "."), Pack(pack).items())
    cached = list((tmp_path / "spectralgpt" / "packs").iterdir())
    assert len(cached) == len(verify_pack(pack)[0].shards)
    for path in cached:
        path.unlink()
    bad = files_of(pack)["shard-00000.safetensors"][:-1] + b"?"
    system.pipe_file("/bucket/pack/shard-00000.safetensors", bad)
    first = find_items([source], ".")[0]
    with pytest.raises(SpectralGPTError, match="is corrupt: its checksum"):
        read_raster(first)
    assert list((tmp_path / "spectralgpt" / "packs").iterdir()) == []


def test_a_server_that_says_nothing_is_given_up_and_named(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdal, "NO_ANSWER_S", 1)
    shard = Storage(pack).manifest().shards[0]
    # The system takes calls that nobody answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        remote = Storage(f"{server}/pack", tmp_path / "cache")
        start = time.monotonic()
        for ask in (lambda: Pack(f"{server}/pack"), lambda: remote.fetch(shard)):
            with pytest.raises(DataError, match=f"{server} did not answer within 1 s"):
                ask()
    assert time.monotonic() - start < 10
    assert not list(tmp_path.rglob("*.*"))


def test_pack_keeps_what_masks_of_files_hide(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(300, 4000, (4, 12, 12), np.uint16)
    names = ("B02", "B03", "B04", "B08")
    path = write_tiff(tmp_path / "images" / "a.tif", numbers, descriptions=names)
    mask = np.full((12, 12), 255, np.uint8)
    mask[:5] = 0
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    source = replace(CHIPS, items="*.tif")
    pack_images(source, tmp_path / "images", tmp_path / "pack")
    found = find_items([read_source(tmp_path / "pack")], ".")
    assert not read_raster(found[0]).valid[:, :5].any()
    same_images(found, find_items([source], tmp_path / "images"))
