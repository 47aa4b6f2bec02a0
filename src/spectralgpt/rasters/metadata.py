"""Which kind of product a path is, and what its own metadata say."""

import re
from pathlib import Path

from spectralgpt.errors import RasterError
from spectralgpt.rasters.archives import ZIP_SUFFIX, ProductFiles, list_product
from spectralgpt.rasters.enmap import read_enmap, read_enmap_image
from spectralgpt.rasters.facts import Facts
from spectralgpt.rasters.gaofen import read_gaofen
from spectralgpt.rasters.landsat import read_landsat
from spectralgpt.rasters.sentinel2 import read_safe
from spectralgpt.rasters.stac import read_stac_item
from spectralgpt.rasters.stac_lists import STAC_SUFFIXES, is_stac_member

__all__ = ["is_product", "read_facts"]

_READERS = (read_safe, read_landsat, read_enmap, read_gaofen)
_SAFE_SUFFIX = ".SAFE"
_MARKS = (r"(.*/)?IMG_DATA/.*\.jp2", r"L[A-Z]\d\d_.*_MTL\.(json|txt)")
_IMAGES = (
    (r"ENMAP01-.*\.TIFF?", r".*-SPECTRAL_IMAGE[^/]*"),
    (r"GF\d[A-D]?_(PMS|WFV).*\.tiff?", r"(?!.*PAN\d?\.tiff?$).*"),
)
"""What all rasters of a product's folder are called, and its one image among them."""


def read_facts(path: Path) -> Facts | None:
    """Read what a product says of itself; None if it is a plain raster or folder.

    Raises:
        RasterError: it is a product, or an archive, that cannot be read.
        BandError: no band is found where the metadata say.
        ConfigError: the sensor is in doubt or not in the registry.
        UnitError: bands differ in scale.
    """
    if is_stac_member(path):
        return read_stac_item(path)
    if path.is_file():
        if path.suffix.lower() in STAC_SUFFIXES:
            return read_stac_item(path)
        if path.suffix.lower() != ZIP_SUFFIX:
            return read_enmap_image(path)
    product = list_product(path)
    for read in _READERS:
        facts = read(product)
        if facts is not None:
            return facts
    if path.suffix == _SAFE_SUFFIX and not product.matching(r".*\.(jp2|tiff?)"):
        raise RasterError(
            f"{path} has neither metadata nor images: it is an incomplete product. "
            "Fetch it again."
        )
    if path.is_file():
        raise RasterError(
            f"{path} holds no product that is known: no metadata of Sentinel-2, "
            "Landsat, EnMAP or Gaofen. Unpack it, and name a file or folder."
        )
    return None


def is_product(path: Path) -> bool:
    """Whether a path is one scene by its looks: nothing of it is opened."""
    if path.is_dir():
        if path.suffix == _SAFE_SUFFIX:
            return True
        return _is_product_folder(list_product(path))
    return path.suffix.lower() in (ZIP_SUFFIX, *STAC_SUFFIXES, ".vrt")


def _is_product_folder(product: ProductFiles) -> bool:
    """Whether a folder's own files are those of one product."""
    if any(product.matching(mark) for mark in _MARKS):
        return True
    rasters = product.matching(r".*\.(tiff?|jp2)")
    for every, image in _IMAGES:
        own = product.matching(every)
        chosen = [n for n in own if re.fullmatch(image, n, re.IGNORECASE)]
        if own == rasters and len(chosen) == 1:
            return True
    return False
