"""What maps are called: after their images, with folders where names are equal."""

from collections.abc import Sequence
from pathlib import Path

from spectralgpt.errors import ConfigError
from spectralgpt.rasters import RASTER_SUFFIXES, STAC_SUFFIXES, ZIP_SUFFIX

__all__ = ["SCENE_SUFFIXES", "name_maps", "polygons_path", "probabilities_path"]

SCENE_SUFFIXES = frozenset(
    (
        *(*RASTER_SUFFIXES, *STAC_SUFFIXES, ZIP_SUFFIX, ".vrt", ".npy", ".safe"),
        *(".img", ".dat", ".bsq", ".bil", ".bip", ".raw", ".png", ".bmp"),
    )
)
"""Endings that are no part of a scene's name."""


def name_maps(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Return the file of each image's map: its name, with folders if need be.

    Raises:
        ConfigError: two images would share a map.
    """
    most = max(len(path.absolute().parts) for path in paths)
    for depth in range(1, most + 1):
        names = ["_".join(_plain(path).parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return {
                path: output / f"{name}.tif"
                for path, name in zip(paths, names, strict=True)
            }
    twice = [
        str(path)
        for path, name in zip(paths, names, strict=True)
        if names.count(name) > 1
    ]
    raise ConfigError(
        f"{' and '.join(twice[:2])} would be mapped to the same file. Map them into "
        "different folders."
    )


def _plain(path: Path) -> Path:
    """Return the absolute path without the drive, and the ending of a raster.

    Other dots are part of a name, as in the ids of STAC items.
    """
    path = path.absolute()
    is_ending = not path.is_dir() and path.suffix.lower() in SCENE_SUFFIXES
    return (path.with_suffix("") if is_ending else path).relative_to(path.anchor)


def probabilities_path(path: Path) -> Path:
    """Return the file of the probabilities beside a map of classes."""
    return path.with_name(f"{path.stem}_probabilities.tif")


def polygons_path(path: Path) -> Path:
    """Return the file of the outlines beside a map of classes."""
    return path.with_suffix(".gpkg")
