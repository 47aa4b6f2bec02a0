"""Damaged rasters and products: one short error, or reflectance of the right shape."""

import json
import os
import random
import re
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.errors import SpectralGPTError
from spectralgpt.rasters import Stated, Window, describe_raster, read_raster
from spectralgpt.rasters import describe as describe_module
from tests.fuzz.mutate import (
    WORDS,
    bounded,
    mutate_bytes,
    mutate_text,
    mutate_value,
    refusal,
    rounds,
)
from tests.product_files import mtl, write_landsat, write_safe, zip_folder
from tests.raster_files import write_tiff

BANDS = ("B02", "B03", "B04")
SIDE = 16
MOST_SIDE = 1024
MOST_MEBIBYTES = 1024
VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        10**12,
        "",
        "x",
        "-0.0",
        "nan",
        "inf",
        "1e999",
        "9" * 400,
    ),
    *([], {}, [[]], {"a": 1}, "LANDSAT_9", "L1TP", "2024-13-45", "../../x.TIF", "\0"),
]


def numbers() -> np.ndarray:
    """(bands, SIDE, SIDE) digital numbers with dark pixels."""
    drawn = np.random.default_rng(0)
    return drawn.integers(200, 4000, (len(BANDS), SIDE, SIDE)).astype(np.uint16)


@dataclass(frozen=True)
class Kind:
    """A whole scene and how it is damaged.

    Args:
        scene: what is read.
        file: of the scene, that is damaged.
        damage: takes whole bytes and a seed.
        stated: of the scene, as a user does.
    """

    scene: Path
    file: Path
    damage: Callable[[bytes, int], bytes]
    stated: dict[str, Any]


_VALUE = re.compile(r"""[>="]([^<>="]+)(?=[<"])""")
L2A = {"sensor": "sentinel-2-l2a"}


def by_bytes(content: bytes, seed: int) -> bytes:
    return mutate_bytes(content, seed, 1024)


def by_words(content: bytes, seed: int) -> bytes:
    return mutate_text(content.decode(), seed).encode("utf-8", "surrogatepass")


def by_either(content: bytes, seed: int) -> bytes:
    return (by_bytes if seed % 2 else by_words)(content, seed)


def by_markup(content: bytes, seed: int) -> bytes:
    """Put words in the place of a text or value of XML, one round of two."""
    if seed % 2:
        return by_bytes(content, seed)
    drawn, text = random.Random(seed), content.decode()
    for _ in range(drawn.randint(1, 2)):
        start, end = drawn.choice(list(_VALUE.finditer(text))).span(1)
        text = text[:start] + drawn.choice(WORDS) + text[end:]
    return text.encode("utf-8", "surrogatepass")


def by_values(content: bytes, seed: int) -> bytes:
    return json.dumps(mutate_value(json.loads(content), seed, VALUES)).encode()


def by_header(content: bytes, seed: int) -> bytes:
    """Damage the text of a NumPy header, and state its length rightly, or not."""
    if seed % 3 == 0:
        return mutate_bytes(content, seed, 128)
    end = 10 + int.from_bytes(content[8:10], "little")
    text = mutate_text(content[10:end].decode("latin-1"), seed)
    header = text.encode("latin-1", "replace")[:65_535]
    return content[:8] + len(header).to_bytes(2, "little") + header + content[end:]


def plain_tiff(folder: Path) -> Kind:
    file = write_tiff(folder / "a.tif", numbers(), descriptions=BANDS, nodata=0)
    return Kind(file, file, by_bytes, L2A)


def tiled_tiff(folder: Path) -> Kind:
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16, "BIGTIFF": "YES"}
    file = write_tiff(
        folder / "a.tif",
        (numbers() / 10_000).astype(np.float32),
        descriptions=["490 nm", "560 nm", "665 nm"],
        tags={"SPECTRALGPT_SENSOR": "sentinel-2-l2a"},
        compress="deflate",
        **layout,
    )
    return Kind(file, file, by_bytes, {})


def virtual(folder: Path) -> Kind:
    from rasterio.shutil import copy

    source = write_tiff(folder / "a.tif", numbers(), descriptions=BANDS)
    file = folder / "scene.vrt"
    copy(source, file, driver="VRT")
    return Kind(file, file, by_markup, L2A)


def envi(folder: Path) -> Kind:
    scene = write_tiff(
        folder / "a.bin", numbers(), descriptions=BANDS, driver="ENVI", nodata=0
    )
    return Kind(scene, folder / "a.hdr", by_either, L2A)


def sidecar(folder: Path) -> Kind:
    scene = write_tiff(folder / "a.tif", numbers())
    file = folder / "a.tif.aux.xml"
    bands = "".join(
        f'<PAMRasterBand band="{i}"><Description>{name}</Description><NoDataValue>0'
        "</NoDataValue><Scale>0.0001</Scale><Offset>-0.1</Offset></PAMRasterBand>"
        for i, name in enumerate(BANDS, start=1)
    )
    file.write_text(f"<PAMDataset>{bands}</PAMDataset>", encoding="utf-8")
    return Kind(scene, file, by_markup, L2A)


def metadata_beside(folder: Path) -> Kind:
    scene = write_tiff(folder / "a.tif", numbers(), descriptions=BANDS)
    file = folder / "MTD_MSIL2A.xml"
    file.write_bytes((safe(folder / "whole") / file.name).read_bytes())
    return Kind(scene, file, by_markup, L2A)


def enmap(folder: Path) -> Kind:
    start = "ENMAP01-____L2A-DT0000001049_20220612T105735Z_028_V010303_20230922T1Z"
    scene = write_tiff(folder / f"{start}-SPECTRAL_IMAGE.TIF", numbers())
    file = folder / f"{start}-METADATA.XML"
    rows = "".join(
        f'<bandID number="{i}"><wavelengthCenterOfBand>{centre}'
        "</wavelengthCenterOfBand><GainOfBand>0.0001</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>"
        for i, centre in ((1, 418.24), (2, 424.04), (3, 429.63))
    )
    text = f"<level><startTime>2022-06-12T10:57:35Z</startTime>{rows}</level>"
    file.write_text(text, encoding="utf-8")
    return Kind(scene, file, by_markup, {})


def array(folder: Path) -> Kind:
    file = folder / "a.npy"
    np.save(file, numbers().transpose(1, 2, 0))
    return Kind(file, file, by_header, L2A | {"bands": BANDS})


def safe(folder: Path) -> Path:
    return write_safe(folder, dict(zip(BANDS, numbers(), strict=True)))


def safe_metadata(folder: Path) -> Kind:
    scene = safe(folder)
    return Kind(scene, scene / "MTD_MSIL2A.xml", by_markup, {})


def safe_image(folder: Path) -> Kind:
    scene = safe(folder)
    return Kind(scene, next(scene.rglob("*B03*.jp2")), by_bytes, {})


def safe_zip(folder: Path) -> Kind:
    file = zip_folder(safe(folder / "whole"), folder / "a.zip")
    return Kind(file, file, lambda content, seed: mutate_bytes(content, seed), {})


def landsat_json(folder: Path) -> Kind:
    scene = write_landsat(folder, mtl())
    return Kind(scene, next(scene.glob("*_MTL.json")), by_values, {})


def landsat_text(folder: Path) -> Kind:
    scene = write_landsat(folder, mtl("L1TP"), is_json=False)
    return Kind(scene, next(scene.glob("*_MTL.txt")), by_either, {})


def try_scene(scene: Path, stated: dict[str, Any]) -> bool:
    """Read a scene as commands do; whether it was refused."""
    try:
        item = describe_raster(scene, stated=Stated(**stated))
        bands = item.require(None)
        grid = item.grid(bands)
        # As commands read scenes whose headers say that they are large.
        size = min(grid.height, MOST_SIDE), min(grid.width, MOST_SIDE)
        raster = read_raster(item, bands, Window(0, 0, *size))
    except SpectralGPTError as error:
        refusal(error)
        return True
    assert raster.pixels.shape == raster.valid.shape == (len(bands), *size)
    assert np.isfinite(raster.pixels).all()
    return False


def try_size(file: Path) -> None:
    """Read the size of a raster from its first bytes, as archives are listed."""
    try:
        size = describe_module._read_size(file)
    except SpectralGPTError as error:
        refusal(error)
    else:
        assert min(size) > 0


KINDS = (
    *(plain_tiff, tiled_tiff, sidecar, virtual, envi, array, metadata_beside),
    *(safe_metadata, safe_image, safe_zip, landsat_json, landsat_text, enmap),
)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_damaged_scenes(make: Callable[[Path], Kind], tmp_path: Path) -> None:
    kind = make(tmp_path)
    whole = kind.file.read_bytes()
    assert not try_scene(kind.scene, kind.stated)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in rounds():
        kind.file.write_bytes(kind.damage(whole, seed))
        # What GDAL keeps of an archive goes by this.
        os.utime(kind.file, (seed, seed))
        with bounded():
            try_scene(kind.scene, kind.stated)
            if kind.scene == kind.file and kind.file.suffix != ".zip":
                try_size(kind.file)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) / 1024 < MOST_MEBIBYTES
