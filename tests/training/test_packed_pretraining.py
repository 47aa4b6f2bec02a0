"""Training on a pack is training on its files, to the last bit of every loss."""

from dataclasses import replace
from pathlib import Path

import pytest

from spectralgpt.checkpoints import load_model
from spectralgpt.config import build_config
from spectralgpt.data.packing.writing import pack_images
from spectralgpt.data.sources import read_source
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretraining import pretrain
from tests.imagery import write_archive
from tests.training.test_series_pretraining import config, write_places
from tests.training.test_stages import NARROW, TRAINER


def on_pack(wanted: PretrainConfig, pack: Path) -> PretrainConfig:
    data = replace(wanted.data, root=pack.parent / "nowhere", sources=(str(pack),))
    return replace(wanted, data=data)


def numbers(run: Path) -> list[dict[str, str]]:
    """All that was logged but how long it took."""
    rows = read_metrics(run / "metrics.csv")
    return [{k: str(v) for k, v in row.items() if k != "images_per_s"} for row in rows]


@pytest.mark.parametrize("scaling", ["image-minmax", "z-score"])
def test_losses_are_those_of_the_files(tmp_path: Path, scaling: str) -> None:
    source = write_archive(tmp_path, "scenes", "sentinel-2-l2a")
    values = {
        "model": NARROW,
        "data": {
            "root": str(tmp_path),
            "sources": [str(source)],
            "sensor": "sentinel-2-l2a",
            "image_size": 16,
            "scaling": scaling,
            "samples_per_epoch": 16,
            "max_held_out": 2,
        },
        "optimizer": {"warmup_epochs": 0.5},
        "trainer": TRAINER,
    }
    wanted = build_config(values, PretrainConfig, "the test")
    pack = tmp_path / "pack"
    pack_images(read_source(source), tmp_path, pack, shard_mb=0.2)
    one = pretrain(wanted, tmp_path / "files")
    two = pretrain(on_pack(wanted, pack), tmp_path / "packed")
    assert any(row.get("loss") for row in numbers(one))
    assert numbers(one) == numbers(two)
    contracts = [load_model(run).preprocessing for run in (one, two)]
    assert contracts[0].bands == contracts[1].bands
    if scaling == "z-score":
        first, second = (contract.statistics for contract in contracts)
        assert first is not None
        assert second is not None
        assert replace(first, source="") == replace(second, source="")


def test_series_in_a_pack_train_alike(tmp_path: Path) -> None:
    source = write_places(tmp_path, ("2020-01-05", "2020-06-05", "2020-09-05"))
    pack_images(read_source(source), tmp_path, tmp_path / "pack")
    wanted = config(tmp_path, source)
    one = pretrain(wanted, tmp_path / "files")
    two = pretrain(on_pack(wanted, tmp_path / "pack"), tmp_path / "packed")
    assert load_model(two).model.config["date_embedding"]
    assert numbers(one) == numbers(two)


def test_pack_takes_part_in_a_mixture(tmp_path: Path) -> None:
    one = write_archive(tmp_path, "one", "sentinel-2-l2a")
    two = write_archive(tmp_path, "two", "sentinel-2-l2a", count=3)
    pack_images(read_source(two), tmp_path, tmp_path / "pack")
    runs = []
    for name, second in (("files", two), ("packed", tmp_path / "pack")):
        values = {
            "model": NARROW,
            "data": {
                "root": str(tmp_path),
                "sensor": "sentinel-2-l2a",
                "image_size": 16,
                "samples_per_epoch": 16,
                "max_held_out": 2,
                "mixture": [
                    {"name": "one", "sources": [str(one)]},
                    {"name": "two", "sources": [str(second)], "weight": 2},
                ],
            },
            "optimizer": {"warmup_epochs": 0.5},
            "trainer": TRAINER,
        }
        wanted = build_config(values, PretrainConfig, "the test")
        runs.append(pretrain(wanted, tmp_path / name))
    assert numbers(runs[0]) == numbers(runs[1])
