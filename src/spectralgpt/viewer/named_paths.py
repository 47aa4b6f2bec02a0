"""What the paths that a user names are: models, maps, rasters of embeddings, scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError, RasterError, SpectralGPTError
from spectralgpt.models.sizes import WEIGHTS_FILE
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterFile, is_product
from spectralgpt.rasters.embeddings import (
    EmbeddingRaster,
    is_embeddings,
    open_embeddings,
)
from spectralgpt.rasters.maps import MapFile, open_map
from spectralgpt.scenes.inputs import describe_input

_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")
_RUN_FILES = ("config.yaml", "checkpoints")
_MAP_LIKE = (".tif", ".tiff", ".jp2", ".vrt", ".png")


@dataclass(frozen=True)
class Sources:
    """What is shown.

    Args:
        scenes: images in reflectance.
        maps: maps of classes or measured numbers.
        embeddings: rasters of embeddings.
    """

    scenes: tuple[RasterFile, ...] = ()
    maps: tuple[MapFile, ...] = ()
    embeddings: tuple[EmbeddingRaster, ...] = ()


def name_files(paths: Sequence[Path]) -> dict[Path, str]:
    """Name files for people: by their own names, and by folders where those are alike.

    Args:
        paths: each once.

    Returns:
        A different name for each path that is different, such as `2019/…/scene.tif`.
    """
    names: dict[Path, str] = {}
    for path in paths:
        alike = [each for each in paths if each.name == path.name and each != path]
        names[path] = _name_among(path, alike)
    return names


def _name_among(path: Path, others: Sequence[Path]) -> str:
    """Return a file's name, with the nearest folders that no other one shares."""
    folders = path.absolute().parts[:-1]
    shown, last = path.name, 0
    for up in range(1, len(folders) + 1):
        left = [each for each in others if _folder_above(each, up) == folders[-up]]
        if len(left) < len(others):
            gap = "" if up == last + 1 else "…/"
            shown, last = f"{folders[-up].rstrip('/')}/{gap}{shown}", up
        others = left
    return shown


def _folder_above(path: Path, up: int) -> str | None:
    folders = path.absolute().parts[:-1]
    return folders[-up] if up <= len(folders) else None


def take_models(
    paths: Sequence[Path], stated: str | None
) -> tuple[str | None, list[Path]]:
    """Part the model from what is to be shown.

    Args:
        paths: what the user named; a run folder or file of weights among them is the
            model.
        stated: a model that was named as such.

    Returns:
        The model's name or path, None without one, and the other paths.

    Raises:
        ConfigError: more than one model is named, or nothing to show.
    """
    models = [path for path in paths if _is_model(path)]
    names = [*map(str, models), *([stated] if stated else [])]
    if len(names) > 1:
        raise ConfigError(f"{' and '.join(names)} are models: name one of them.")
    others = [path for path in paths if path not in models]
    if not others:
        raise ConfigError(
            f"{names[0] if names else 'nothing'} alone shows nothing: name a scene, a "
            "map or a raster of embeddings as well."
        )
    return (names[0] if names else None), others


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.suffix in _WEIGHTS
    # A run whose weights are missing is a broken run, not a scene.
    files = (WEIGHTS_FILE, *_RUN_FILES)
    return any((path / name).exists() for name in files) and not is_product(path)


def open_sources(
    paths: Sequence[Path],
    image_format: ImageFormat | None = None,
    contract: Preprocessing | None = None,
) -> Sources:
    """Tell scenes, maps and rasters of embeddings apart by looking at them.

    Args:
        paths: what the user named, without models.
        image_format: what is stated about the scenes.
        contract: of the model, if there is one; scenes that do not say their sensor
            are taken to be of the model's.

    Raises:
        RasterError: a path is nothing of that, or cannot be read; says why.
    """
    scenes, maps, embeddings = [], [], []
    stated = image_format or ImageFormat()
    for path in dict.fromkeys(paths):
        found = _open(path, stated, contract)
        if isinstance(found, EmbeddingRaster):
            embeddings.append(found)
        elif isinstance(found, MapFile):
            maps.append(found)
        else:
            scenes.append(found)
    return Sources(tuple(scenes), tuple(maps), tuple(embeddings))


def _open(
    path: Path, image_format: ImageFormat, contract: Preprocessing | None
) -> RasterFile | MapFile | EmbeddingRaster:
    if not path.exists():
        raise RasterError(f"{path} does not exist. Check the path.")
    if path.is_file() and path.suffix.lower() in _MAP_LIKE:
        if is_embeddings(path):
            return open_embeddings(path)
        found = open_map(path)
        # One layer may be a scene of one band, where the user names one.
        is_scene = image_format.bands is not None and len(image_format.bands) == 1
        if found is not None and (found.is_certain or not is_scene):
            return found
    try:
        return _open_scene(path, image_format, contract)
    except SpectralGPTError as error:
        raise RasterError(
            f"{path} is no model, map or raster of embeddings, and as a scene it "
            f"cannot be shown: {error}"
        ) from error


def _open_scene(
    path: Path, image_format: ImageFormat, contract: Preprocessing | None
) -> RasterFile:
    if contract is None:
        item = image_format.describe(path)
    else:
        item = describe_input(path, image_format, contract)
    # Bands on grids that do not fit each other are told now, not by empty tiles.
    item.grid()
    return item
