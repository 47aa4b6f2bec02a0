"""Our encoders as timm's models."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import spectralgpt.integrations
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError, UnitError
from spectralgpt.integrations import Backbone, open_backbone
from tests.fake_device import GPU, WaitedError, fake_device, to_gpu
from tests.tiny import tiny_contract, tiny_encoder

SHIPPED = "spectralgpt-tiny-s2"


def test_create_model_gives_features_of_four_depths() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "spectralgpt_base", features_only=True, in_chans=12, img_size=32, depth=4
    ).eval()
    assert model.feature_info.channels() == [4 * 768] * 4
    assert model.feature_info.reduction() == [8] * 4
    with torch.no_grad():
        found = model(torch.rand(2, 12, 32, 32))
    assert [tuple(each.shape) for each in found] == [(2, 3072, 4, 4)] * 4


def test_it_is_pruned_to_what_is_asked_for() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("spectralgpt_tiny", img_size=32).eval()
    torch.manual_seed(0)
    part = timm.create_model(
        "spectralgpt_tiny", img_size=32, features_only=True, out_indices=(1, -3)
    ).eval()
    assert len(part.model.encoder.blocks) == 4
    images = torch.rand(2, 12, 32, 32)
    with torch.no_grad():
        wanted = whole.forward_intermediates(images, (1, 3), intermediates_only=True)
        for found, each in zip(part(images), wanted, strict=True):
            assert torch.equal(found, each)


def test_a_classifier_trains_and_is_reset() -> None:
    model = timm.create_model("spectralgpt_tiny", img_size=32, num_classes=5)
    model.set_grad_checkpointing()
    model(torch.rand(2, 12, 32, 32)).sum().backward()
    assert model.get_classifier().weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.encoder.blocks.parameters())
    model.reset_classifier(0)
    with torch.no_grad():
        images = torch.rand(2, 12, 32, 32)
        expected = model.encoder.pooled_by_group(images)
        torch.testing.assert_close(model(images), expected)


def test_pretrained_is_what_the_weights_give_for_reflectance() -> None:
    model = timm.create_model("spectralgpt", pretrained=True).eval()
    loaded = load_model(SHIPPED)
    assert model.preprocessing == loaded.preprocessing
    images = torch.rand(2, 12, 32, 32) * 0.4
    with torch.no_grad():
        expected = loaded.encoder.pooled_by_group(model.scaling(images))
        torch.testing.assert_close(model(images), expected)
        again = timm.create_model("spectralgpt", weights=SHIPPED).eval()
        assert torch.equal(again(images), model(images))
    with pytest.raises(UnitError, match="divide digital numbers"):
        model(images * 10_000)


def test_a_gpu_is_waited_for_once_and_gives_no_wrong_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Backbone(tiny_encoder(), tiny_contract()).eval()
    images = torch.rand(2, 12, 32, 32)
    with fake_device():
        to_gpu(model)
        with pytest.raises(WaitedError):
            model(images.to(GPU, non_blocking=True))
    model = Backbone(tiny_encoder(), tiny_contract()).eval()
    model(images)
    # As on a GPU, and where a graph is compiled: values are not read.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    wrong = torch.cat((images[:1], images[1:] * 10_000))
    assert model(wrong).isnan().any(dim=1).tolist() == [False, True]
    monkeypatch.undo()
    with fake_device():
        to_gpu(model)
        assert model(images.to(GPU, non_blocking=True)).device == GPU


def test_a_model_of_ones_own_moves_to_other_bands(tmp_path: Path) -> None:
    contract = tiny_contract()
    save_model(tmp_path, tiny_encoder(), preprocessing=contract)
    model = open_backbone(
        tmp_path, bands=("B02", "B03", "B04"), image_size=64, num_classes=3
    )
    assert model.preprocessing.band_names == ("B02", "B03", "B04")
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(ConfigError, match=r"by wavelength: .* B02, B03, B04"):
        open_backbone(tmp_path, bands=("B04", "B03", "B02"))
    with pytest.raises(ConfigError, match="no base: open it as 'spectralgpt'"):
        timm.create_model("spectralgpt_base", weights=str(tmp_path))
    with pytest.raises(ConfigError, match=r"takes 12 bands \(B01"):
        timm.create_model("spectralgpt", weights=str(tmp_path), in_chans=3)
    with pytest.raises(ConfigError, match="depth: weights say"):
        timm.create_model("spectralgpt", weights=str(tmp_path), depth=3)


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spectralgpt_tiny has no weights of its own"):
        timm.create_model("spectralgpt_tiny", pretrained=True)
    with pytest.raises(ConfigError, match="pass weights="):
        timm.create_model("spectralgpt")
    with pytest.raises(CheckpointError, match="no model at nowhere"):
        timm.create_model("spectralgpt", weights="nowhere")
    with pytest.raises(ConfigError, match="'dept'"):
        timm.create_model("spectralgpt_tiny", dept=3)
    with pytest.raises(ConfigError, match="pass weights= to spectralgpt_base"):
        timm.create_model("spectralgpt_base.published", pretrained=True)
    with pytest.raises(ConfigError, match="does not say what images"):
        open_backbone(save_model(tmp_path, tiny_encoder()))


def test_all_sizes_are_listed_and_nothing_is_registered_unasked() -> None:
    sizes = ("base", "huge", "large", "small", "tiny")
    listed = timm.list_models("spectralgpt*")
    assert sorted(listed) == ["spectralgpt", *(f"spectralgpt_{s}" for s in sizes)]
    code = "import spectralgpt, sys; assert not {'timm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert spectralgpt.integrations.Backbone is Backbone
