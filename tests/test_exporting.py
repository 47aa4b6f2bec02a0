"""Exported files: their scaling is that of training, their numbers the model's."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt import exporting, objectives
from spectralgpt.checkpoints import LoadedModel, load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.exporting import export_model, read_description
from spectralgpt.preprocessing import Preprocessing, Scaling
from spectralgpt.rasters import Raster
from tests.exported import CLASSES, contract, loaded
from tests.tiny import tiny_encoder, tiny_objective


@pytest.mark.parametrize("scaling", get_args(Scaling))
@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), invalid=st.floats(0, 0.9), empty=st.booleans())
def test_scaling_is_that_of_the_contract(
    scaling: Scaling, seed: int, invalid: float, empty: bool
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-0.1, 1.2, (12, 8, 8)).astype(np.float32)
    valid = rng.random(pixels.shape) >= invalid
    valid[0, 0, 0] = True
    if empty:
        valid[3] = False
    rules = contract(scaling)
    expected, _ = rules.prepare(Raster(pixels, valid, rules.bands), is_checked=True)
    images = torch.from_numpy(np.where(valid, pixels, np.float32(np.nan)))
    scaled = exporting.ReflectanceScaling(rules)(images[None])[0].numpy()
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-5)


def test_embedding_is_what_embed_writes() -> None:
    model = loaded("autoencoder")
    images = torch.rand(2, 12, 32, 32)
    embedding, tokens = exporting._ExportGraph(model, "embeddings")(images)
    scaled = exporting.ReflectanceScaling(contract("z-score"))(images)
    assert torch.allclose(embedding, model.encoder.pooled(scaled), atol=1e-6)
    assert torch.equal(tokens, model.encoder(scaled))


def test_auto_takes_logits_where_there_are_any() -> None:
    assert exporting._choose_output(loaded("classifier"), "auto") == "logits"
    assert exporting._choose_output(loaded("fpn"), "auto") == "logits"
    assert exporting._choose_output(loaded("autoencoder"), "auto") == "embeddings"
    assert exporting._choose_output(loaded("classifier"), "embeddings") == "embeddings"
    with pytest.raises(ConfigError, match="no logits: export embeddings"):
        exporting._choose_output(loaded("encoder"), "logits")


def test_change_takes_two_dates_and_its_embeddings_one() -> None:
    model = loaded("change")
    assert exporting._input_shape(model, "logits") == (2, 12, 32, 32)
    assert exporting._input_shape(model, "embeddings") == (12, 32, 32)


def test_a_model_without_contract_is_refused() -> None:
    with pytest.raises(ConfigError, match="carries no preprocessing contract"):
        exporting._ExportGraph(LoadedModel(tiny_encoder(), None), "embeddings")


FORMATS = [".onnx", ".pt2"]


def in_eager_mode(model: LoadedModel, images: torch.Tensor) -> torch.Tensor:
    rules = model.preprocessing
    assert rules is not None
    with torch.no_grad():
        return model.model(exporting.ReflectanceScaling(rules)(images))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["classifier", "windowed", "change"])
def test_logits_of_any_batch_are_the_models(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    model = loaded(kind)
    path = tmp_path / f"model{suffix}"
    difference, batches = export_model(model, path)
    assert batches == (1, 3)
    assert difference < 1e-5
    run = exporting._open_exported(path)
    for size in (1, 2, 5):
        shape = (size, 2, 12, 32, 32) if kind == "change" else (size, 12, 32, 32)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(size))
        (logits,) = run(images)
        expected = in_eager_mode(model, images)
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_numbers_come_out_in_their_unit(tmp_path: Path) -> None:
    model, path = loaded("regression"), tmp_path / "model.pt2"
    export_model(model, path)
    (numbers,) = exporting._open_exported(path)(torch.rand(2, 12, 32, 32))
    assert numbers.shape == (2, 1, 32, 32)
    assert 5 < numbers.mean() < 35  # The targets' mean is 20 m.
    described = read_description(path)
    assert described["outputs"] == {"numbers": "(B, 1, rows, columns), in m"}
    assert described["target"]["unit"] == "m"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["upernet", "fpn", "linear", "regression"])
@pytest.mark.parametrize(
    "scaling", ["image-minmax", "fixed-range", "log", "two-std-uint8"]
)
def test_every_head_and_scaling_is_exported(
    tmp_path: Path, kind: str, scaling: Any, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    assert export_model(loaded(kind, scaling), path)[0] < 1e-5


@pytest.mark.parametrize("name", sorted(set(objectives.names()) - {"tokenizer"}))
def test_encoders_of_every_objective_are_exported_for_any_batch(
    tmp_path: Path, name: str
) -> None:
    whole = LoadedModel(tiny_objective(name), contract("log"))
    path = tmp_path / "model.pt2"
    difference, batches = export_model(whole, path)
    assert difference < 1e-5
    assert len(set(batches)) == 2
    embedding = exporting._open_exported(path)(torch.rand(5, 12, 32, 32))[0]
    assert len(embedding) == 5


@pytest.mark.parametrize("suffix", FORMATS)
def test_embeddings_of_a_moved_model(tmp_path: Path, suffix: str) -> None:
    save_model(tmp_path / "run", loaded("autoencoder").model, contract("image-minmax"))
    moved = load_model(tmp_path / "run", image_size=48)
    moved.encoder.add_date_embedding()  # As models of series have it.
    path = tmp_path / f"model{suffix}"
    export_model(moved, path, batch=2)
    embedding, tokens = exporting._open_exported(path)(torch.rand(2, 12, 48, 48))
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
    for text, kept in (('{"format": "spectralgpt-export"}', False), ("notes", True)):
        beside.write_text(text)
        export_model(model, path)
        assert (beside.read_text() == text) == kept


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_with_other_numbers_is_not_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"model{suffix}"
    with pytest.raises(CheckpointError, match="was not kept: it differs"):
        export_model(loaded("classifier"), path, tolerance=1e-12)
    assert not path.exists()
    assert list(tmp_path.rglob("*.*")) == []


def test_a_wrong_graph_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scale_twice(graph: Any, reflectance: torch.Tensor) -> torch.Tensor:
        return graph.model(graph.scaling(graph.scaling(reflectance)))

    monkeypatch.setattr(exporting._ExportGraph, "forward", scale_twice)
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
    (logits,) = exporting._open_exported(path)(torch.rand(1, 12, 32, 32))
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
