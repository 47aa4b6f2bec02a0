import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from spectralgpt.building import add_adapters, has_adapters, merge_adapters
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.heads import ClassificationModel, SegmentationModel
from tests.tiny import rates_and_decays, tiny_contract, tiny_encoder

pytest.importorskip("peft")

QKV_PROJ = ("qkv", "proj")


def trained(model: nn.Module, adapted: bool = True) -> nn.Module:
    """Take a few steps, large enough to be seen."""
    torch.manual_seed(1)
    images, labels = torch.rand(4, 12, 32, 32), torch.tensor([0, 1, 2, 0])
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
    assert has_adapters(model) == adapted
    return model.eval()


def adapted_classifier(dropout: float = 0.0) -> ClassificationModel:
    model = ClassificationModel(tiny_encoder(), 3)
    nn.init.normal_(model.head.weight)
    add_adapters(model.encoder, rank=4, alpha=8, dropout=dropout)
    return model


def test_fresh_adapters_change_nothing() -> None:
    images = torch.rand(2, 12, 32, 32)
    wanted = tiny_encoder().eval()(images)
    encoder = add_adapters(tiny_encoder(), dropout=0.5)
    assert torch.equal(encoder.eval()(images), wanted)
    assert torch.equal(encoder.train()(images), wanted)


def test_only_adapters_and_the_head_are_trained() -> None:
    model = adapted_classifier()
    before = copy.deepcopy(model.state_dict())
    trained(model)
    got_gradients = {n for n, p in model.named_parameters() if p.grad is not None}
    maps = [f"blocks.{block}.attn.{kind}" for block in (0, 1) for kind in QKV_PROJ]
    adapters = {
        f"encoder.{name}.lora_{matrix}.default.weight"
        for name in maps
        for matrix in "AB"
    }
    assert got_gradients == adapters | {"head.weight", "head.bias"}
    changed = {
        n for n, v in model.state_dict().items() if not torch.equal(v, before[n])
    }
    assert changed == got_gradients


def test_merged_equals_unmerged() -> None:
    fresh = adapted_classifier().eval()
    images = torch.rand(2, 12, 32, 32)
    model = trained(adapted_classifier(dropout=0.1))
    merged = merge_adapters(model)
    found = merged(images)
    torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)
    # The adapters, not the head alone, made a difference.
    fresh.head.load_state_dict(model.head.state_dict())
    assert (found - fresh(images)).abs().max() > 1e-3


def test_merging_leaves_the_model_to_train_on() -> None:
    model = adapted_classifier()
    merged = merge_adapters(model)
    assert has_adapters(model)
    assert not has_adapters(merged)
    assert all(p.requires_grad for p in merged.parameters())
    plain = ClassificationModel(tiny_encoder(), 3)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    trained(model)
    # A plain model like any other: it trains, and takes adapters again.
    trained(merged, adapted=False)
    add_adapters(merged.encoder)


def test_merged_model_is_saved_as_a_plain_one(tmp_path: Path) -> None:
    model = SegmentationModel(tiny_encoder(), 3, "fpn").eval()
    add_adapters(model.encoder)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    with pytest.raises(CheckpointError, match="save merge_adapters"):
        save_model(tmp_path, model, tiny_contract())
    save_model(tmp_path, merge_adapters(model), tiny_contract())
    images = torch.rand(1, 12, 32, 32)
    found = load_model(tmp_path).model(images)
    torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)


def test_model_without_adapters_is_copied() -> None:
    encoder = tiny_encoder().requires_grad_(False)
    plain = merge_adapters(encoder)
    assert plain is not encoder
    assert not any(p.requires_grad for p in plain.parameters())


def test_optimizer_takes_adapters_by_their_layer() -> None:
    model = adapted_classifier()
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert rates_and_decays(model, 0.05).keys() == names
    scales = {n: scale for n, (scale, _) in rates_and_decays(model, 0.05, 0.5).items()}
    assert scales.keys() == names
    first = "encoder.blocks.0.attn.qkv.lora_A.default.weight"
    assert scales[first] == scales[first.replace("blocks.0", "blocks.1")] / 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 0}, r"rank 0 is not in 1\.\.47"),
        ({"rank": 48}, "rank 48"),
        ({"alpha": 0}, "alpha is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_wrong_numbers_are_explained(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        add_adapters(tiny_encoder(), **arguments)  # type: ignore[arg-type]


def test_second_adapters_are_refused() -> None:
    encoder = add_adapters(tiny_encoder())
    with pytest.raises(ConfigError, match="adapters already"):
        add_adapters(encoder)


def test_missing_peft_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'spectralgpt\[adapters\]'"):
        add_adapters(tiny_encoder())
