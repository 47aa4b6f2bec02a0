"""Our weights and labelled data as TorchGeo knows such, and in TorchGeo's trainers."""

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from torchgeo.models import (
    ResNet18_Weights,
    api,
    get_model,
    get_model_weights,
    get_weight,
    list_models,
)
from torchgeo.trainers import ClassificationTask

import spectralgpt
from spectralgpt.checkpoints import load_model
from spectralgpt.cli.main import main
from spectralgpt.data.dense.config import read_dense_config
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.errors import CheckpointError, ConfigError, UnitError
from spectralgpt.integrations import torchgeo as integration
from spectralgpt.integrations.torchgeo import (
    SampleDataModule,
    SpectralGPT_Weights,
    as_torchgeo,
    spectralgpt_base,
    spectralgpt_tiny_s2,
    to_reflectance,
)
from spectralgpt.losses import IGNORE
from spectralgpt.rasters import Stated, describe_raster, read_raster
from spectralgpt.weights import list_weights
from tests.raster_files import write_tiff

SHIPPED = "spectralgpt-tiny-s2"
TINY_S2 = SpectralGPT_Weights.SPECTRALGPT_TINY_S2
BANDS = TINY_S2.meta["bands"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "archive"
    tasks = "classification,segmentation"
    main(f"simulate --output {folder} --tasks {tasks} --images 40".split())
    return folder


def labels_of(archive: Path) -> dict[str, Any]:
    return {"root": str(archive / "classification"), "sensor": "sentinel-2-l2a"}


def test_samples_are_reflectance_of_the_models_bands_with_a_mask(archive: Path) -> None:
    contract = load_model(SHIPPED).preprocessing
    assert contract is not None
    dense = read_dense(read_dense_config(archive / "segmentation_labels.yaml"))
    dataset = as_torchgeo(dense, contract.for_images(64))
    item = dataset[2]
    assert sorted(item) == ["image", "mask"]
    assert item["mask"].shape == (64, 64)
    assert item["mask"].dtype == torch.int64
    assert item["mask"].min() >= IGNORE
    assert item["mask"].max() < len(dataset.classes)
    raster = read_raster(dense.samples[2].item, contract.bands)
    there = torch.from_numpy(raster.valid)
    assert there.float().mean() > 0.5
    expected = torch.from_numpy(raster.pixels)[there]
    torch.testing.assert_close(item["image"][there], expected)
    figure = dataset.plot({**item, "prediction": item["mask"]}, suptitle="one")
    assert [axes.get_title() for axes in figure.axes] == ["image", "mask", "prediction"]
    changed = as_torchgeo(
        dense, contract, transforms=lambda each: {**each, "name": torch.ones(1)}
    )
    assert "name" in changed[0]


def test_augmented_samples_follow_the_seed(archive: Path) -> None:
    contract = load_model(SHIPPED).preprocessing
    dense = read_dense(read_dense_config(archive / "segmentation_labels.yaml"))
    dataset = as_torchgeo(dense, contract, augments=True)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(torch.stack([dataset[index]["image"] for index in range(6)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchgeos_trainer_learns_on_our_weights_and_data(
    archive: Path, tmp_path: Path
) -> None:
    seed_everything(0)
    data = SampleDataModule(labels=labels_of(archive), batch_size=8)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape[1:] == (12, 32, 32)
    task = ClassificationTask(
        "spectralgpt", weights=True, in_channels=12, num_classes=10, lr=1e-3
    )
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    before = task.model.head.weight.clone()
    trainer.fit(task, datamodule=data)
    (found,) = trainer.validate(task, datamodule=data, verbose=False)
    assert np.isfinite(found["val_loss"])
    assert not torch.equal(before, task.model.head.weight)


def test_labels_or_masks_are_given_not_both(archive: Path) -> None:
    for given in ({}, {"labels": labels_of(archive), "masks": "masks.yaml"}):
        with pytest.raises(ConfigError, match="give one of both"):
            SampleDataModule(**given)
    wrong = SampleDataModule(labels={"rot": str(archive)})
    with pytest.raises(ConfigError, match="root"):
        wrong.setup()


def test_torchgeo_finds_our_models_and_weights_by_name() -> None:
    for builder in (spectralgpt_tiny_s2, spectralgpt_base):
        assert builder.__name__ in list_models()
        for known_as in (builder, builder.__name__):
            assert get_model_weights(known_as) is SpectralGPT_Weights
    named = {each.meta["weights"]: each for each in SpectralGPT_Weights}
    assert sorted(named) == sorted(list_weights())
    for name, known in list_weights().items():
        entry = named[name]
        assert get_weight(str(entry)) is entry
        assert entry.url == known.url
        assert entry.meta["bands"] == known.contract["band_names"]
        assert entry.meta["in_chans"] == len(entry.meta["bands"])
        assert entry.meta["licence"] == known.licence
        assert entry.meta["citation"] == known.citation
        assert entry.meta["model"] in list_models()
        assert copy.deepcopy(entry) is entry
        assert pickle.loads(pickle.dumps(entry)) is entry


def test_digital_numbers_give_the_features_of_the_same_file_read_by_us(
    tmp_path: Path,
) -> None:
    numbers = torch.randint(1, 6000, (12, 32, 32))
    numbers[:, :3] = 0  # No measurement.
    numbers[4, 5:7] = 65_535  # Saturated.
    contract = load_model(SHIPPED).preprocessing
    path = write_tiff(
        tmp_path / "a.tif", numbers.numpy().astype("uint16"), descriptions=BANDS
    )
    stated = Stated(sensor=contract.sensor, unit="digital-numbers", offset=0)
    raster = read_raster(describe_raster(path, stated=stated), contract.bands)
    scaled = torch.from_numpy(contract.prepare(raster)[0])[None]
    expected = spectralgpt.load(SHIPPED).pooled_by_group(scaled)

    sample = {"image": numbers[None], "label": torch.tensor([1])}
    taken = TINY_S2.transforms(sample)
    assert torch.equal(taken["label"], sample["label"])
    assert torch.equal(taken["image"][0].isnan(), (numbers == 0) | (numbers > 6000))
    for weights in (TINY_S2, str(TINY_S2)):
        model = get_model("spectralgpt_tiny_s2", weights=weights).eval()
        torch.testing.assert_close(model(taken["image"]), expected)
    for value in model.state_dict().values():
        value.zero_()
    model.load_state_dict(TINY_S2.get_state_dict(progress=True))
    torch.testing.assert_close(model(taken["image"]), expected)


def test_nothing_is_scaled_twice_and_newer_numbers_lose_their_offset() -> None:
    numbers = torch.full((1, 12, 4, 4), 1500)
    assert TINY_S2.transforms(numbers).unique().tolist() == pytest.approx([0.15])
    since_2022 = to_reflectance(numbers, offset=-1000)
    assert since_2022.unique().tolist() == pytest.approx([0.05])
    with pytest.raises(UnitError, match=r"0\.15, so they are reflectance"):
        TINY_S2.transforms(TINY_S2.transforms(numbers))
    with pytest.raises(UnitError, match="divide digital numbers"):
        spectralgpt_tiny_s2(TINY_S2, img_size=32)(numbers.float().expand(1, 12, 4, 4))
    assert to_reflectance(torch.zeros(12, 4, 4)).isnan().all()
    assert to_reflectance(torch.zeros(0, 12, 4, 4)).shape == (0, 12, 4, 4)
    with pytest.raises(ConfigError, match="state their own scale"):
        to_reflectance(numbers, sensor="gaofen-1-pms")


def test_weights_of_another_model_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in (TINY_S2, "SPECTRALGPT", ResNet18_Weights.SENTINEL2_ALL_MOCO):
        with pytest.raises(
            ConfigError, match=r"no weights .*: SpectralGPT_Weights\.SPE"
        ):
            spectralgpt_base(wrong)
    with pytest.raises(ConfigError, match="pass weights="):
        get_model("spectralgpt_tiny_s2")
    assert spectralgpt_base(depth=1, in_chans=6).encoder.num_bands == 6
    # What is published goes through our own cache, and never through torch.hub.
    monkeypatch.setenv("SPECTRALGPT_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for ask in (spectralgpt_base, SpectralGPT_Weights.get_state_dict):
        with pytest.raises(CheckpointError, match=r"SpectralGPT\+ is not at .*forbids"):
            ask(SpectralGPT_Weights.SPECTRALGPT_PLUS)


# Newer ones call it torchgeo.tasks.Classification, and say so.
@pytest.mark.filterwarnings("ignore")
def test_torchgeos_trainer_takes_our_weights_by_true() -> None:
    task = ClassificationTask(
        "spectralgpt", weights=True, in_channels=12, num_classes=4, freeze_backbone=True
    ).eval()
    model = spectralgpt_tiny_s2(TINY_S2, num_classes=4).eval()
    model.head.load_state_dict(task.model.head.state_dict())
    images = torch.rand(2, 12, 32, 32) * 0.4
    assert torch.equal(task(images), model(images))
    learned = [name for name, each in task.named_parameters() if each.requires_grad]
    assert learned == ["model.head.weight", "model.head.bias"]
    with pytest.raises(ConfigError, match="weights=True"):
        ClassificationTask("spectralgpt", weights=TINY_S2, in_channels=12)


def test_a_torchgeo_of_another_kind_is_left_alone_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api, "_model", {"spectralgpt_base": len})
    monkeypatch.setattr(api, "_model_weights", {})
    integration._tell_torchgeo()
    assert api._model == {
        "spectralgpt_base": len,
        "spectralgpt_tiny_s2": spectralgpt_tiny_s2,
    }
    assert list(api._model_weights) == ["spectralgpt_tiny_s2", spectralgpt_tiny_s2]
    monkeypatch.setattr(api, "_model", ("another", "kind"))
    monkeypatch.delattr(api, "_model_weights")
    with caplog.at_level(logging.WARNING):
        integration._tell_torchgeo()
    assert len(caplog.records) == 1
    assert "functions of spectralgpt.integrations.torchgeo" in caplog.text
    assert api._model == ("another", "kind")
