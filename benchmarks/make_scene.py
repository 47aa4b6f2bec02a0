"""Make a Sentinel-2 scene of any size by tiling a small one, to measure whole scenes.

    python benchmarks/make_scene.py SOURCE --format safe --size 10980 --output FOLDER

SOURCE is any scene that the package reads as Sentinel-2 level 2A. Each band is written
in its own resolution: a SAFE folder of JPEG 2000 files like those of ESA (tiles of
1024 px, reversible), or one Cloud-Optimized GeoTIFF at 10 m. Every other copy is
mirrored, so that no edges appear. Memory holds some rows of one band, at any size.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window

from spectralgpt.rasters import RasterFile, describe_raster, open_scene

BASELINE = "05.11"
OFFSET = -1000
QUANTIFICATION = 10000
NAME = "S2B_MSIL2A_20240223T032739_N0511_R018_T48QUE_20240223T060000"
_ROWS = 1024
_FINEST_M = 10
_LEFT, _TOP, _CRS = 600_000.0, 4_900_020.0, "EPSG:32648"
_METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/x.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2024-02-23T03:27:39.024Z</PRODUCT_START_TIME>
<PRODUCT_URI>{name}.SAFE</PRODUCT_URI>
<PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<Product_Organisation><Granule_List><Granule imageFormat="JPEG2000">
{images}
</Granule></Granule_List></Product_Organisation></Product_Info>
<Product_Image_Characteristics>
<QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">{quantification}</BOA_QUANTIFICATION_VALUE>
</QUANTIFICATION_VALUES_LIST>
<BOA_ADD_OFFSET_VALUES_LIST>
{offsets}
</BOA_ADD_OFFSET_VALUES_LIST>
</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>
"""

Numbers = NDArray[np.uint16]


def main(arguments: Sequence[str] | None = None) -> Path:
    """Make the scene that the arguments say; prints and returns its path."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--format", choices=("safe", "cog"), default="safe")
    parser.add_argument("--size", type=int, default=10980, help="side at 10 m, px")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    item = describe_raster(args.source, sensor="sentinel-2-l2a")
    write = write_safe if args.format == "safe" else write_cog
    path = write(item, args.size, args.output)
    print(path)
    return path


def write_safe(item: RasterFile, size: int, folder: Path) -> Path:
    """Write a SAFE folder with the layout and names of ESA's; returns it."""
    product = folder / f"{NAME}.SAFE"
    granule = "L2A_T48QUE_A036400_20240223T033612"
    images = product / "GRANULE" / granule / "IMG_DATA"
    names = []
    for band in item.bands:
        gsd_m = int(band.gsd_m)
        name = f"T48QUE_20240223T032739_{band.name}_{gsd_m}m"
        target = images / f"R{gsd_m}m" / f"{name}.jp2"
        target.parent.mkdir(parents=True, exist_ok=True)
        side = size * _FINEST_M // gsd_m
        _write_jp2(target, item, band.name, side, gsd_m)
        names.append(f"GRANULE/{granule}/IMG_DATA/R{gsd_m}m/{name}")
    rows = "\n".join(f"<IMAGE_FILE>{name}</IMAGE_FILE>" for name in names)
    offsets = "\n".join(
        f'<BOA_ADD_OFFSET band_id="{i}">{OFFSET}</BOA_ADD_OFFSET>' for i in range(13)
    )
    text = _METADATA.format(
        name=NAME,
        baseline=BASELINE,
        images=rows,
        quantification=QUANTIFICATION,
        offsets=offsets,
    )
    (product / "MTD_MSIL2A.xml").write_text(text, encoding="utf-8")
    return product


def write_cog(item: RasterFile, size: int, folder: Path) -> Path:
    """Write all bands at 10 m as one Cloud-Optimized GeoTIFF; returns it."""
    target = folder / f"{NAME}.tif"
    bands = item.bands
    with (
        tempfile.TemporaryDirectory(dir=folder) as temporary,
        open_scene(item, bands) as scene,
    ):
        raster = scene.read()
        tile = _to_numbers(raster.pixels, raster.valid)
        plain = Path(temporary) / "plain.tif"
        profile = _profile("GTiff", size, _FINEST_M, len(bands))
        profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
        profile |= {"compress": "zstd", "bigtiff": "yes", "interleave": "band"}
        with rasterio.open(plain, "w", **profile) as dataset:
            dataset.descriptions = [band.name for band in bands]
            for i, layer in enumerate(tile, start=1):
                for top in range(0, size, _ROWS):
                    rows = _rows_of(layer, top, min(_ROWS, size - top), size)
                    dataset.write(rows, i, window=Window(0, top, size, len(rows)))
        options = {"COMPRESS": "ZSTD", "BIGTIFF": "YES", "INTERLEAVE": "BAND"}
        copy_raster(plain, target, driver="COG", **options)
    return target


def _write_jp2(
    target: Path, item: RasterFile, band: str, side: int, gsd_m: float
) -> None:
    """Write one band; JPEG 2000 is written from a whole file, so by way of a TIFF."""
    chosen = [known for known in item.bands if known.name == band]
    with open_scene(item, chosen) as scene:
        raster = scene.read()
    tile = _to_numbers(raster.pixels[0], raster.valid[0])
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        plain = Path(temporary) / "plain.tif"
        profile = _profile("GTiff", side, gsd_m, 1) | {"tiled": True}
        with rasterio.open(plain, "w", **profile) as dataset:
            for top in range(0, side, _ROWS):
                rows = _rows_of(tile, top, min(_ROWS, side - top), side)
                dataset.write(rows, 1, window=Window(0, top, side, len(rows)))
        options = {"QUALITY": "100", "REVERSIBLE": "YES", "YCBCR420": "NO"}
        options |= {"BLOCKXSIZE": "1024", "BLOCKYSIZE": "1024", "NBITS": "15"}
        copy_raster(plain, target, driver="JP2OpenJPEG", **options)
    target.with_name(f"{target.name}.aux.xml").unlink(missing_ok=True)


def _profile(driver: str, side: int, gsd_m: float, count: int) -> dict[str, Any]:
    return {
        "driver": driver,
        "height": side,
        "width": side,
        "count": count,
        "dtype": "uint16",
        "crs": _CRS,
        "transform": Affine(gsd_m, 0, _LEFT, 0, -gsd_m, _TOP),
        "nodata": 0 if count > 1 else None,
    }


def _to_numbers(reflectance: NDArray[Any], valid: NDArray[Any]) -> Numbers:
    """Digital numbers with the offset of today's baselines; 0 is no measurement."""
    numbers = np.rint(reflectance * QUANTIFICATION) - OFFSET
    return np.where(valid, np.clip(numbers, 1, 2**15 - 1), 0).astype(np.uint16)


def _rows_of(tile: Numbers, top: int, count: int, width: int) -> Numbers:
    """Rows of the endless plane of mirrored copies of a tile, (count, width)."""
    rows = _mirrored(np.arange(top, top + count), tile.shape[0])
    columns = _mirrored(np.arange(width), tile.shape[1])
    return tile[rows[:, None], columns]


def _mirrored(positions: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    within = positions % (2 * size)
    return np.where(within < size, within, 2 * size - 1 - within)


if __name__ == "__main__":
    main()
