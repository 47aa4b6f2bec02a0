"""Small products as the agencies publish them: names, layout and metadata of each."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.raster_files import write_tiff

SAFE = "S2B_MSIL2A_20240223T032739_N0511_R018_T48QUE_20240223T060000.SAFE"
LANDSAT = "LC08_L2SP_012030_20200714_20200912_02_T1"
GRANULE = "GRANULE/L2A_T48QUE_A036400_20240223T033612"
GSD_M = {"B01": 60, "B05": 20, "B06": 20, "B07": 20, "B8A": 20, "B09": 60}
GSD_M |= {"B11": 20, "B12": 20, "B10": 60}

_SAFE = """<?xml version="1.0" encoding="UTF-8"?>
<n1:User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2024-02-23T03:27:39.024Z</PRODUCT_START_TIME>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<Product_Organisation><Granule_List><Granule>{images}</Granule></Granule_List>
</Product_Organisation></Product_Info><Product_Image_Characteristics>
<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000
</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>{offsets}
</Product_Image_Characteristics></n1:General_Info><n1:Quality_Indicators_Info>
<Cloud_Coverage_Assessment>{cloud}</Cloud_Coverage_Assessment>
</n1:Quality_Indicators_Info></n1:User_Product>
"""


def write_safe(
    folder: Path,
    bands: Mapping[str, np.ndarray],
    *,
    name: str = SAFE,
    baseline: str = "05.11",
    offset: float | None = -1000,
    cloud: float = 12.5,
    **profile: Any,
) -> Path:
    """Write a level-2A SAFE folder of JPEG 2000 files from digital numbers (H, W).

    Args:
        folder: gets the product.
        bands: numbers of each band in its own resolution.
        name: of the product.
        baseline: as MTD states it.
        offset: BOA_ADD_OFFSET of all bands, None where MTD has none.
        cloud: percent of the scene, as MTD states it.
        profile: of the files, such as crs or corner.
    """
    product = folder / name
    jpeg = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    listed = []
    for band, numbers in bands.items():
        gsd_m = GSD_M.get(band, 10)
        image = f"{GRANULE}/IMG_DATA/R{gsd_m}m/T48QUE_20240223T032739_{band}_{gsd_m}m"
        write_tiff(
            product / f"{image}.jp2",
            numbers[None].astype("uint16"),
            res=gsd_m,
            **(jpeg | profile),
        )
        listed.append(f"<IMAGE_FILE>{image}</IMAGE_FILE>")
    rows = [f'<BOA_ADD_OFFSET band_id="{i}">{offset}</BOA_ADD_OFFSET>' for i in (0, 1)]
    text = _SAFE.format(
        baseline=baseline,
        images="".join(listed),
        offsets="".join(rows) if offset is not None else "",
        cloud=cloud,
    )
    (product / "MTD_MSIL2A.xml").write_text(text, encoding="utf-8")
    return product


def zip_folder(folder: Path, target: Path) -> Path:
    """Zip a product as it is downloaded: with its own folder inside."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent).as_posix())
    return target


def mtl(level: str = "L2SP", gain: float = 2.75e-05, added: float = -0.2) -> dict:
    """The groups of an MTL file that matter, of bands 1 to 7."""
    stem = LANDSAT.replace("L2SP", level)
    kind = "SR_" if level == "L2SP" else ""
    level_1 = {
        **{f"REFLECTANCE_MULT_BAND_{i}": "2.0000E-05" for i in range(1, 8)},
        **{f"REFLECTANCE_ADD_BAND_{i}": "-0.100000" for i in range(1, 8)},
    }
    level_2 = {
        **{f"REFLECTANCE_MULT_BAND_{i}": str(gain) for i in range(1, 8)},
        **{f"REFLECTANCE_ADD_BAND_{i}": str(added) for i in range(1, 8)},
    }
    names = {f"FILE_NAME_BAND_{i}": f"{stem}_{kind}B{i}.TIF" for i in range(1, 8)}
    names["FILE_NAME_BAND_ST_B10"] = f"{stem}_ST_B10.TIF"
    return {
        "PRODUCT_CONTENTS": {"PROCESSING_LEVEL": level, **names},
        "IMAGE_ATTRIBUTES": {
            "SPACECRAFT_ID": "LANDSAT_8",
            "DATE_ACQUIRED": "2020-07-14",
            "SUN_ELEVATION": "30.00000000",
        },
        "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": level_2,
        "LEVEL1_RADIOMETRIC_RESCALING": level_1,
    }


def write_landsat(
    folder: Path, groups: dict, *, is_json: bool = True, value: int = 10_000
) -> Path:
    """Write a Landsat Collection 2 folder: band i holds `value` + 100 * i."""
    contents = groups["PRODUCT_CONTENTS"]
    stem = contents["FILE_NAME_BAND_1"].split("_SR_")[0].split("_B1")[0]
    for i in range(1, 8):
        numbers = np.full((1, 8, 8), value + 100 * i, "uint16")
        write_tiff(folder / stem / contents[f"FILE_NAME_BAND_{i}"], numbers, res=30)
    # What lies beside the bands and is none.
    write_tiff(folder / stem / f"{stem}_QA_PIXEL.TIF", np.ones((1, 8, 8), "uint16"))
    if is_json:
        text = json.dumps({"LANDSAT_METADATA_FILE": groups})
        (folder / stem / f"{stem}_MTL.json").write_text(text, encoding="utf-8")
        return folder / stem
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for group, rows in groups.items():
        lines.append(f"  GROUP = {group}")
        lines += [f'    {key} = "{value}"' for key, value in rows.items()]
        lines.append(f"  END_GROUP = {group}")
    lines += ["END_GROUP = LANDSAT_METADATA_FILE", "END"]
    path = folder / stem / f"{stem}_MTL.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return folder / stem


def write_item(path: Path, assets: Mapping[str, Any], **properties: Any) -> Path:
    """Write a STAC item of Sentinel-2, level 2A."""
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2B_48QUE_20240223_0_L2A",
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "properties": {
            "datetime": "2024-02-23T03:27:39Z",
            "platform": "sentinel-2b",
            **properties,
        },
        "links": [],
        "assets": assets,
    }
    path.write_text(json.dumps(item), encoding="utf-8")
    return path
