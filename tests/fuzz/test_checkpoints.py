"""Damaged checkpoints: one short error, or a model that works."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectralgpt.checkpoints import load_model, save_model, save_published
from spectralgpt.errors import SpectralGPTError
from spectralgpt.models.heads import SegmentationModel
from spectralgpt.models.weights import check_output
from spectralgpt.preprocessing import BandStatistics
from spectralgpt.rasters import Raster
from spectralgpt.scenes.maps import build_mapper
from spectralgpt.sensors import load_sensor
from spectralgpt.training.checkpointing import AtomicCheckpointIO, read_checkpoint
from tests.fuzz.mutate import bounded, mutate_bytes, mutate_value, refusal, rounds
from tests.tiny import tiny_contract, tiny_encoder, tiny_model

VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2, 7, 1.5, 10**6, 10**12, 10**300),
    *(float("nan"), float("inf"), -0.0, "", "x", "8", [], {}, [[]], [None], {"a": 1}),
    *(["B02"] * 12, [490.0] * 12, [1e300] * 12, "\x00", "é" * 1000),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    extra = {"class_names": ["a", "b", "c"], "task": "segmentation", "window_px": 32}
    model = SegmentationModel(tiny_encoder(), 3, head="linear")
    names = tiny_contract().band_names
    values = [{name: 0.1 * (place + 1) for name in names} for place in range(4)]
    contract = replace(
        tiny_contract(), scaling="z-score", statistics=BandStatistics(*values, "x")
    )
    return save_model(folder, model, contract, extra) / "model.safetensors"


def some_raster() -> Raster:
    """All bands of the contract's sensor, 32 px wide."""
    bands = load_sensor("sentinel-2-l1c").select()
    pixels = np.full((len(bands), 32, 32), 0.2, np.float32)
    pixels[:, ::2] = 0.3
    return Raster(pixels, np.ones(pixels.shape, np.bool_), bands, name="scene.tif")


def try_model(path: Path) -> bool:
    """Load a model and run it, as a command does; whether that was refused."""
    try:
        loaded = load_model(path)
    except SpectralGPTError as error:
        refusal(error)
        return True
    images = torch.rand(1, loaded.encoder.num_bands, 32, 32)
    try:
        if loaded.preprocessing is not None:
            prepared, _ = loaded.preprocessing.prepare(some_raster())
            images = torch.from_numpy(prepared)[None]
            assert images.isfinite().all()
        with torch.inference_mode():
            # Flipped bits may make huge weights; commands refuse what those give.
            check_output(loaded.encoder(images))
        if "class_names" in loaded.extra:
            build_mapper(loaded, path.name, flips=False)
    except SpectralGPTError as error:
        refusal(error)
    return False


def test_damaged_configurations(saved: Path, tmp_path: Path) -> None:
    whole = json.loads(saved.with_name("config.json").read_text())
    weights = load_file(saved)
    path = tmp_path / "model.safetensors"
    for seed in rounds():
        damaged = mutate_value(whole, seed, VALUES)
        save_file(weights, path, {"config": json.dumps(damaged)})
        with bounded():
            try_model(path)


def test_damaged_headers_and_weights(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path = tmp_path / "model.safetensors"
    for seed in rounds():
        path.write_bytes(mutate_bytes(content, seed, header))
        with bounded():
            try_model(path)


def test_damaged_published_files(tmp_path: Path) -> None:
    whole = save_published(tmp_path / "whole.pth", tiny_model())
    note = {"acc": np.float64(1.5), "epoch": 3}
    torch.save(torch.load(whole, weights_only=True) | note, whole)
    content, path = whole.read_bytes(), tmp_path / "model.pth"
    for seed in rounds():
        path.write_bytes(mutate_bytes(content, seed, 4096))
        with bounded():
            try_model(path)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint as Lightning lays it out."""
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    AtomicCheckpointIO().save_checkpoint(
        {
            "epoch": 1,
            "global_step": 7,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": state,
            "loops": {"fit_loop": {}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
        },
        path,
    )
    return path


def test_damaged_training_checkpoints(last: Path, tmp_path: Path) -> None:
    content, path = last.read_bytes(), tmp_path / "last.ckpt"
    assert read_checkpoint(last, mmap=True, resumable=True)["global_step"] == 7
    for seed in rounds():
        path.write_bytes(mutate_bytes(content, seed, 8192))
        with bounded():
            try:
                read_checkpoint(path, mmap=True, resumable=True)
            except SpectralGPTError as error:
                refusal(error)


def test_training_checkpoints_cut_anywhere(last: Path, tmp_path: Path) -> None:
    content, path = last.read_bytes(), tmp_path / "last.ckpt"
    for seed in rounds():
        path.write_bytes(content[: len(content) * seed // len(rounds())])
        with bounded(), pytest.raises(SpectralGPTError, match=r"last\.ckpt") as caught:
            read_checkpoint(path, mmap=True, resumable=True)
        refusal(caught.value)
