"""What maps are called: after their images, with folders where names are equal."""

from collections.abc import Sequence
from pathlib import Path

from spectralgpt.errors import ConfigError

__all__ = ["name_maps", "polygons_path", "probabilities_path"]


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
    """Return the absolute path without the drive, and the ending of a file."""
    path = path.absolute()
    return (path if path.is_dir() else path.with_suffix("")).relative_to(path.anchor)


def probabilities_path(path: Path) -> Path:
    """Return the file of the probabilities beside a map of classes."""
    return path.with_name(f"{path.stem}_probabilities.tif")


def polygons_path(path: Path) -> Path:
    """Return the file of the outlines beside a map of classes."""
    return path.with_suffix(".gpkg")
