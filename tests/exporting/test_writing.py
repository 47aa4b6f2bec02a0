"""Exported files give the model's numbers, say what they take, or are not there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectralgpt.checkpoints import LoadedModel, load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.exporting import (
    ExportOptions,
    export_model,
    read_description,
    writing,
)
from spectralgpt.exporting.graphs import ReflectanceScaling
from spectralgpt.exporting.writing import open_exported
from spectralgpt.preprocessing import Preprocessing
from tests.exported import CLASSES, contract, loaded
from tests.tiny import tiny_encoder

FORMATS = [".onnx", ".pt2"]


def in_eager_mode(model: LoadedModel, images: torch.Tensor) -> torch.Tensor:
    rules = model.preprocessing
    assert rules is not None
    with torch.no_grad():
        return model.model(ReflectanceScaling(rules)(images))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["classifier", "change"])
def test_logits_of_any_batch_are_the_models(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    model = loaded(kind)
    path = tmp_path / f"model{suffix}"
    parity = export_model(model, path)
    assert parity.batches == (1, 3)
    assert parity.difference < 1e-5
    run = open_exported(path)
    for size in (1, 2, 5):
        shape = (size, 2, 12, 32, 32) if kind == "change" else (size, 12, 32, 32)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(size))
        (logits,) = run(images)
        expected = in_eager_mode(model, images)
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["upernet", "fpn", "linear"])
@pytest.mark.parametrize("scaling", ["image-minmax", "fixed-range", "two-std-uint8"])
def test_every_head_and_scaling_is_exported(
    tmp_path: Path, kind: str, scaling: Any, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    assert export_model(loaded(kind, scaling), path).difference < 1e-5


@pytest.mark.parametrize("suffix", FORMATS)
def test_embeddings_of_a_moved_model(tmp_path: Path, suffix: str) -> None:
    save_model(tmp_path / "run", loaded("autoencoder").model, contract("image-minmax"))
    moved = load_model(tmp_path / "run", image_size=48)
    moved.encoder.add_date_embedding()  # As models of series have it.
    path = tmp_path / f"model{suffix}"
    export_model(moved, path, ExportOptions(batch=2))
    embedding, tokens = open_exported(path)(torch.rand(2, 12, 48, 48))
    assert embedding.shape == (2, 48)
    assert tokens.shape == (2, 4, 6, 6, 48)
    assert read_description(path)["input"]["shape"] == [2, 12, 48, 48]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_contract_comes_back_from_the_file(tmp_path: Path, suffix: str) -> None:
    model = loaded("classifier")
    path = tmp_path / f"model{suffix}"
    export_model(model, path)
    found = read_description(path)
    assert Preprocessing.from_dict(found["preprocessing"]) == model.preprocessing
    assert found["class_names"] == list(CLASSES)
    assert found["task"] == "single-label"
    assert found["input"]["bands"][7:9] == ["B08", "B8A"]
    assert found["input"]["unit"] == "reflectance"
    assert "z-score" in found["input"]["scaling"]
    assert "/home/me" not in json.dumps(found)
    beside = tmp_path / f"model{suffix}.json"
    assert json.loads(beside.read_text()) == found
    assert sorted(tmp_path.iterdir()) == [path, beside]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_with_other_numbers_is_not_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"model{suffix}"
    with pytest.raises(CheckpointError, match="was not kept: it differs"):
        export_model(loaded("classifier"), path, ExportOptions(tolerance=1e-12))
    assert not path.exists()
    assert list(tmp_path.rglob("*.*")) == []


def test_a_wrong_graph_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scale_twice(graph: Any, reflectance: torch.Tensor) -> torch.Tensor:
        return graph.model(graph.scaling(graph.scaling(reflectance)))

    monkeypatch.setattr(writing.ExportGraph, "forward", scale_twice)
    with pytest.raises(CheckpointError, match="differs from the model"):
        export_model(loaded("classifier"), tmp_path / "model.pt2")


def test_large_weights_lie_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 2**10)
    path = tmp_path / "model.onnx"
    export_model(loaded("classifier"), path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "model.onnx", "model.onnx.data", "model.onnx.json",
    ]  # fmt: skip
    (logits,) = open_exported(path)(torch.rand(1, 12, 32, 32))
    assert np.isfinite(logits.numpy()).all()
    monkeypatch.undo()
    export_model(loaded("classifier"), path)
    assert not (tmp_path / "model.onnx.data").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"no model at all")
    with pytest.raises(CheckpointError, match="carries no SpectralGPT description"):
        read_description(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_description(tmp_path / f"none{suffix}")


def test_models_without_contract_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no preprocessing contract"):
        export_model(LoadedModel(tiny_encoder(), None), tmp_path / "model.pt2")
