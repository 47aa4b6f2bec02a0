"""Features on the way through an encoder, in timm's convention, and forward hooks."""

import pytest
import timm
import torch
from torch import Tensor, nn

from spectralgpt.errors import ConfigError
from spectralgpt.models import cpu
from spectralgpt.models.encoder import Encoder, SpectralEncoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.swin import SwinEncoder
from spectralgpt.models.vit import VisionTransformer
from spectralgpt.objectives.tokenizer import ConvEncoder

KINDS = ("spectral", "rvsa", "vit", "swin")


def encoder_of(kind: str, depth: int = 4) -> Encoder:
    torch.manual_seed(0)
    made: Encoder
    if kind == "vit":
        made = VisionTransformer(32, 6, 8, 16, depth, 2, groups=[[0, 1, 2], [3, 4, 5]])
    elif kind == "swin":
        made = SwinEncoder(32, 6, 4, 8, (1, 2, 1), (1, 2, 4), 4)
    else:
        attention = "rvsa" if kind == "rvsa" else "global"
        made = SpectralEncoder(32, 6, 8, 3, 16, depth, 2, attention=attention)
    return made.eval()


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch on a processor go image by image."""
    monkeypatch.setattr(cpu, "_BLOCK_BYTES", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("in_parts")
def test_each_feature_has_all_images_and_is_that_with_gradients(kind: str) -> None:
    encoder, images = encoder_of(kind), torch.rand(20, 6, 32, 32)
    with torch.no_grad():
        last, found = encoder.forward_intermediates(images)
        assert torch.allclose(last, encoder(images), atol=1e-6)
    with_gradients, expected = encoder.forward_intermediates(images)
    assert with_gradients.requires_grad
    assert len(found) == len(encoder.taps)
    for (_, width, finer), each, wanted in zip(
        encoder.taps, found, expected, strict=True
    ):
        side = 32 // encoder.patch_size * finer
        assert each.shape == (20, encoder.groups * width, side, side)
        assert torch.allclose(each, wanted, atol=1e-5)
        assert each.is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("in_parts")
def test_a_forward_hook_fires_once_with_what_is_returned(kind: str) -> None:
    encoder, images = encoder_of(kind), torch.rand(20, 6, 32, 32)
    seen: list[Tensor] = []
    with torch.no_grad():
        (without,) = encoder.forward_intermediates(images, [1], intermediates_only=True)
    block = encoder.blocks[encoder.taps[1][0]]
    handle = block.register_forward_hook(lambda module, x, y: seen.append(y))
    with torch.no_grad():
        (found,) = encoder.forward_intermediates(images, [1], intermediates_only=True)
        encoder(images)
    handle.remove()
    assert [len(each) for each in seen] == [20, 20]
    assert torch.equal(seen[0], seen[1])
    assert torch.allclose(found, without, atol=1e-5)
    hooked = seen[0].flatten(1, -2) if kind == "swin" else seen[0]
    tokens = found.unflatten(1, (encoder.groups, -1)).movedim(2, -1).flatten(1, 3)
    assert torch.equal(hooked[:, -tokens.shape[1] :], tokens)  # A class token is first.


@pytest.mark.usefixtures("in_parts")
def test_hooks_before_blocks_and_on_all_modules_fire_once() -> None:
    encoder, images = encoder_of("spectral"), torch.rand(5, 6, 32, 32)
    sizes: list[int] = []
    linear = encoder.blocks[2].mlp.fc1
    with torch.no_grad():
        handle = linear.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
        encoder(images)
        handle.remove()

        def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            if module is encoder.blocks[3].mlp.fc1:
                sizes.append(len(output))

        handle = nn.modules.module.register_module_forward_hook(note)
        encoder(images)
        handle.remove()
    assert sizes == [5, 5]


def test_hooks_see_whole_batches_in_training_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "_PART_VALUES", 1)
    torch.manual_seed(0)
    model = MaskedAutoencoder(
        16, 6, embed_dim=24, depth=1, num_heads=2, decoder_embed_dim=16,
        decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip
    images, noise = torch.rand(5, 6, 16, 16), torch.rand(5, 8)
    expected = model(images, 0.5, noise).loss
    sizes: list[int] = []
    blocks = model.decoder.blocks
    blocks[0].register_forward_hook(lambda module, x, y: sizes.append(len(y)))
    torch.testing.assert_close(model(images, 0.5, noise).loss, expected)
    assert sizes == [5]


@pytest.mark.parametrize("kind", ["spectral", "swin"])
def test_arguments_mean_what_they_mean_in_timm(kind: str) -> None:
    encoder, images = encoder_of(kind), torch.rand(2, 6, 32, 32)
    count = len(encoder.taps)
    ran: list[int] = []
    for number, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    last, every = encoder.forward_intermediates(images)
    for indices, wanted in (
        (1, [count - 1]),
        (2, [count - 2, count - 1]),
        ([-1, 0], [0, count - 1]),
        ((1,), [1]),
    ):
        found = encoder.forward_intermediates(images, indices, intermediates_only=True)
        assert len(found) == len(wanted)
        assert all(
            torch.equal(a, every[at]) for a, at in zip(found, wanted, strict=True)
        )
    ran.clear()
    early, (found,) = encoder.forward_intermediates(
        images, [1], stop_early=True, norm=True
    )
    assert ran == list(range(encoder.taps[1][0] + 1))
    by_place = every[1].unflatten(1, (encoder.groups, -1)).movedim(2, -1)
    if kind == "swin":  # Its norm is as wide as the last stage.
        assert torch.equal(found, every[1])
        assert torch.equal(early, by_place)
    else:
        assert torch.equal(early, encoder.norm(by_place))
        normed = early.movedim(-1, 2).flatten(1, 2)
        assert torch.equal(found, normed)
    (flat,) = encoder.forward_intermediates(images, 1, False, False, "NLC", True)
    assert torch.equal(flat, every[-1].flatten(2).mT)
    assert torch.equal(last, encoder(images))


def test_they_are_those_of_timm_for_the_same_weights() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=6, depth=3,
        embed_dim=48, num_heads=3, no_embed_class=True, num_classes=0,
    ).eval()  # fmt: skip
    ours = VisionTransformer(32, 6, 8, 48, 3, 3, positions="learned", codes_token=False)
    state = theirs.state_dict()
    wanted = ours.state_dict()
    renamed = {"class_token": "cls_token", "positions.spatial": "pos_embed"}
    for name, value in wanted.items():
        if name.startswith("embedding.0."):
            source = state[f"patch_embed.proj.{name.rpartition('.')[2]}"]
        else:
            source = state[renamed.get(name, name)]
        value.copy_(source.reshape(value.shape))
    ours.load_state_dict(wanted)
    images = torch.rand(3, 6, 32, 32)
    with torch.no_grad():
        for arguments in ({}, {"norm": True}, {"output_fmt": "NLC"}):
            _, found = ours.eval().forward_intermediates(images, 2, **arguments)
            _, expected = theirs.forward_intermediates(images, 2, **arguments)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_series_other_bands_and_absent_groups_go_through() -> None:
    torch.manual_seed(0)
    wavelengths = (490.0, 560.0, 665.0, 842.0, 1610.0, 2190.0)
    encoder = SpectralEncoder(32, 6, 8, 3, 16, 2, 2, wavelengths_nm=wavelengths).eval()
    with torch.no_grad():
        last, (found,) = encoder.forward_intermediates(
            torch.rand(2, 3, 3, 32, 32), 1, wavelengths=wavelengths[:3]
        )
        assert last.shape == (2, 3, 1, 4, 4, 16)
        assert found.shape == (2, 3 * 16, 4, 4)
        encoder.absent_groups = (1,)
        last, (found,) = encoder.forward_intermediates(
            torch.rand(2, 6, 32, 32), 1, norm=True
        )
        assert torch.equal(found, last.movedim(-1, 2).flatten(1, 2))
        assert torch.allclose(last[:, 0], last[:, 1])


def test_what_there_is_not_is_named() -> None:
    encoder, images = encoder_of("spectral"), torch.rand(1, 6, 32, 32)
    for indices in (5, 0, -1, [4], [-5], []):
        with pytest.raises(ConfigError, match="4 features"):
            encoder.forward_intermediates(images, indices)
    with pytest.raises(ConfigError, match="'NCHW' or 'NLC'"):
        encoder.forward_intermediates(images, output_fmt="NHWC")
    with pytest.raises(ConfigError, match="leave out multilevel"):
        ConvEncoder(32, 6, 8, 16, 1).forward_intermediates(images)
