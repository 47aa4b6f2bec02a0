"""What an installation without extras does, and what it says of the rest."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.checkpoints import save_model
from spectralgpt.errors import _EXTRAS, ConfigError, require
from spectralgpt.models.heads import SegmentationModel
from tests.exported import CLASSES, contract
from tests.raster_files import write_tiff
from tests.tiny import tiny_encoder

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# None in place of a module makes Python say that it is not installed.
BARE = f"""
import sys
sys.modules.update(dict.fromkeys({" ".join(_EXTRAS.values()).split()}))
from spectralgpt.cli.main import main
"""


def declared() -> dict[str, set[str]]:
    """The packages of each extra, with those of the extras that it names."""
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    return {
        extra: {re.split(r"[\[<>=!~]", line)[0].lower() for line in lines}
        for extra, lines in extras.items()
    }


def run_bare(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BARE + code],
        capture_output=True,
        cwd=folder,
        text=True,
        timeout=300,
    )


def test_each_module_is_brought_by_the_extra_that_is_named() -> None:
    packages, brought = packages_distributions(), declared()
    brought["loggers"] |= {"mlflow"}  # of mlflow-skinny, which few have
    assert sorted(_EXTRAS) == sorted(brought.keys() - {"all", "dev", "docs"})
    for extra, modules in _EXTRAS.items():
        for module in modules.split():
            names = {name.lower() for name in packages.get(module, [module])}
            assert names & brought[extra], module


def test_what_is_missing_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("sklearn", "torch", "a_module_of_nobody")
    for name in ("sklearn", "geopandas"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"^this needs geopandas, sklearn: pip "):
        require("geopandas", "pandas", "sklearn")
    with pytest.raises(ConfigError, match=r"'spectralgpt\[probe,vector\]'$"):
        require("geopandas", "sklearn")


def test_a_bare_installation_maps_a_scene(tmp_path: Path) -> None:
    model = SegmentationModel(tiny_encoder(), len(CLASSES), head="linear")
    extra = {"class_names": CLASSES, "task": "segmentation", "window_px": 32}
    save_model(tmp_path / "model", model, contract(), extra)
    bands = contract().band_names
    pixels = np.random.default_rng(0).integers(1, 3000, (len(bands), 48, 64))
    write_tiff(
        tmp_path / "scene.tif",
        pixels.astype(np.uint16),
        crs="EPSG:32632",
        descriptions=bands,
    )
    found = run_bare(
        """
words = ["scene.tif", "--offset", "0", "--model", "model", "--output"]
assert main(["predict", *words, "map"]) == 0
assert main(["embed", *words, "cells", "--format", "geotiff"]) == 0
""",
        tmp_path,
    )
    assert found.returncode == 0, found.stderr
    assert [path.name for path in (tmp_path / "map").glob("*.tif")] == ["scene.tif"]


def test_a_bare_installation_says_what_a_command_needs(tmp_path: Path) -> None:
    found = run_bare(
        """
for words in (
    ["pretrain", "--config", "pretrain_tiny", "--output", "run"],
    ["demo", "--output", "demo"],
    ["simulate", "--output", "archive"],
):
    assert main(words) == 1, words
""",
        tmp_path,
    )
    assert found.returncode == 0, found.stderr
    assert re.findall(r"error: this needs (\w+).*'(spectralgpt.*)'", found.stderr) == [
        ("lightning", "spectralgpt[train]"),
        ("geopandas", "spectralgpt[probe,train,vector]"),
        ("scipy", "spectralgpt[probe]"),
    ]


def test_every_module_can_be_imported_or_says_what_it_needs(tmp_path: Path) -> None:
    found = run_bare(
        """
from importlib import import_module
from pkgutil import walk_packages
import spectralgpt
from spectralgpt.errors import ConfigError
needing = []
for each in walk_packages(spectralgpt.__path__, "spectralgpt.", lambda name: None):
    try:
        # Of the page, `serving` asks before it imports the rest.
        each.name.endswith("viewer.app") or import_module(each.name)
    except ConfigError:
        needing.append(each.name)
print(*needing)
""",
        tmp_path,
    )
    assert found.returncode == 0, found.stderr
    assert {
        "spectralgpt.integrations",
        "spectralgpt.models.swin",
        "spectralgpt.training",
    } <= set(found.stdout.split())


def test_loading_a_model_imports_no_library_of_data_sets() -> None:
    code = "import spectralgpt, sys; spectralgpt.load('tiny'); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    slow = {"torchvision", "torchgeo", "timm", "lightning", "sklearn", "matplotlib"}
    assert not slow & set(ran.stdout.split())
