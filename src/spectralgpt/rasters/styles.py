"""How desktop programs are to draw classes: names for GDAL's readers, styles for QGIS.

Source: GDAL's Persistent Auxiliary Metadata; QGIS 3's QML, which QGIS loads by itself
from a `.qml` beside a raster and from the table `layer_styles` of a GeoPackage.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Comment, Element, SubElement, indent, tostring

from spectralgpt.files import MADE_BY

_OPAQUE = "255"
LEGEND_SUFFIX, STYLE_SUFFIX = ".aux.xml", ".qml"


def style_paths(path: Path) -> tuple[Path, Path]:
    """Return the files beside a map that hold its classes' names, and its style."""
    return path.with_name(path.name + LEGEND_SUFFIX), path.with_suffix(STYLE_SUFFIX)


def write_styles(path: Path, names: Sequence[str], colours: Sequence[str]) -> None:
    """Write names and colours of a map's numbers where GDAL and QGIS look for them.

    Args:
        path: the map; the files lie beside it, see `style_paths`.
        names: of the numbers 0, 1, ...
        colours: one per name, such as "#1b7837".
    """
    legend, style = style_paths(path)
    root = Element("PAMDataset")
    # Programs keep what is in a domain of its own, and show it nowhere.
    domain = SubElement(root, "Metadata", domain="MAKER")
    SubElement(domain, "MDI", key="note").text = MADE_BY
    band = SubElement(root, "PAMRasterBand", band="1")
    categories = SubElement(band, "CategoryNames")
    for name in names:
        SubElement(categories, "Category").text = _plain(name)
    legend.write_text(_to_text(root), encoding="utf-8")
    root = Element("qgis", version="3.22", styleCategories="Symbology")
    # QGIS drops it where a user saves another style.
    root.append(Comment(MADE_BY))
    pipe = SubElement(root, "pipe")
    drawn = SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette = SubElement(drawn, "colorPalette")
    for value, (name, colour) in enumerate(zip(names, colours, strict=True)):
        entry = {"value": str(value), "label": _plain(name), "color": colour}
        SubElement(palette, "paletteEntry", alpha=_OPAQUE, attrib=entry)
    style.write_text(_to_text(root), encoding="utf-8")


def polygon_style(column: str, names: Sequence[str], colours: Sequence[str]) -> str:
    """Return the style of polygons as QML.

    Args:
        column: holds the number of a polygon's class.
        names: of the numbers 0, 1, ...
        colours: one per name.
    """
    root = Element("qgis", version="3.22", styleCategories="Symbology")
    drawn = SubElement(root, "renderer-v2", type="categorizedSymbol", attr=column)
    categories = SubElement(drawn, "categories")
    symbols = SubElement(drawn, "symbols")
    for value, (name, colour) in enumerate(zip(names, colours, strict=True)):
        number = str(value)
        SubElement(
            categories,
            "category",
            {"value": number, "type": "long", "symbol": number, "render": "true"},
            label=_plain(name),
        )
        symbol = SubElement(symbols, "symbol", type="fill", name=number, alpha="1")
        layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"})
        options = SubElement(layer, "Option", type="Map")
        rgb = ",".join(map(str, bytes.fromhex(colour.removeprefix("#"))))
        for option, text in (
            ("color", f"{rgb},{_OPAQUE}"),
            ("style", "solid"),
            ("outline_style", "no"),
        ):
            SubElement(options, "Option", type="QString", name=option, value=text)
    return _to_text(root)


def _plain(name: str) -> str:
    """Return a name without the characters that XML cannot hold."""
    return "".join(c if c.isprintable() else " " for c in name)


def _to_text(root: Element) -> str:
    indent(root)
    return f"{tostring(root, encoding='unicode')}\n"
