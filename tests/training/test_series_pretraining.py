"""A description of series trains on series, by the same command as single dates."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectralgpt.checkpoints import load_model
from spectralgpt.config import build_config
from spectralgpt.errors import ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.objectives import objective_class
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_data import load_pretraining_data
from spectralgpt.training.pretraining import pretrain
from tests.raster_files import S2_L2A, write_tiff
from tests.training.test_stages import NARROW, TRAINER

PROJECT = Path(__file__).resolve().parents[2]


def config(root: Path, source: Path, size: int = 16) -> PretrainConfig:
    values = {
        "model": NARROW,
        "data": {
            "root": str(root),
            "sources": [str(source)],
            "sensor": "sentinel-2-l2a",
            "image_size": size,
            "samples_per_epoch": 16,
            "max_held_out": 2,
        },
        "masking": {"ratio": 0.5},
        "optimizer": {"warmup_epochs": 0.5},
        "trainer": TRAINER,
    }
    return build_config(values, PretrainConfig, "the test")


def write_places(root: Path, dates: tuple[str, ...], series: str = "2") -> Path:
    rng = np.random.default_rng(0)
    for place in "abcdefgh":
        for date in dates:
            pixels = rng.integers(500, 4000, (len(S2_L2A), 24, 24)).astype(np.uint16)
            path = root / "places" / place / f"{date}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tiff(path, pixels, descriptions=S2_L2A)
    source = root / "places.yaml"
    source.write_text(
        "root: places\nsensor: sentinel-2-l2a\nitems: '*/*.tif'\noffset: 0\n"
        f"place: ^(?P<place>\\w+)/\nholdout: place\nseries: {series}\n"
    )
    return source


def test_series_are_trained_on_and_the_checkpoint_knows_dates(tmp_path: Path) -> None:
    source = write_places(tmp_path, ("2020-01-05", "2020-06-05", "2020-09-05"))
    wanted = config(tmp_path, source)
    data = load_pretraining_data(wanted)
    assert data.has_series
    run = pretrain(wanted, tmp_path / "run")
    model = load_model(run).model
    assert isinstance(model, MaskedAutoencoder)
    assert model.config["date_embedding"]
    losses = [row for row in read_metrics(run / "metrics.csv") if row.get("loss")]
    assert losses
    assert (run / "report.html").is_file()


def test_single_dates_get_no_date_embedding(tmp_path: Path) -> None:
    source = write_places(tmp_path, ("2020-01-05",))
    text = source.read_text().replace("series: 2\n", "")
    source.write_text(text)
    run = pretrain(config(tmp_path, source), tmp_path / "run")
    assert not load_model(run).model.config["date_embedding"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("st-mae", {"num_frames": 2, "t_patch": 2}), ("satmae", {"temporal": True})],
)
def test_other_objectives_learn_from_series(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    source = write_places(tmp_path, ("2020-01-05", "2020-06-05", "2020-09-05"))
    wanted = config(tmp_path, source)
    narrow = replace(wanted.model, embed_dim=32, decoder_embed_dim=32)
    data = replace(wanted.data, samples_per_epoch=8)
    wanted = replace(wanted, objective=name, settings=settings, model=narrow, data=data)
    run = pretrain(wanted, tmp_path / "run")
    loaded = load_model(run)
    assert type(loaded.model) is objective_class(name)
    assert loaded.model.config.items() >= settings.items()
    losses = [row for row in read_metrics(run / "metrics.csv") if row.get("loss")]
    assert len(losses) >= 2
    assert (run / "report.html").is_file()
    series = torch.rand(1, 2, 12, 16, 16)
    assert loaded.encoder(series).shape[-3:] == (2, 2, 32)
    assert loaded.encoder(series[:, 0]).shape == (1, 1, 2, 2, 32)


def test_series_are_refused_before_training_where_dates_are_not_told_apart(
    tmp_path: Path,
) -> None:
    source = write_places(tmp_path, ("2020-01-05", "2020-06-05"))
    wanted = replace(config(tmp_path, source), objective="satmae")
    with pytest.raises(ConfigError, match=r"satmae with settings\.temporal true"):
        pretrain(wanted, tmp_path / "run")


@pytest.mark.slow
def test_two_dates_of_a_real_place_train(shared: Path, tmp_path: Path) -> None:
    source = PROJECT / "examples" / "series" / "ssl4eo_s12_s2a.yaml"
    run = pretrain(config(shared / "data", source, 32), tmp_path / "run")
    assert load_model(run).model.config["date_embedding"]
