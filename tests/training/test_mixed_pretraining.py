"""Several sensors in one run: losses apart, contracts kept, memory within budget."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from spectralgpt.checkpoints import load_model
from spectralgpt.config import build_config
from spectralgpt.errors import ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.rasters import read_raster
from spectralgpt.tasks.pretraining import PretrainingTask
from spectralgpt.training.loading import EpochBatchSampler, KeyedDataset, build_loader
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_data import load_pretraining_data
from spectralgpt.training.pretrain_models import build_model as build_run_model
from spectralgpt.training.pretraining import pretrain
from tests.imagery import write_archive
from tests.training.test_stages import NARROW, TRAINER, InterruptedRunError, StopAt

GAOFEN = "gaofen-2-pms"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_archive(root, "s2", "sentinel-2-l2a", missing={1: ("B04", "B05", "B06")})
    write_archive(root, "gaofen", GAOFEN)
    return root


def mixed(root: Path) -> dict[str, Any]:
    return {
        "model": NARROW,
        "data": {
            "root": str(root),
            "scaling": "fixed-range",
            "max_held_out": 2,
            "samples_per_epoch": 16,
            "mixture": [
                {
                    "name": "sentinel-2",
                    "weight": 3,
                    "sources": [str(root / "s2.yaml")],
                    "sensor": "sentinel-2-l2a",
                    "image_size": 16,
                    "allow_missing_bands": True,
                },
                {
                    "name": "gaofen",
                    "sources": [str(root / "gaofen.yaml")],
                    "sensor": GAOFEN,
                    "image_size": 24,
                },
            ],
        },
        "masking": {"ratio": 0.5},
        "optimizer": {"base_lr": 0.1, "warmup_epochs": 0},
        "trainer": TRAINER,
        "report": {"images": 0},
    }


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = build_config(mixed(root), PretrainConfig, "test")
    return pretrain(config, tmp_path_factory.mktemp("mixed") / "run")


def test_losses_of_the_sensors_are_logged_apart(run: Path) -> None:
    rows = read_metrics(run / "metrics.csv")
    names = ("loss_sentinel-2", "loss_gaofen")
    assert [sum(bool(row[name]) for row in rows) for name in names] == [12, 4]
    for row in rows:
        assert [row["loss"]] == [row[name] for name in names if row[name]]
    assert rows[-1]["val_masked_error_gaofen"]
    page = (run / "report.html").read_text()
    assert "Losses by data set" in page
    assert "against simple fillers: gaofen" in page


@pytest.mark.parametrize(
    ("tokenizer", "subsets", "share"),
    [(None, None, 0.7), ("linear", None, 0.0), ("spectral", 0.2, 0.2)],
)
def test_mixed_sensors_take_the_spectral_tokenizer_and_any_bands(
    root: Path, tokenizer: str | None, subsets: float | None, share: float
) -> None:
    plain = mixed(root)
    plain["model"] = {**plain["model"], "tokenizer": tokenizer}
    plain["data"]["band_subsets"] = subsets
    config = build_config(plain, PretrainConfig, "test")
    data = load_pretraining_data(config)
    model = build_run_model(config, data.preprocessing)
    assert (model.encoder.tokenizer is None) == (tokenizer == "linear")
    sentinel = data.train.datasets[0]
    drawn = [len(sentinel.contract_of(seed).bands) for seed in range(200)]
    assert sum(count < 12 for count in drawn) / 200 == pytest.approx(share, abs=0.15)
    assert data.held_out is not None
    scored = data.held_out.datasets[0]
    assert {len(scored.contract_of(seed).bands) for seed in range(20)} == {12}


def test_run_from_before_the_choice_of_tokenizers_goes_on(
    root: Path, tmp_path: Path
) -> None:
    plain = mixed(root)
    begun = {**plain, "model": {**plain["model"], "tokenizer": "linear"}}
    config = build_config(begun, PretrainConfig, "test")
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        pretrain(config, run, callbacks=[StopAt(4, 16)])
    # As an earlier version left it: neither setting was known.
    written = yaml.safe_load((run / "config.yaml").read_text())
    del written["model"]["tokenizer"], written["data"]["band_subsets"]
    (run / "config.yaml").write_text(yaml.safe_dump(written))
    whole = build_config(plain, PretrainConfig, "test")
    pretrain(whole, run, resume=True)
    assert load_model(run).encoder.tokenizer is None


def test_weights_that_follow_bands_cannot_become_linear(root: Path, run: Path) -> None:
    plain = mixed(root)
    start = {"start_from": str(run), "tokenizer": "linear"}
    plain["model"] = {**plain["model"], **start}
    config = build_config(plain, PretrainConfig, "test")
    data = load_pretraining_data(config)
    with pytest.raises(ConfigError, match="tokenizer is linear, but the weights of"):
        build_run_model(config, data.preprocessing)


def test_checkpoint_loads_at_each_sensor_with_its_scaling(run: Path) -> None:
    primary = load_model(run).preprocessing
    loaded = load_model(run, sensor=GAOFEN)
    at_gaofen = loaded.preprocessing
    assert primary is not None
    assert at_gaofen is not None
    assert (primary.sensor, primary.image_size) == ("sentinel-2-l2a", 16)
    assert (at_gaofen.sensor, at_gaofen.image_size) == (GAOFEN, 24)
    assert at_gaofen.statistics is not None
    assert set(at_gaofen.statistics.mean) == {"B1", "B2", "B3", "B4"}
    assert loaded.encoder.num_bands == 4
    images = torch.rand(1, 4, 24, 24)
    # Moved to its bands, or told their wavelengths: the same model.
    own = load_model(run).encoder(images, at_gaofen.band_rows)
    assert torch.allclose(loaded.encoder(images), own, atol=1e-5)


def test_statistics_are_those_of_the_training_parts(root: Path) -> None:
    values = mixed(root)
    values["data"]["mixture"] = values["data"]["mixture"][1:]
    config = build_config(values, PretrainConfig, "test")
    data = load_pretraining_data(config)
    dataset = data.train.datasets[0]
    assert data.preprocessing.statistics is not None
    measured = data.preprocessing.statistics.high["B1"]
    brightest = [
        read_raster(dataset.items[p.item], dataset.preprocessing.bands, p.window).pixels
        for p in dataset.parts
    ]
    largest = max(float(pixels[0].max()) for pixels in brightest)
    everywhere = max(float(read_raster(i).pixels[0].max()) for i in dataset.items)
    assert measured <= largest
    assert dataset.parts[0].window.height < 64
    assert largest <= everywhere


def test_data_set_that_cannot_be_used_is_named(root: Path) -> None:
    values = mixed(root)
    values["data"]["mixture"][1]["token_budget"] = 8
    config = build_config(values, PretrainConfig, "test")
    with pytest.raises(ConfigError, match=r"data set 'gaofen': token_budget is 8"):
        load_pretraining_data(config)


def test_missing_bands_are_never_visible_and_count_in_no_loss(root: Path) -> None:
    config = build_config(mixed(root), PretrainConfig, "test")
    data = load_pretraining_data(config)
    dataset = data.train.datasets[0]
    lacking = next(i for i in range(len(dataset)) if "1.tif" in dataset.item_of(i).name)
    generator = torch.Generator().manual_seed(0)
    samples = [dataset.draw(index, generator) for index in (0, lacking)]
    batch: dict[str, Any] = torch.utils.data.default_collate(samples)
    batch["seed"] = torch.tensor([1, 2])
    torch.manual_seed(0)
    model = MaskedAutoencoder(
        16, 12, embed_dim=16, depth=1, num_heads=2,
        wavelengths_nm=dataset.preprocessing.wavelengths_nm,
    )  # fmt: skip
    task = PretrainingTask(model, mask_ratio=0.5)
    # B04 to B06 are a band group of their own, the second of four.
    masked = task.forward(batch).mask.reshape(2, 4, 4)
    assert masked[1, 1].tolist() == [1] * 4
    assert masked.sum(dim=(1, 2)).tolist() == [8, 8]
    before = task.loss(batch)
    batch["images"][1, 3:6] = 100.0
    after = task.loss(batch)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_two_processes_follow_one_on_a_mixture(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    values = mixed(root)
    # Means over a batch with missing bands weigh images by what they have.
    whole = write_archive(root, "whole", "sentinel-2-l2a")
    values["data"]["mixture"][0]["sources"] = [str(whole)]
    # A second stage, so that processes started for the first go on to it.
    values["stages"] = [{"name": "a"}, {"name": "b", "seed": 1}]
    path.write_text(yaml.safe_dump(values))
    found = []
    for name, options in (
        ("one", ()),
        ("two", ("--trainer.devices=2", "--trainer.batch_size=1")),
    ):
        done = subprocess.run(
            [
                sys.executable, "-m", "spectralgpt", "pretrain", "--config", str(path),
                "--output", str(tmp_path / name), "--trainer.strategy=ddp", *options,
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = [
            row
            for stage in ("stage-1-a", "stage-2-b")
            for row in read_metrics(tmp_path / name / stage / "metrics.csv")
        ]
        found.append([(bool(row["loss_gaofen"]), float(row["loss"])) for row in rows])
    one, two = found
    assert [kind for kind, _ in one] == [kind for kind, _ in two]
    assert len(one) == 32
    losses = [loss for _, loss in one]
    assert [loss for _, loss in two] == pytest.approx(losses, rel=1e-4)


@pytest.mark.slow
def test_224_bands_train_within_the_budget(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "enmap_potsdam" / "images"
    described = tmp_path / "enmap.yaml"
    source = {"root": ".", "items": "*.tif", "sensor": "enmap-l2a"}
    described.write_text(yaml.safe_dump({**source, "unit": "digital-numbers"}))
    values = {
        "model": {"size": "tiny"},
        "data": {
            "root": str(root),
            "sources": [str(described)],
            "sensor": "enmap-l2a",
            "image_size": 32,
            "token_budget": 192,
        },
        "masking": {"ratio": 0.75},
    }
    config = build_config(values, PretrainConfig, "test")
    data = load_pretraining_data(config)
    model = MaskedAutoencoder(
        32, 224, embed_dim=192, depth=6, num_heads=3, decoder_embed_dim=128,
        decoder_depth=2, decoder_num_heads=4,
        wavelengths_nm=data.preprocessing.wavelengths_nm,
    )  # fmt: skip
    task = PretrainingTask(model, mask_ratio=0.75)
    batches = EpochBatchSampler(
        data.train.sizes, 16, 4, 1, 0, weights=data.train.weights
    )
    kept: list[int] = []
    hook = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor.nbytes), tensor)[1], lambda tensor: tensor
    )
    spectra = set()
    for batch in build_loader(KeyedDataset(data.train, True), batches, 0):
        output = task.forward(batch)
        assert output.prediction.shape[:2] == (4, 192)
        assert output.latent.shape[1] == 48
        spectra.add(tuple(batch["bands"][0, :, 0].tolist()))
        with hook:
            kept.clear()
            task.loss(batch)["loss"].backward()
        # All that is kept for the backward pass, of four samples.
        assert sum(kept) < 300 * 2**20
    assert len(spectra) == 4
