import errno
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import spectralgpt
from spectralgpt.checkpoints import (
    load,
    load_model,
    save_model,
    save_published,
    write_atomically,
)
from spectralgpt.errors import CheckpointError
from spectralgpt.models.building import resize_model
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.sensors import load_sensor
from tests.tiny import tiny_contract, tiny_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    extra = {"epochs": 3}
    return save_model(tmp_path / "model", tiny_model(), tiny_contract(), extra)


def assert_same_weights(found: torch.nn.Module, wanted: torch.nn.Module) -> None:
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_saved_model_loads_with_its_contract(saved: Path) -> None:
    loaded = load_model(saved)
    assert isinstance(loaded.model, MaskedAutoencoder)
    assert_same_weights(loaded.model, tiny_model())
    assert loaded.preprocessing == tiny_contract()
    assert loaded.extra == {"epochs": 3}
    assert not loaded.model.training
    assert all(p.requires_grad for p in loaded.model.parameters())


def test_load_gives_the_encoder(saved: Path) -> None:
    tokens = spectralgpt.load(saved)(torch.rand(1, 12, 32, 32))
    assert tokens.shape == (1, 4, 4, 4, 48)


def test_run_folder_loads_its_exported_model(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run" / "checkpoints" / "model")
    assert_same_weights(load_model(tmp_path / "run").model, tiny_model())


def test_classifier_round_trip(tmp_path: Path) -> None:
    model = ClassificationModel(tiny_model().encoder, 5, skip_first_token=True)
    extra = {"class_names": ["a", "b", "c", "d", "e"], "task": "single-label"}
    loaded = load_model(save_model(tmp_path, model, tiny_contract(), extra))
    assert isinstance(loaded.model, ClassificationModel)
    assert loaded.model.skip_first_token
    images = torch.rand(2, 12, 32, 32)
    assert torch.equal(loaded.model(images), model.eval()(images))
    assert loaded.extra["class_names"] == ["a", "b", "c", "d", "e"]


def test_published_round_trip_is_bit_identical(tmp_path: Path) -> None:
    first = save_published(tmp_path / "a.pth", tiny_model())
    ours = load_model(first)
    save_model(tmp_path / "ours", ours.model, ours.preprocessing)
    second = save_published(tmp_path / "b.pth", load_model(tmp_path / "ours").model)
    a, b = (torch.load(path, weights_only=True)["model"] for path in (first, second))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_published_file_with_its_command_line_loads(tmp_path: Path) -> None:
    import argparse

    path = save_published(tmp_path / "model.pth", tiny_model())
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["args"] = argparse.Namespace(batch_size=16, model="base")
    torch.save(checkpoint, path)
    assert_same_weights(load_model(path).model, tiny_model())


@pytest.mark.parametrize("image_size", [64, 128, 16])
def test_other_image_sizes_run_and_train(saved: Path, image_size: int) -> None:
    loaded = load_model(saved, image_size=image_size)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.image_size == image_size
    output = loaded.model.train()(torch.rand(1, 12, image_size, image_size))
    output.loss.backward()
    assert loaded.encoder.positions.spatial.shape[1] == (image_size // 8) ** 2
    assert loaded.encoder.positions.spatial.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["landsat-8-9-l2", "enmap-l2a", "gaofen-2-pms"])
def test_other_sensors_run_and_train(saved: Path, name: str) -> None:
    bands = load_sensor(name).select()
    loaded = load_model(saved, bands=bands)
    images = torch.rand(1, len(bands), 32, 32)
    output = loaded.model.train()(images)
    output.loss.backward()
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.bands == bands
    # The tables moved for good equal those interpolated on the fly.
    wavelengths = [band.wavelength_nm for band in bands]
    with torch.no_grad():
        moved = loaded.encoder(images)
        torch.testing.assert_close(load(saved)(images, wavelengths), moved)


def test_resizing_keeps_everything_else() -> None:
    model = tiny_model()
    larger = resize_model(model, image_size=64).state_dict()
    for name, value in model.state_dict().items():
        if not name.endswith("positions.spatial"):
            assert torch.equal(larger[name], value), name


def test_joint_tables_are_resized_too() -> None:
    from spectralgpt.models.encoder import SpectralEncoder

    wavelengths = tiny_contract().wavelengths_nm
    encoder = SpectralEncoder(
        32, 12, 8, 3, 48, 1, 4, wavelengths, positions="joint"
    ).eval()
    torch.nn.init.normal_(encoder.positions.joint)
    resized = resize_model(encoder, 64, wavelengths[:6])
    assert resized.positions.joint.shape == (1, 2 * 64, 48)
    images = torch.rand(1, 6, 64, 64)
    torch.testing.assert_close(
        resized(images), encoder(images, wavelengths[:6]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_size_gives_random_weights_on_sentinel2_bands(size: str) -> None:
    loaded = load_model(size)
    assert loaded.encoder.num_bands == 12
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.band_names[-1] == "B12"


def test_unknown_name_lists_what_is_possible() -> None:
    with pytest.raises(
        CheckpointError, match=r"no model at nowhere.*tiny, small, base"
    ):
        load("nowhere")


def test_folder_without_weights_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model.safetensors"):
        load(tmp_path)


def test_truncated_checkpoint_is_explained(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated or no safetensors"):
        load(saved)


def test_foreign_safetensors_is_explained(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no SpectralGPT configuration"):
        load(tmp_path)


def test_truncated_published_file_is_explained(tmp_path: Path) -> None:
    path = save_published(tmp_path / "model.pth", tiny_model())
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        load(path)


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code was run",))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_refused(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pth"
    if how == "torch":
        torch.save({"model": Exploit()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Exploit()}))
    with pytest.raises(CheckpointError, match="holds more than weights"):
        load(path)
    assert "code was run" not in capsys.readouterr().out


def test_published_keys_are_strict() -> None:
    model = tiny_model()
    from spectralgpt.published import load_published_state_dict, to_published

    state = to_published(model.state_dict(), 8, 3)
    state.pop("norm.weight")
    state["decoder_norm.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        load_published_state_dict(model, state)
    assert "missing encoder.norm.weight" in str(caught.value)
    assert "decoder.norm.bias is (7,), needs (32,)" in str(caught.value)
    with pytest.raises(CheckpointError, match="'cls_token' is not one of a published"):
        load_published_state_dict(model, {"cls_token": torch.zeros(1)})
    state.pop("blocks.0.attn.v.bias")
    with pytest.raises(CheckpointError, match=r"lacks blocks.0.attn.v.bias"):
        load_published_state_dict(model, state)


def test_disk_full_keeps_the_last_good_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    def fail(weights: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"No space left.*is unchanged"):
        save_model(saved, tiny_model(seed=1), tiny_contract())
    assert_same_weights(load_model(saved).model, tiny_model())
    assert sorted(p.name for p in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_full_device_is_one_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def write(path: Path) -> None:
        with Path("/dev/full").open("wb") as full:
            full.write(b"x" * 10)

    with pytest.raises(CheckpointError, match="No space left"):
        write_atomically(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []


def test_config_json_is_a_readable_copy(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["format"] == "spectralgpt"
    assert config["package_version"] == spectralgpt.__version__
    assert config["preprocessing"]["bands"][0]["name"] == "B01"


def test_hub_download_failure_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(name: str, file: str) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load("someone/model")


def test_hub_name_loads_what_was_downloaded(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda name, file: str(saved / file)
    )
    assert_same_weights(load_model("someone/model").model, tiny_model())
