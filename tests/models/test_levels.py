"""Dense heads on features of several depths of an encoder."""

import pytest
import torch

from spectralgpt.building import build_model, model_config
from spectralgpt.errors import ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ChangeModel, SegmentationModel
from spectralgpt.objectives.tokenizer import ConvEncoder
from tests.models.test_intermediates import encoder_of


@pytest.mark.parametrize("kind", ["spectral", "vit"])
def test_levels_are_what_encoders_of_fewer_blocks_give(kind: str) -> None:
    encoder, images = encoder_of(kind, 6), torch.rand(2, 6, 32, 32)
    with torch.no_grad():
        levels = encoder.encode_levels(images).split(16, dim=-1)
        assert torch.equal(levels[-1], encoder.encode(images))
        assert [block for block, _, _ in encoder.levels] == [0, 2, 3, 5]
        for (block, _, _), wanted in zip(encoder.levels, levels, strict=True):
            shorter = encoder_of(kind, 6)
            del shorter.blocks[block + 1 :]
            assert torch.equal(shorter.encode(images), wanted)


def test_a_shallow_encoder_gives_a_block_several_times() -> None:
    torch.manual_seed(0)
    encoder, images = SpectralEncoder(32, 6, 8, 3, 16, 2, 2), torch.rand(2, 6, 32, 32)
    first, again, third, last = encoder.encode_levels(images).split(16, dim=-1)
    assert torch.equal(first, again)
    assert torch.equal(first, third)
    assert torch.equal(last, encoder.encode(images))
    (*_, late), found = encoder.forward_intermediates(images, (0, 0, 1))
    assert len(found) == 2
    assert late.shape == (2, 4, 4, 16)


def test_levels_of_swin_are_its_stages() -> None:
    encoder, images = encoder_of("swin"), torch.rand(2, 6, 32, 32)
    assert encoder.levels == ((0, 8, 4), (2, 16, 2), (3, 32, 1))
    with torch.no_grad():
        packed = encoder.encode_levels(images)[:, 0].permute(0, 3, 1, 2)
        first, _, last = packed.split([8 * 16, 16 * 4, 32], dim=1)
        assert torch.equal(last, encoder.encode(images)[:, 0].permute(0, 3, 1, 2))
        x = encoder.blocks[0](encoder.embed(images).unflatten(1, (8, 8)))
        found = torch.nn.functional.pixel_shuffle(first, 4)
        assert torch.equal(found, x.permute(0, 3, 1, 2))


@pytest.mark.parametrize("kind", ["spectral", "vit", "swin"])
@pytest.mark.parametrize("head", ["upernet", "fpn"])
def test_a_head_learns_from_all_levels(kind: str, head: str) -> None:
    model = SegmentationModel(encoder_of(kind, 6), 3, head, multilevel=True)
    model.train()(torch.rand(2, 6, 32, 32)).square().mean().backward()
    assert all(p.grad is not None for p in model.head.parameters())
    again = build_model(model_config(model)).eval()
    again.load_state_dict(model.state_dict())
    images = torch.rand(1, 6, 64, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model.eval()(images))
        pair = torch.rand(1, 2, 6, 32, 32)
        change = ChangeModel(model.encoder, 2, head, multilevel=True)
        assert change(pair).shape == (1, 2, 32, 32)


def test_it_is_exported_as_it_runs() -> None:
    model = SegmentationModel(encoder_of("swin"), 3, multilevel=True).eval()
    program = torch.export.export(model, (torch.rand(2, 6, 32, 32),))
    images = torch.rand(2, 6, 32, 32)
    assert torch.allclose(program.module()(images), model(images), atol=1e-5)


def test_a_mistake_is_named() -> None:
    with pytest.raises(ConfigError, match="heads 'upernet' and 'fpn'"):
        SegmentationModel(encoder_of("vit", 6), 3, "linear", multilevel=True)
    with pytest.raises(ConfigError, match="leave out multilevel"):
        SegmentationModel(ConvEncoder(32, 6, 8, 16, 1), 3, multilevel=True)
