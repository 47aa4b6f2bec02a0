from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import spectralgpt
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from spectralgpt.training.pretrain_config import (
    DataConfig,
    ModelConfig,
    PretrainConfig,
    ReportConfig,
)
from spectralgpt.training.pretraining import pretrain

SCENE = Path(spectralgpt.__file__).parent / "demo_data" / "scene"
NARROW = ModelConfig(
    size="tiny",
    embed_dim=16,
    depth=1,
    num_heads=2,
    decoder_embed_dim=16,
    decoder_depth=1,
    decoder_num_heads=2,
)
SMALL = PretrainConfig(
    model=NARROW,
    data=DataConfig(
        root=SCENE,
        exclude_bands=("B10",),
        image_size=16,
        samples_per_epoch=8,
        max_held_out=2,
    ),
    optimizer=OptimizerConfig(base_lr=0.01, warmup_epochs=0),
    trainer=TrainerConfig(epochs=1, batch_size=4, workers=0, accelerator="cpu"),
    report=ReportConfig(images=0),
)


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(SMALL, tmp_path_factory.mktemp("first") / "run")


@pytest.mark.slow
def test_next_stage_takes_the_weights_over_at_another_size(
    first_stage: Path, tmp_path: Path
) -> None:
    start = first_stage / "checkpoints" / "model"
    config = replace(
        SMALL,
        model=replace(NARROW, start_from=str(start)),
        data=replace(SMALL.data, image_size=32),
        optimizer=OptimizerConfig(base_lr=0.0, warmup_epochs=0),
    )
    second = load_model(pretrain(config, tmp_path / "run") / "checkpoints" / "model")
    first = load_model(start)
    assert isinstance(second.model, MaskedAutoencoder)
    assert isinstance(first.model, MaskedAutoencoder)
    assert second.model.encoder.image_size == 32
    # Without a learning rate, only decay could have changed a weight, by nothing.
    one, two = (m.model.encoder.blocks[0].state_dict() for m in (first, second))
    assert all(bool((one[name] == two[name]).all()) for name in one)
    assert second.preprocessing is not None
    assert second.preprocessing.image_size == 32


@pytest.mark.slow
def test_score_in_the_table_is_that_of_the_exported_model(first_stage: Path) -> None:
    rows = read_metrics(first_stage / "metrics.csv")
    assert [row["step"] for row in rows] == ["1", "2"]
    assert rows[-1]["val_masked_error"]
    assert (first_stage / "report.html").stat().st_size > 1000


@pytest.mark.parametrize(
    ("kind", "width", "message"),
    [
        (MaskedAutoencoder, 32, r"model\.embed_dim is 16 .* has 32"),
        (SpectralEncoder, 16, "holds a SpectralEncoder"),
    ],
)
def test_start_from_another_size_or_kind_is_refused_by_name(
    kind: type[MaskedAutoencoder], width: int, message: str, tmp_path: Path
) -> None:
    contract = sensor_preprocessing("sentinel-2-l1c", exclude=("B10",), image_size=16)
    sizes = {"embed_dim": width, "depth": 1, "num_heads": 2}
    model = kind(16, 12, wavelengths_nm=contract.wavelengths_nm, **sizes)
    save_model(tmp_path / "model", model, contract)
    config = replace(SMALL, model=replace(NARROW, start_from=str(tmp_path / "model")))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(SMALL, optimizer=OptimizerConfig(warmup_epochs=1)),
            r"warmup_epochs is 1, trainer\.epochs 1",
        ),
        (
            replace(SMALL, report=ReportConfig(images=1, items=("Lisbon",))),
            r"report\.items \['Lisbon'\] fit no held-out image",
        ),
        (
            replace(SMALL, data=replace(SMALL.data, samples_per_epoch=3)),
            "3 samples .* does not fill one step of 4",
        ),
    ],
)
def test_run_that_cannot_work_is_refused_before_it_starts(
    tmp_path: Path, config: PretrainConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (PretrainConfig, {"seed": -1}, "seed is -1; it must be at least 0"),
        (ReportConfig, {"images": -1}, r"report\.images is -1"),
        (ReportConfig, {"every_epochs": -2}, r"report\.every_epochs is -2"),
        (DataConfig, {"samples_per_epoch": 0}, r"data\.samples_per_epoch is 0"),
        (DataConfig, {"memory_mb": -1.0}, r"data\.memory_mb is -1"),
        (DataConfig, {"image_size": 0}, r"data\.image_size is 0"),
        (ModelConfig, {"depth": 0}, r"model\.depth is 0; it must be at least 1"),
        (ModelConfig, {"token_loss_weight": -1.0}, r"model\.token_loss_weight is -1"),
    ],
)
def test_impossible_settings_are_refused(
    kind: type[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


@pytest.mark.parametrize("stages", [(), ({"name": "only"},)])
def test_missing_accelerator_is_found_before_a_run_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: tuple[dict[str, Any], ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    kept = tmp_path / "checkpoints" / "last.ckpt"
    kept.parent.mkdir()
    for path in (kept, tmp_path / "config.yaml"):
        path.write_text("of the run before")
    trainer = replace(SMALL.trainer, accelerator="gpu")
    config = replace(SMALL, trainer=trainer, stages=stages)
    with pytest.raises(ConfigError, match="accelerator is 'gpu', and this machine has"):
        pretrain(config, tmp_path, overwrite=True)
    assert kept.read_text() == "of the run before"
    with pytest.raises(ConfigError, match="accelerator"):
        pretrain(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
