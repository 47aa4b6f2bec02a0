"""Our labelled data as TorchGeo's samples, and models in TorchGeo's trainers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from torchgeo.trainers import ClassificationTask

import spectralgpt.integrations  # noqa: F401  (timm knows our names then)
from spectralgpt.checkpoints import load_model
from spectralgpt.cli.main import main
from spectralgpt.data.dense.config import read_dense_config
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.errors import ConfigError
from spectralgpt.integrations.torchgeo import SampleDataModule, as_torchgeo
from spectralgpt.losses import IGNORE
from spectralgpt.rasters import read_raster

SHIPPED = "spectralgpt-tiny-s2"


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
        "spectralgpt_tiny", in_channels=12, num_classes=10, lr=1e-3
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
