"""Which library holds packs: size, time to write, and time to read by index.

    python benchmarks/pack_formats.py --patches FOLDER --json FILE

Patches as in `packed_loading.py`, three arrays each (bands of 10, 20 and 60 m). Each
library is used as its documentation says for numbers as they are; those that are not
installed are left out. Only `safetensors` is a dependency of the package.
"""

import argparse
import importlib.util
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spectralgpt.data.packing import Pack
from spectralgpt.data.packing.writing import pack_images
from spectralgpt.data.sources import read_source
from spectralgpt.rasters import Window

Arrays = tuple[np.ndarray, ...]
Reader = Callable[[int], Arrays]


def load(patches: Path, count: int) -> list[Arrays]:
    """Read patches, and change each copy so that no two are the same."""
    with tempfile.TemporaryDirectory() as folder:
        source = read_source("archive:bigearthnet-v1")
        pack_images(source, patches, Path(folder) / "pack")
        found = []
        for item in Pack(Path(folder) / "pack").items():
            stores = {file.store: file.grid for file in item.files.values()}
            whole = [Window(0, 0, g.height, g.width) for g in stores.values()]
            bands = [
                sum(f.store is store for f in item.files.values()) for store in stores
            ]
            found.append(
                tuple(
                    store.read(range(1, count + 1), window)
                    for store, window, count in zip(stores, whole, bands, strict=True)
                )
            )
    return [
        tuple(array + np.uint16(number // len(found)) for array in patch)
        for number in range(count)
        for patch in [found[number % len(found)]]
    ]


def with_safetensors(patches: list[Arrays], folder: Path) -> Reader:
    """Arrays of one shape stacked, memory-mapped."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    stacks = {
        str(i): np.stack(arrays) for i, arrays in enumerate(zip(*patches, strict=True))
    }
    save_file(stacks, str(folder / "shard.safetensors"))
    opened = safe_open(str(folder / "shard.safetensors"), framework="numpy")
    slices = [opened.get_slice(name) for name in stacks]
    return lambda i: tuple(one[i] for one in slices)


def with_lmdb(patches: list[Arrays], folder: Path) -> Reader:
    """One value a patch: the bytes of its arrays."""
    import lmdb

    env = lmdb.open(str(folder / "lmdb"), map_size=2**33)
    with env.begin(write=True) as transaction:
        for i, arrays in enumerate(patches):
            value = b"".join(array.tobytes() for array in arrays)
            transaction.put(b"%08d" % i, value)
    env.close()
    env = lmdb.open(str(folder / "lmdb"), readonly=True, lock=False)
    shapes = [array.shape for array in patches[0]]

    def read(i: int) -> Arrays:
        with env.begin(buffers=True) as transaction:
            flat = np.frombuffer(transaction.get(b"%08d" % i), np.uint16).copy()
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        parts = np.split(flat, ends[:-1])
        return tuple(p.reshape(s) for p, s in zip(parts, shapes, strict=True))

    return read


def with_zarr(patches: list[Arrays], folder: Path) -> Reader:
    """Sharded arrays, a chunk a patch, no compression."""
    import zarr

    group = zarr.open_group(folder / "zarr", mode="w")
    stacks = [np.stack(arrays) for arrays in zip(*patches, strict=True)]
    opened = []
    for number, stack in enumerate(stacks):
        chunk = (1, *stack.shape[1:])
        array = group.create_array(
            str(number), shape=stack.shape, dtype=stack.dtype, chunks=chunk,
            shards=stack.shape, compressors=None,
        )  # fmt: skip
        array[:] = stack
        opened.append(array)
    return lambda i: tuple(np.asarray(one[i]) for one in opened)


def with_litdata(patches: list[Arrays], folder: Path) -> Reader:
    """Chunks of 64 MB, read by index."""
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="64MB")
    for i, arrays in enumerate(patches):
        writer.add_item(i, dict(enumerate_names(arrays)))
    writer.done()
    writer.merge()
    dataset = StreamingDataset(str(folder / "litdata"))
    return lambda i: tuple(dataset[i].values())


def enumerate_names(arrays: Arrays) -> list[tuple[str, np.ndarray]]:
    """Name arrays by number."""
    return [(str(number), array) for number, array in enumerate(arrays)]


def with_webdataset(patches: list[Arrays], folder: Path) -> Reader:
    """A tar file, read from the front: it has no index, so in order only."""
    import webdataset

    path = folder / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for i, arrays in enumerate(patches):
            stream = io.BytesIO()
            np.savez(stream, **dict(enumerate_names(arrays)))
            entry = tarfile.TarInfo(f"{i:08}.npz")
            entry.size = stream.tell()
            stream.seek(0)
            tar.addfile(entry, stream)

    def samples() -> object:
        while True:
            yield from webdataset.WebDataset(str(path), shardshuffle=False).decode()

    stream = samples()
    return lambda i: tuple(dict(next(stream)["npz"]).values())


WAYS = {
    "safetensors": with_safetensors,
    "lmdb": with_lmdb,
    "zarr": with_zarr,
    "litdata": with_litdata,
    "webdataset": with_webdataset,
}


def measure(patches: list[Arrays], rounds: int, each: int) -> dict:
    """Write with each library, then read in turns."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        readers, result = {}, {}
        for name, way in WAYS.items():
            if importlib.util.find_spec(name) is None:
                continue
            folder = Path(root) / name
            folder.mkdir()
            start = time.process_time()
            readers[name] = way(patches, folder)
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            result[name] = {"write_s": time.process_time() - start, "mb": size / 1e6}
        taken: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(rounds):
            for name, read in readers.items():
                drawn = rng.integers(len(patches), size=each).tolist()
                start = time.process_time()
                arrays = [read(i) for i in drawn]
                taken[name].append((time.process_time() - start) / each)
                if name != "webdataset":
                    for one, two in zip(arrays[0], patches[drawn[0]], strict=True):
                        np.testing.assert_array_equal(one, two)
        for name, times in taken.items():
            result[name]["read_us"] = 1e6 * statistics.median(times)
    return result


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    text = json.dumps(measure(load(args.patches, args.count), 7, 60), indent=1)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
