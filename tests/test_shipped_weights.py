"""The weights that ship with the package: they are there, small, and can be remade."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import spectralgpt
from spectralgpt.checkpoints import load_model
from spectralgpt.cli.main import main
from spectralgpt.data.crops import CropConfig
from spectralgpt.data.pretraining import MixedDataset, PretrainingDataset
from spectralgpt.demo.imagery import Imagery
from spectralgpt.objectives.maskfeat import MaskedFeatures
from spectralgpt.rasters import Window
from spectralgpt.scenes.reconstruction import rebuild_window
from spectralgpt.tasks.pretraining import PretrainingTask, score_reconstructions
from spectralgpt.training.held_out import load_batches
from spectralgpt.training.loading import FixedBatchSampler
from spectralgpt.training.logs import read_metrics
from spectralgpt.weights import find_named, verify

NAME = "spectralgpt-tiny-s2"
PROJECT = Path(__file__).parent.parent
SHARED = PROJECT.parent / "shared" / "data"


def test_they_are_small_and_the_file_is_the_one_that_was_measured() -> None:
    named = find_named(NAME)
    assert named is not None
    assert named.url is None
    assert named.path.stat().st_size == named.size
    assert named.path.stat().st_size <= 8 * 2**20
    digest = hashlib.sha256(named.path.read_bytes()).hexdigest()
    assert verify(named) == named.hash == f"sha256:{digest}"


def test_they_load_by_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = spectralgpt.load(NAME)
    assert sum(p.numel() for p in encoder.parameters()) <= 4_000_000
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    contract = load_model(NAME).preprocessing
    assert contract is not None
    assert contract.scaling == "log"
    assert len(contract.bands) == 12
    with torch.inference_mode():
        found = encoder.eval()(torch.randn(1, 12, 64, 64))
    assert found.shape == (1, 1, 8, 8, 512)


def test_what_they_learned_from_is_listed_without_what_they_are_scored_on() -> None:
    listed = json.loads((PROJECT / "docs" / "weights_data.json").read_text())
    assert listed["virginia_s2_l1c"]["licence"].startswith("CC0")
    assert {len(h) for each in listed.values() for h in each["files"].values()} == {64}
    for name in ("barkbeetle", "terramesh", "hydro"):
        assert not any(name in source for source in listed)


def test_they_rebuild_a_scene_that_they_never_saw_better_than_its_bands_means() -> None:
    loaded, scene = load_model(NAME), Imagery.shipped()
    assert isinstance(loaded.model, MaskedFeatures)
    assert loaded.preprocessing is not None
    assert scene.held_out is not None
    item = replace(scene.strips[scene.held_out][0], holdout="place")
    crops = CropConfig(val_share=0.999)
    images = PretrainingDataset([item], loaded.preprocessing, "val", crops)
    batches = FixedBatchSampler([list(range(len(images)))], 16, 0)
    task = PretrainingTask(loaded.model.eval(), 0.75)
    found = score_reconstructions(
        task, load_batches(MixedDataset({"scene": images}), batches, 0)
    )
    assert found["model"] < found["band_mean"]


@pytest.mark.slow
def test_they_rebuild_it_a_fifth_better_than_the_best_interpolation() -> None:
    loaded, scene = load_model(NAME), Imagery.shipped()
    assert isinstance(loaded.model, MaskedFeatures)
    assert loaded.preprocessing is not None
    assert scene.held_out is not None
    strip, _ = scene.strips[scene.held_out]
    window = Window(0, 0, 192, 640)
    ratios = [
        rebuild_window(
            loaded.model, loaded.preprocessing, strip, window, 0.75, seed
        ).scores.error_ratio
        for seed in range(5)
    ]
    assert np.mean(ratios) < 0.8


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real samples of ../shared")
def test_a_tenth_of_their_training_runs_again(tmp_path: Path) -> None:
    archive, work, run = (tmp_path / name for name in ("archive", "work", "run"))
    main(f"simulate --output {archive} --tasks scenes --images 200".split())
    tool = PROJECT / "tools" / "shipped_data.py"
    told = f"{tool} --data {SHARED} --simulated {archive} --output {work}"
    subprocess.run([sys.executable, *told.split()], check=True)
    listed = json.loads((work / "data.json").read_text())
    stated = json.loads((PROJECT / "docs" / "weights_data.json").read_text())
    del listed["simulated"], stated["simulated"]  # Of fewer images here.
    assert listed == stated
    shared = (
        f"pretrain --config pretrain_maskfeat --trainer.workers 0 --data.root {work} "
        f"--data.sources [{work}/sources]"
    )
    main(f"{shared} --trainer.epochs 4 --output {run}".split())
    finish = [
        *f"--trainer.epochs 1 --output {run}-finished --model.start-from {run}".split(),
        *f"--data.statistics {run} --optimizer.layer-decay 0.5".split(),
        *("--data.crops.transpose", "true"),
        *("--settings", "{pixel_loss_weight: 1, feature_loss_weight: 0.1}"),
    ]
    main([*shared.split(), *finish])
    rows = read_metrics(run / "metrics.csv")
    last = read_metrics(run.with_name("run-finished") / "metrics.csv")
    for name in ("pixel_loss", "feature_loss"):
        values, found = (
            [float(row[name]) for row in part if row.get(name)] for part in (rows, last)
        )
        assert np.mean(values[-5:]) < 0.5 * np.mean(values[:3])
        assert np.mean(found[-5:]) < 1.2 * np.mean(values[-5:])
