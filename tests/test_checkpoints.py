import errno
import json
import logging
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import spectralgpt
from spectralgpt.building import resize_model
from spectralgpt.checkpoints import (
    load,
    load_model,
    save_model,
    save_published,
)
from spectralgpt.cli.main import main
from spectralgpt.errors import CheckpointError, ConfigError, OutputError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ChangeModel, ClassificationModel, SegmentationModel
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.published import load_published_state_dict, to_published
from spectralgpt.sensors import load_sensor
from tests.tiny import tiny_contract, tiny_encoder, tiny_model


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


@pytest.mark.parametrize("head", ["upernet", "fpn", "linear"])
@pytest.mark.parametrize("kind", [SegmentationModel, ChangeModel])
def test_maps_round_trip(
    tmp_path: Path, kind: type[SegmentationModel], head: str
) -> None:
    model = kind(tiny_encoder(), 3, head).eval()  # type: ignore[arg-type]
    loaded = load_model(save_model(tmp_path, model, tiny_contract(), {"a": 1}))
    assert type(loaded.model) is kind
    assert loaded.model.head_kind == head
    assert loaded.preprocessing == tiny_contract()
    images = torch.rand(2, 12, 32, 32)
    if kind is ChangeModel:
        images = torch.rand(2, 2, 12, 32, 32)
    assert_same_weights(loaded.model, model)
    torch.testing.assert_close(loaded.model(images), model(images))
    larger = load_model(tmp_path, image_size=64)
    assert larger.encoder.image_size == 64
    assert torch.equal(load(tmp_path).norm.weight, model.encoder.norm.weight)


def test_maps_of_other_sensors_load(tmp_path: Path) -> None:
    save_model(tmp_path, SegmentationModel(tiny_encoder(), 3), tiny_contract())
    bands = load_sensor("gaofen-2-pms").select()
    loaded = load_model(tmp_path, bands=bands)
    assert loaded.model.fusion.weight.shape == (1, 2)
    assert loaded.model(torch.rand(1, len(bands), 32, 32)).shape == (1, 3, 32, 32)


def test_head_that_does_not_fit_its_configuration_is_explained(tmp_path: Path) -> None:
    from safetensors.torch import load as read_weights
    from safetensors.torch import save_file

    save_model(tmp_path, SegmentationModel(tiny_encoder(), 3), tiny_contract())
    path = tmp_path / "model.safetensors"
    # Read into memory: older safetensors map the file that is written anew below.
    weights = read_weights(path.read_bytes())
    weights["head.classifier.weight"] = weights["head.classifier.weight"][:2]
    config = (tmp_path / "config.json").read_text()
    save_file(weights, path, {"config": config})
    with pytest.raises(CheckpointError, match=r"do not fit.*head\.classifier"):
        load(tmp_path)
    save_file(weights, path, {"config": config.replace("upernet", "unet")})
    with pytest.raises(CheckpointError, match="'head' must be upernet or fpn"):
        load(tmp_path)


@pytest.mark.parametrize("kind", [SegmentationModel, ChangeModel])
def test_published_maps_round_trip_bit_identically(
    tmp_path: Path, kind: type[SegmentationModel]
) -> None:
    model = kind(tiny_encoder(), 5, apply_norm=False).eval()
    first = save_published(tmp_path / "a.pth", model)
    save_model(tmp_path / "ours", load_model(first).model)
    ours = load_model(tmp_path / "ours").model
    assert type(ours) is kind
    assert_same_weights(ours, model)
    second = save_published(tmp_path / "b.pth", ours)
    a, b = (torch.load(path, weights_only=True)["model"] for path in (first, second))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", [SegmentationModel, ChangeModel])
def test_published_contract_is_claimed_only_where_it_is_known(
    tmp_path: Path, kind: type[SegmentationModel]
) -> None:
    # Published change detection took Sentinel-2 without B10, published land cover ten
    # bands and two fillers.
    model = kind(SpectralEncoder(32, 12, 8, 3, 48, 1, 4), 2, apply_norm=False)
    loaded = load_model(save_published(tmp_path / "model.pth", model))
    assert_same_weights(loaded.model, model)
    assert (loaded.preprocessing is None) == (kind is SegmentationModel)
    assert all(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "fpn", "apply_norm": False},
        {"apply_norm": True},
        {"apply_norm": False, "pixel_detail": True},
    ],
)
def test_maps_that_the_published_code_would_compute_otherwise_are_refused(
    tmp_path: Path, settings: dict[str, bool]
) -> None:
    model = SegmentationModel(tiny_encoder(), 3, **settings)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="would give other numbers"):
        save_published(tmp_path / "model.pth", model)


def test_classifiers_that_the_published_code_would_pool_otherwise_are_refused(
    tmp_path: Path,
) -> None:
    model = ClassificationModel(tiny_model().encoder, 5, pooling="groups")
    with pytest.raises(CheckpointError, match="would give other numbers"):
        save_published(tmp_path / "model.pth", model)


def test_published_weights_of_parallel_training_load(tmp_path: Path) -> None:
    model = tiny_model()
    state = to_published(model.state_dict(), 8, 3)
    state = {f"module.{name}": value for name, value in state.items()}
    loaded = tiny_model(seed=1)
    load_published_state_dict(loaded, {"state_dict": state, "epoch": 3})
    assert_same_weights(loaded, model)


def test_published_shapes_are_checked_before_they_are_used(tmp_path: Path) -> None:
    state = {"patch_embed.proj.weight": torch.zeros(768, 1, 3, 8, 8)}
    state |= {
        f"pos_embed_{kind}": torch.zeros(1, 4, 768) for kind in ("spatial", "temporal")
    }
    cases = {
        "cls_seg.0.weight": (torch.zeros(13), r"cls_seg.0.weight has shape \(13,\)"),
        "cls_token": (torch.zeros(1), "neither a decoder"),
        "pos_embed_spatial": (torch.zeros(4), r"pos_embed_spatial has shape \(4,\)"),
        "patch_embed.proj.weight": (torch.zeros(9), r"needs 5 axes"),
    }
    for key, (value, words) in cases.items():
        torch.save({"model": state | {key: value}}, tmp_path / "model.pth")
        with pytest.raises(CheckpointError, match=words):
            load(tmp_path / "model.pth")


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
    with pytest.raises(OutputError, match=r"No space left.*is unchanged"):
        save_model(saved, tiny_model(seed=1), tiny_contract())
    assert_same_weights(load_model(saved).model, tiny_model())
    assert sorted(p.name for p in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_config_json_is_a_readable_copy(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["format"] == "spectralgpt"
    assert config["package_version"] == spectralgpt.__version__
    assert config["preprocessing"]["bands"][0]["name"] == "B01"


def test_hub_download_failure_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(name: str, file: str, revision: str | None) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load("someone/model")


def test_hub_name_loads_what_was_downloaded(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda name, file, revision: str(saved / file),
    )
    assert_same_weights(load_model("someone/model").model, tiny_model())


def test_date_embedding_is_saved_and_survives_other_images(tmp_path: Path) -> None:
    model = tiny_model()
    model.add_date_embedding()
    torch.nn.init.normal_(model.encoder.positions.dates.weight)
    folder = save_model(tmp_path, model, tiny_contract())
    assert json.loads((folder / "config.json").read_text())["model"]["date_embedding"]
    assert_same_weights(load_model(folder).model, model)
    larger = load_model(folder, image_size=48).encoder
    assert torch.equal(
        larger.positions.dates.weight, model.encoder.positions.dates.weight
    )
    encoder = spectralgpt.load(folder)
    assert encoder.has_date_embedding
    images, dates = torch.rand(1, 2, 12, 32, 32), torch.tensor([[18_000, 18_100]])
    wanted = model.eval().encoder(images, dates=dates)
    assert torch.equal(encoder(images, dates=dates), wanted)


def test_checkpoint_from_before_dates_loads_and_takes_them_as_zeros(
    saved: Path,
) -> None:
    from safetensors.torch import load as read_weights
    from safetensors.torch import save_file

    file = saved / "model.safetensors"
    config = json.loads((saved / "config.json").read_text())
    assert config["model"].pop("date_embedding") is False
    weights = read_weights(file.read_bytes())
    save_file(weights, file, {"format": "pt", "config": json.dumps(config)})
    model = load_model(saved).model
    assert isinstance(model, MaskedAutoencoder)
    assert not model.encoder.has_date_embedding
    images, noise = torch.rand(2, 12, 32, 32), torch.rand(2, 64)
    wanted = tiny_model().eval()(images, noise=noise)
    model.add_date_embedding()
    dates = torch.tensor([[18_000.0], [18_500.0]])
    found = model(images[:, None], noise=noise, dates=dates)
    assert torch.equal(found.loss, wanted.loss)
    assert torch.equal(found.prediction, wanted.prediction)


def test_date_embedding_has_no_published_format(tmp_path: Path) -> None:
    model = tiny_model()
    model.add_date_embedding()
    with pytest.raises(CheckpointError, match=r"positions\.dates.*no place"):
        save_published(tmp_path / "a.pth", model)


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_model(tmp_path / "ours", tiny_model(), tiny_contract())
        save_published(tmp_path / "theirs.pth", tiny_model())
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {
        "model.safetensors": "0o640",
        "config.json": "0o640",
        "theirs.pth": "0o640",
    }


def test_write_error_inside_torch_is_one_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow past 64 KiB: a write that the system refuses midway.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*the disk may be"):
            save_published(tmp_path / "model.pth", tiny_model())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["someone/model-v1.5", "some.one/model"])
def test_hub_name_may_have_a_dot(
    saved: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import huggingface_hub

    asked = []

    def download(name: str, file: str, revision: str | None) -> str:
        asked.append(name)
        return str(saved / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    load(name)
    assert asked == [name]
    for missing in ("someone/model.pth", "./model", "../model"):
        with pytest.raises(CheckpointError, match="no model at"):
            load(missing)


def test_hub_is_quiet_while_it_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import logging as hub_logging

    before, during = hub_logging.get_verbosity(), []

    def fail(name: str, file: str, revision: str | None) -> str:
        during.append(hub_logging.get_verbosity())
        raise HFValidationError("no such name")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"could not be downloaded.*no such name"):
        load("someone/model")
    assert during == [logging.ERROR]
    assert hub_logging.get_verbosity() == before


def spoil(path: Path, name: str, value: float = float("nan")) -> None:
    """Put a value into one weight of a saved model."""
    from safetensors.torch import load_file, save_file

    config = path.with_name("config.json").read_text()
    weights = load_file(path)
    weights[name].view(-1)[0] = value
    save_file(weights, path, {"config": config})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, value: float
) -> None:
    save_model(tmp_path / "m", tiny_model(), tiny_contract())
    spoil(tmp_path / "m" / "model.safetensors", "decoder.norm.bias", value)
    with pytest.raises(CheckpointError, match=r"not finite .*decoder\.norm\.bias"):
        load_model(tmp_path / "m")
    published = {"model": to_published(tiny_model().state_dict(), 8, 3)}
    published["model"]["norm.bias"][0] = value
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.bias"):
        load_published_state_dict(tiny_model(), published)


def test_model_that_is_not_finite_replaces_nothing(saved: Path, tmp_path: Path) -> None:
    before = save_model(tmp_path / "m", tiny_model(), tiny_contract())
    content = (before / "model.safetensors").read_bytes()
    model = tiny_model()
    with torch.no_grad():
        model.encoder.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"not finite .*encoder\.norm\.weight"):
        save_model(tmp_path / "m", model, tiny_contract())
    assert (before / "model.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    "types",
    [(torch.float16,), (torch.bfloat16,), (torch.float64,), (torch.float16, None)],
    ids=["half", "bfloat16", "double", "mixed"],
)
@pytest.mark.parametrize("kind", ["ours", "published"])
def test_weights_of_other_precision_are_cast(
    tmp_path: Path, types: tuple[torch.dtype | None, ...], kind: str
) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model()
    if kind == "ours":
        path = save_model(tmp_path, model, tiny_contract()) / "model.safetensors"
        weights = load_file(path)
    else:
        path = save_published(tmp_path / "model.pth", model)
        checkpoint = torch.load(path, weights_only=True)
        weights = checkpoint["model"]
    for index, (name, value) in enumerate(sorted(weights.items())):
        weights[name] = value.to(types[index % len(types)] or value.dtype)
    if kind == "ours":
        save_file(weights, path, {"config": (tmp_path / "config.json").read_text()})
    else:
        torch.save(checkpoint, path)
    loaded = load_model(path).model
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    images = torch.rand(1, 12, 32, 32)
    assert loaded.encoder(images).isfinite().all()
    for name, value in model.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], value, atol=5e-3), name


def test_weights_of_8_bits_and_published_ones_that_are_not_finite_are_refused(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model()
    path = save_model(tmp_path, model, tiny_contract()) / "model.safetensors"
    weights = load_file(path)
    weights["decoder.mask_token"] = weights["decoder.mask_token"].to(
        torch.float8_e4m3fn
    )
    save_file(weights, path, {"config": (tmp_path / "config.json").read_text()})
    with pytest.raises(
        CheckpointError, match=r"decoder\.mask_token holds torch\.float8"
    ):
        load_model(path)
    published = save_published(tmp_path / "other.pth", model)
    checkpoint = torch.load(published, weights_only=True)
    checkpoint["model"]["mask_token"][:] = torch.inf
    torch.save(checkpoint, published)
    with pytest.raises(CheckpointError, match=r"other\.pth: .*decoder\.mask_token"):
        load_model(published)


def test_published_widths_that_are_unknown_need_their_number_of_heads(
    tmp_path: Path,
) -> None:
    model = MaskedAutoencoder(
        embed_dim=96, depth=1, num_heads=6,
        decoder_embed_dim=256, decoder_depth=1, decoder_num_heads=4,
    )  # fmt: skip
    path = tmp_path / "model.pth"
    torch.save({"model": to_published(model.state_dict(), 8, 3)}, path)
    with pytest.raises(
        CheckpointError, match=r"model\.pth: width 96 .*convert --num-heads N"
    ):
        load_model(path)
    six = {"num_heads": 6}
    with pytest.raises(
        CheckpointError, match=r"decoder width 256 .* in doubt.* --decoder-num-heads N"
    ):
        load_model(path, stated=six)
    out = tmp_path / "out"
    words = ("convert", path, "--output", out, "--num_heads", 6)
    assert main([*map(str, words), "--decoder_num_heads", "4"]) == 0
    loaded = load_model(out).model
    images, noise = torch.rand(1, 12, 96, 96), torch.rand(1, 4 * 144)
    assert torch.equal(loaded(images, 0.5, noise).loss, model(images, 0.5, noise).loss)
    for heads, error, what in (
        ({**six, "decoder_num_heads": 7}, CheckpointError, "decoder_num_heads"),
        ({**six, "decoder_num_heads": 0}, CheckpointError, "decoder_num_heads"),
    ):
        with pytest.raises(error, match=what):
            load_model(path, stated=heads)
    with pytest.raises(ConfigError, match="says itself how it is built"):
        load_model(out, stated=six)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model."])
def test_prefixes_of_compiled_and_wrapped_models_are_taken_off(
    tmp_path: Path, prefix: str
) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model()
    path = save_model(tmp_path, model, tiny_contract()) / "model.safetensors"
    weights = {prefix + name: value for name, value in load_file(path).items()}
    save_file(weights, path, {"config": (tmp_path / "config.json").read_text()})
    loaded = load_model(path).model
    published = to_published(model.state_dict(), 8, 3)
    other = tiny_model()
    load_published_state_dict(
        other, {"state_dict": {prefix + n: v for n, v in published.items()}}
    )
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b'\n<?xml version="1.0"?><Error/>', "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b'{"error": "not found"}', "is a text"),
    ],
)
def test_what_downloads_leave_in_place_of_weights_is_named(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load_model(tmp_path / name)


def test_numpy_numbers_beside_the_weights_are_read(tmp_path: Path) -> None:
    path = save_published(tmp_path / "model.pth", tiny_model())
    checkpoint = torch.load(path, weights_only=True)
    noted = {"acc": np.float64(0.9), "epoch": np.int64(3), "best": np.float32(1)}
    torch.save(checkpoint | noted, path)
    assert isinstance(load_model(path).model, MaskedAutoencoder)


def test_training_checkpoint_says_which_folder_to_name(tmp_path: Path) -> None:
    state = {f"model.{n}": v for n, v in tiny_model().state_dict().items()}
    torch.save(
        {"state_dict": state, "optimizer_states": [], "pytorch-lightning_version": "2"},
        tmp_path / "last.ckpt",
    )
    with pytest.raises(
        CheckpointError, match=r"training checkpoint.*checkpoints/model"
    ):
        load_model(tmp_path / "last.ckpt")


def test_files_are_read_by_what_they_hold(tmp_path: Path) -> None:
    saved = save_model(tmp_path, tiny_model(), tiny_contract()) / "model.safetensors"
    renamed = saved.rename(tmp_path / "downloaded.pth")
    assert load_model(renamed).preprocessing == tiny_contract()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 1_000_000),
        ("depth", 0),
        ("depth", 1.5),
        ("embed_dim", -16),
        ("embed_dim", 10**12),
        ("num_heads", 0),
        ("num_heads", None),
        ("patch_size", 0),
        ("patch_size", "8"),
        ("bands_per_token", -3),
        ("bands_per_token", True),
        ("image_size", 10**9),
        ("num_bands", 0),
        ("decoder_embed_dim", 0),
        ("decoder_num_heads", -1),
        ("decoder_depth", 10**6),
        ("wavelengths_nm", [float("nan")] * 12),
        ("wavelengths_nm", [0.0] * 12),
        ("wavelengths_nm", "blue"),
        ("wavelengths_nm", [None] * 12),
        ("normalize_targets", "yes"),
        ("token_loss_weight", float("nan")),
        ("target_share", "all"),
        ("decoder", ["full"]),
        ("date_embedding", 3),
    ],
)
def test_impossible_configurations_are_one_error_before_any_tensor(
    tmp_path: Path, name: str, value: object
) -> None:
    from safetensors.torch import load_file, save_file

    path = save_model(tmp_path, tiny_model(), tiny_contract()) / "model.safetensors"
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"][name] = value
    save_file(load_file(path), path, {"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(path)
    settings = {n: v for n, v in config["model"].items() if n != "kind"}
    with pytest.raises(ConfigError):
        MaskedAutoencoder(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [("patch_size", 4), ("bands_per_token", 2), ("patch_size", None), ("bands", [])],
)
def test_contract_of_another_model_is_refused(
    tmp_path: Path, name: str, value: object
) -> None:
    from safetensors.torch import load_file, save_file

    path = save_model(tmp_path, tiny_model(), tiny_contract()) / "model.safetensors"
    config = json.loads((tmp_path / "config.json").read_text())
    config["preprocessing"][name] = value
    save_file(load_file(path), path, {"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match=r"preprocessing"):
        load_model(path)


def test_loading_a_model_waits_for_no_library_that_it_does_not_need() -> None:
    code = (
        "import sys, spectralgpt.checkpoints; "
        "print({'timm', 'kornia', 'lightly', 'lightning'} & sys.modules.keys())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "set()"


def test_weights_in_half_precision_take_half_and_are_read_in_single(
    tmp_path: Path,
) -> None:
    model = tiny_model()
    whole = save_model(tmp_path / "whole", model, tiny_contract()) / "model.safetensors"
    half = save_model(tmp_path / "half", model, tiny_contract(), half=True)
    assert (half / "model.safetensors").stat().st_size < 0.6 * whole.stat().st_size
    loaded = load_model(half).model
    for name, value in loaded.state_dict().items():
        assert value.dtype == model.state_dict()[name].dtype
        torch.testing.assert_close(value, model.state_dict()[name], rtol=2**-8, atol=0)
