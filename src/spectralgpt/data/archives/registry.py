"""The archives that are known by name, as data: one YAML file each.

An entry states facts: how the archive's folders and files are named, its bands, sizes,
splits and licence, and where to get it. No pixels are read here: `checks` lists what is
on disk, `findings` reads it.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from typing import Any

from spectralgpt.config import build_config, list_yaml, read_mapping, suggest
from spectralgpt.errors import ConfigError

PREFIX = "archive:"
"""Goes before an archive's name where a description's path could stand."""
_TEXTS = ("title", "layout", "splits", "licence", "url", "get")


@dataclass(frozen=True)
class Archive:
    """A public archive, or a layout that many people's own data have.

    Args:
        name: in the registry.
        title: what it is, in one line.
        tasks: what it serves: pretraining, single-label, multi-label, segmentation,
            change.
        layout: how folders and files are named.
        splits: which splits it has, and where they are stated.
        licence: of images and labels.
        url: where it is described.
        get: how to get it.
        is_own: it stands for one's own data, whose imagery is described elsewhere.
        images: how many it has, where that is known.
        size_gb: room it takes, 10^9 bytes, where that is known.
        imagery: description of its images, as in a data set's YAML file.
        folders: where the images lie below the archive's folder; the first that exists
            counts.
        labels: settings of `spectralgpt.data.labelled.LabelledDataConfig`, or of
            `spectralgpt.data.dense` for masks; empty without labels.
        classes: names of its classes in order, where no other reader knows them.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    layout: str
    splits: str
    licence: str
    url: str
    get: str
    is_own: bool = False
    images: int | None = None
    size_gb: float | None = None
    imagery: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[str, ...] = (".",)
    labels: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def list_archives() -> list[str]:
    """Return the names of the registry, sorted."""
    return list_yaml("data", "archives")


@functools.cache
def load_archive(name: str) -> Archive:
    """Return an archive of the registry.

    Raises:
        ConfigError: there is none of that name; names the nearest.
    """
    known = list_archives()
    if name not in known:
        raise ConfigError(
            f"unknown archive '{name}'{suggest(name, known)} "
            f"(known: {', '.join(known)})."
        )
    with as_file(files("spectralgpt.data") / "archives" / f"{name}.yaml") as path:
        table = read_mapping(path)
    where = f"archive {name}"
    archive = build_config({"name": name, **table}, Archive, where)
    texts = {each: getattr(archive, each).strip() for each in _TEXTS}
    return replace(archive, **texts)
