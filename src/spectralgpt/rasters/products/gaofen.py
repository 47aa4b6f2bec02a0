"""Gaofen products: one GeoTIFF of the multispectral bands in the product's own order.

Digital numbers become reflectance with coefficients that CRESDA publishes for each
year, which are not in the product: the user states the quantification.

Source: names of CRESDA's files, such as
GF1_PMS1_E116.5_N39.4_20160501_L1A0001557543-MSS1.tiff, and ReceiveTime in the XML
beside it.
"""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

from spectralgpt.errors import RasterError
from spectralgpt.rasters.locations import ProductFiles
from spectralgpt.rasters.stated import ProductMetadata, day_in
from spectralgpt.sensors import Sensor, list_sensors, load_sensor


def read_gaofen(product: ProductFiles, images: Sequence[str]) -> ProductMetadata | None:
    """Read what the names of a Gaofen product say.

    Args:
        product: its files.
        images: the multispectral ones among them.

    Returns:
        None of a sensor that the registry does not have.

    Raises:
        RasterError: there are several such images.
    """
    if len(images) > 1:
        raise RasterError(
            f"{product.path} holds {len(images)} images, such as {images[0]} and "
            f"{images[1]}: name one file, with the bands in its order."
        )
    sensor = _sensor_of(images[0])
    if sensor is None:
        return None
    image = product.files[images[0]]
    return ProductMetadata(
        sensor=sensor.name,
        files={name: (image, i) for i, name in enumerate(sensor.band_names, start=1)},
        date=_find_date(product, images[0]),
    )


def _sensor_of(name: str) -> Sensor | None:
    known = (load_sensor(each) for each in list_sensors() if each.startswith("gaofen"))
    return next((s for s in known if re.match(s.product_name, name)), None)


def _find_date(product: ProductFiles, image: str) -> datetime.date | None:
    metadata = str(Path(image).with_suffix(".xml"))
    if metadata in product.files:
        found = re.search(
            r"<ReceiveTime>([^<]*)</ReceiveTime>", product.read_text(metadata)
        )
        day = day_in(found.group(1)) if found else None
        if day is not None:
            return day
    return day_in(image)
