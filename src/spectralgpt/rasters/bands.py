"""Which layer of which file is which band: by name or wavelength, never by position."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from spectralgpt.errors import BandError, RasterError
from spectralgpt.rasters.files import Header, Stated, read_header
from spectralgpt.rasters.gdal import (
    Location,
    is_litter,
    list_folder,
    quiet_gdal,
    warn_once,
)
from spectralgpt.rasters.read import BandFile
from spectralgpt.sensors import Band, Sensor

FoundBands = tuple[dict[str, BandFile], dict[Location, Header]]
"""Where each band lies, by name, and the headers of the files used."""
NO_BAND = "-"
"""Stands for a layer that is no band, such as a cloud mask, in a list of bands."""
IN_SENSOR_ORDER = "sensor-order"
"""Stands for the list of all bands in the product's own numbering."""
RASTER_SUFFIXES = (".tif", ".tiff", ".jp2")
_WAVELENGTH = re.compile(
    r"(\d+(?:\.\d+)?)\s*(nm|nanomet\w*|µm|um|micromet\w*)", re.IGNORECASE
)
_NM_PER_UM = 1000
_LEAST_TOLERANCE_NM = 20.0
"""Products' wavelengths differ from the nominal ones by some nanometres."""
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_COMPANIONS = {
    *("scl", "aot", "wvp", "tci", "pvi", "msk", "cld", "snw", "cldprb", "snwprb"),
    *("mask", "masks", "cloud", "clouds", "shadow", "quality", "angle", "dem", "ql"),
    *("bqa", "qa", "pixel", "radsat", "aerosol", "vaa", "vza", "saa", "sza", "st"),
    *("b8", "b10", "b11", "pan", "thumb", "thumbnail", "preview", "browse"),
}
"""Words in names of files that lie beside bands: quality, angles, thermal bands."""
_NUMBER = re.compile(r"[1-9]")
_SHOWN = 6


def find_bands(
    path: Path, sensor: Sensor, facts: Stated, members: Sequence[Path] | None = None
) -> FoundBands:
    """Find the bands of an image.

    Args:
        path: a file, or a folder with one file per band.
        sensor: whose bands to look for.
        facts: what is stated of bands and names of files.
        members: the files of the folder that belong to the image; all if None.

    Returns:
        Where each band lies, by name, and the headers of the files used.

    Raises:
        BandError: bands are in doubt, missing or there twice.
        RasterError: a file cannot be read.
    """
    with quiet_gdal():
        if path.is_dir():
            candidates = _raster_files(path) if members is None else members
            return _find_in_folder(path, candidates, sensor, facts)
        header = read_header(path)
    if facts.layers is not None:
        names = _stated_layers(header, sensor, facts.layers)
    else:
        names = _described_layers(header, sensor)
    _refuse_contradictions(header, sensor, names)
    named = [at for at, name in enumerate(names, start=1) if name is not None]
    for layer in set(named) & set(header.alpha):
        what = f"layer {layer} is marked as opacity (alpha), and read as"
        message = f"{path}: {what} {names[layer - 1]}, as it is named so."
        warn_once(f"{what} {names[layer - 1]}", message)
    files = {
        name: _layer_of(header, index, set(named))
        for index, name in enumerate(names, start=1)
        if name is not None
    }
    return files, {path: header}


def _layer_of(header: Header, index: int, named: Collection[int]) -> BandFile:
    """Return a layer of a file with its masks, leaving out those named as bands."""
    masks = tuple(mask for mask in header.masks[index - 1] if mask not in named)
    return BandFile(header.path, index, header.grid, masks=masks)


def open_bands(
    path: Path,
    sensor: Sensor,
    stated: Mapping[str, tuple[Location, int]],
    bands: Sequence[str] | None,
) -> FoundBands:
    """Open the files that a product's metadata name; see `find_bands`.

    Args:
        path: the product, for messages.
        sensor: whose bands they are.
        stated: file and layer (from 1) of each band.
        bands: which to take; all if None.
    """
    names = list(stated) if bands is None else [sensor.band(b).name for b in bands]
    missing = [name for name in names if name not in stated]
    if missing:
        raise BandError(
            f"{path} has no band {', '.join(missing)} (found: {', '.join(stated)}). "
            "Fetch the missing files, or ask for less."
        )
    headers: dict[Location, Header] = {}
    files = {}
    for name in names:
        file, layer = stated[name]
        if file not in headers:
            headers[file] = read_header(file)
        if layer > headers[file].count:
            raise BandError(
                f"{file} has {headers[file].count} layers; its metadata put band "
                f"{name} into layer {layer}. Fetch the product again."
            )
        files[name] = _layer_of(headers[file], layer, {layer})
    _warn_of_coarser(path, sensor, files)
    return files, headers


def _warn_of_coarser(path: Path, sensor: Sensor, files: Mapping[str, BandFile]) -> None:
    """Warn of bands that are there only as copies coarser than the sensor's own.

    Names of files tell the resolution, as in B04_20m.
    """
    coarser: dict[int, list[str]] = {}
    for name, file in files.items():
        stated = re.findall(r"_(\d\d)m(?![A-Za-z0-9])", file.path.name)
        if stated and int(stated[-1]) > sensor.band(name).gsd_m:
            coarser.setdefault(int(stated[-1]), []).append(name)
    for gsd_m, names in coarser.items():
        shown = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
        warn_once(
            f"{shown} {gsd_m} m",
            f"{path}: {shown} there at {gsd_m} m only, and read so; the finer files "
            "are missing.",
        )


def _stated_layers(
    header: Header, sensor: Sensor, bands: Sequence[str]
) -> list[str | None]:
    if list(bands) == [IN_SENSOR_ORDER]:
        bands = sensor.band_names
    if len(bands) not in (header.count, len(header.measured)):
        raise BandError(
            f"{header.path} has {header.count} layers, {len(bands)} bands were stated. "
            f"Name each layer ('{NO_BAND}' for one that is no band)."
        )
    if len(bands) != header.count:
        # Opacity (alpha) is no band, so it need not be named.
        rest = iter(bands)
        layers = range(1, header.count + 1)
        bands = [next(rest) if at in header.measured else NO_BAND for at in layers]
    names = [None if name == NO_BAND else sensor.band(name).name for name in bands]
    return _refuse_doubles(header.path, names)


def _described_layers(header: Header, sensor: Sensor) -> list[str | None]:
    found = [_band_in_description(text, sensor) for text in header.descriptions]
    if not any(found) and len(header.measured) == 1:
        found[header.measured[0] - 1] = sensor.find_in_name(header.path.stem)
    if not any(found):
        shown = [text for text in header.descriptions if text][:4] or "none"
        raise BandError(
            f"{header.path} does not say which of its {header.count} layers is which "
            f"band of {sensor.name} (descriptions: {shown}). Set band descriptions or "
            "pass bands."
        )
    names = [None if band is None else band.name for band in found]
    _refuse_unknown(header, sensor, names)
    return _refuse_doubles(header.path, names)


def _refuse_contradictions(
    header: Header, sensor: Sensor, names: list[str | None]
) -> None:
    """Refuse layers that are named otherwise than the file says their wavelengths."""
    for layer, (name, nm) in enumerate(
        zip(names, header.wavelengths_nm, strict=False), start=1
    ):
        band = None if name is None else sensor.band(name)
        if band is None or nm is None:
            continue
        if abs(nm - band.wavelength_nm) > max(band.width_nm, _LEAST_TOLERANCE_NM):
            raise BandError(
                f"{header.path}: layer {layer} is named {name}, which is centred at "
                f"{band.wavelength_nm:g} nm, but the file says {nm:g} nm. Name the "
                "layers in the file's order, or correct its wavelengths."
            )


def _refuse_unknown(header: Header, sensor: Sensor, names: list[str | None]) -> None:
    """Refuse layers that are no band, which only the user can leave out."""
    unknown = [
        f"{index} ({text or 'no name'})"
        for index, (text, name) in enumerate(
            zip(header.descriptions, names, strict=True), start=1
        )
        # Opacity (alpha) is no band, so it need not be named.
        if name is None and index not in header.alpha
    ]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (", ..." if unknown[_SHOWN:] else "")
        all_names = ",".join(name or NO_BAND for name in names)
        raise BandError(
            f"{header.path}: layers {shown} are no known bands of {sensor.name}. Name "
            f"all layers ('{NO_BAND}' leaves one out): --bands {all_names} takes those "
            "that are known."
        )


def _band_in_description(text: str, sensor: Sensor) -> Band | None:
    band = sensor.find(text)
    if band is not None or not text:
        return band
    match = _WAVELENGTH.search(text)
    if match:
        is_um = match.group(2).lower()[0] in "µu" or "micro" in match.group(2).lower()
        return sensor.nearest(float(match.group(1)) * (_NM_PER_UM if is_um else 1))
    found = sensor.find_in_words(text)
    # A number after a word that is no band with it says that there are several.
    bands = {band for band, after in found if not _NUMBER.fullmatch(after)}
    return bands.pop() if len(bands) == len({b for b, _ in found}) == 1 else None


def _refuse_doubles(path: Location, names: list[str | None]) -> list[str | None]:
    seen = [name for name in names if name is not None]
    doubles = sorted({name for name in seen if seen.count(name) > 1})
    if doubles:
        raise BandError(
            f"{path}: two layers are called {', '.join(doubles)}. Set band "
            "descriptions or pass bands."
        )
    return names


def _find_in_folder(
    folder: Path, candidates: Sequence[Path], sensor: Sensor, facts: Stated
) -> FoundBands:
    found, unknown = find_band_files(folder, map(str, candidates), sensor, facts)
    headers = {
        band: [read_header(Path(file)) for file in files]
        for band, files in found.items()
    }
    if facts.layers is None and facts.band_pattern is None:
        _tell_unknown(folder, sensor, unknown)
    chosen = {name: _choose(folder, name, found) for name, found in headers.items()}
    files = {n: _layer_of(h, h.measured[0], h.measured) for n, h in chosen.items()}
    _warn_of_coarser(folder, sensor, files)
    return files, {header.path: header for header in chosen.values()}


def find_band_files(
    folder: Path, files: Iterable[str], sensor: Sensor, facts: Stated
) -> tuple[dict[str, list[str]], list[str]]:
    """Find files by the bands in their names; opens none.

    Args:
        folder: for messages.
        files: their names or paths.
        sensor: whose bands to look for.
        facts: the bands to take, and the pattern of names.

    Returns:
        Files by the name of their band, and the names without ending of those without.

    Raises:
        BandError: a band has no file, or none has any.
    """
    bands, pattern = facts.layers, facts.band_pattern
    wanted = None if bands is None else {sensor.band(name).name for name in bands}
    found: dict[str, list[str]] = {}
    unknown = []
    for file in files:
        name = os.path.basename(file)
        stem = os.path.splitext(name)[0]
        if pattern is None:
            band = sensor.find_in_name(stem)
        else:
            match = re.search(pattern, name)
            band = sensor.find(match.group("band")) if match else None
        if band is None:
            unknown.append(stem)
        elif wanted is None or band.name in wanted:
            found.setdefault(band.name, []).append(file)
    missing = sorted((wanted or set()) - set(found))
    if missing or not found:
        raise BandError(
            f"{folder} has no file named after band {', '.join(missing) or 'names'} of "
            f"{sensor.name} (found: {', '.join(found) or 'none'}). Name the files "
            "after their bands, or give a pattern."
        )
    return found, unknown


def _tell_unknown(folder: Path, sensor: Sensor, names: Sequence[str]) -> None:
    """Say once which files beside those of bands are none, but for known companions."""
    unknown = [
        name
        for name in names
        if not _COMPANIONS & {word.lower() for word in _SEPARATORS.split(name)}
    ]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (", ..." if unknown[_SHOWN:] else "")
        warn_once(
            f"no bands of {sensor.name} in {folder.parent}",
            f"{folder}: files {shown} are no known bands of {sensor.name} and are left "
            "out: rename them, or state bands or band_pattern.",
        )


def _raster_files(folder: Path) -> list[Path]:
    """Rasters of a folder; of a Sentinel-2 product only those in IMG_DATA."""
    inside = sorted(folder.glob("GRANULE/*/IMG_DATA")) or [
        *sorted(folder.glob("IMG_DATA"))
    ]
    files = (
        [file for images in inside for file in images.rglob("*")]
        if inside
        else list_folder(folder)
    )
    return sorted(
        file
        for file in files
        if file.suffix.lower() in RASTER_SUFFIXES and not is_litter(file.name)
    )


def _choose(folder: Path, name: str, headers: list[Header]) -> Header:
    """Return the finest file of a band: level 2A stores coarser copies beside it."""
    headers.sort(key=lambda header: header.grid.pixel_area)
    if len(headers) > 1 and headers[0].grid.pixel_area == headers[1].grid.pixel_area:
        paths = ", ".join(header.path.name for header in headers[:2])
        raise BandError(f"{folder} has two files for band {name}: {paths}. Remove one.")
    if len(headers[0].measured) != 1:
        raise RasterError(
            f"{headers[0].path} has {headers[0].count} layers where one band was "
            "expected. Describe the file itself, not its folder."
        )
    return headers[0]
