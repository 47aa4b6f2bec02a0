import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from spectralgpt.building import (
    add_adapters,
    build_model,
    model_config,
    quantize_encoder,
    resize_model,
    weight_bytes,
)
from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.models.swin import SwinEncoder, stages_of

SMALL = {"depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "embed_dim": 8}


def small(image_size: int = 32, **changed: object) -> SwinEncoder:
    torch.manual_seed(0)
    return SwinEncoder(image_size, 3, 2, **SMALL | changed).eval()


@pytest.mark.parametrize("side", [32, 16])
def test_it_gives_what_timm_gives(side: int) -> None:
    own = small(side)
    theirs = SwinTransformer(
        side,
        2,
        3,
        0,
        embed_dim=8,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        global_pool="",
    ).eval()
    names = {"embedding.": "patch_embed.proj.", "embedding_norm.": "patch_embed.norm."}
    names |= {f"blocks.{at}.": f"layers.{at // 2}.blocks.{at % 2}." for at in range(4)}
    names["blocks.2.merge."] = "layers.1.downsample."
    state = {}
    for name, value in own.state_dict().items():
        prefix = max((p for p in names if name.startswith(p)), key=len, default="")
        state[names.get(prefix, "") + name.removeprefix(prefix)] = value
    theirs.load_state_dict(state)
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        wanted = theirs.forward_features(images)
        found = own(images)[:, 0]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_padding_is_not_seen() -> None:
    # A map of 5 x 5 tokens is padded to 8 x 8; an edge must give what a larger window
    # without padding gives where both hold the same tokens.
    padded = small(8, depths=(1,), num_heads=(2,), window_size=4)
    torch.nn.init.normal_(padded.blocks[0].attn.qkv.bias)
    images = torch.rand(1, 3, 10, 10)
    with torch.no_grad():
        found = padded(images)[0, 0]
        corner = padded(images[..., 8:, 8:])[0, 0]
    assert torch.allclose(found[4:, 4:], corner, atol=1e-6)


def test_images_of_other_sizes_have_features_of_their_own() -> None:
    encoder = small(16)
    with torch.no_grad():
        for size in ((8, 8), (16, 24), (40, 40)):
            features = encoder(torch.rand(1, 3, *size))
            assert features.shape == (1, 1, size[0] // 4, size[1] // 4, 16)
    assert build_model(model_config(encoder)).config == encoder.config
    resized = resize_model(encoder, image_size=64)
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(resized(images), encoder(images))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((768, 12, 12), (96, (2, 2, 6, 2), (3, 6, 12, 24))),  # Swin-T
        ((1024, 24, 16), (128, (2, 2, 18, 2), (4, 8, 16, 32))),  # Swin-B
        ((192, 6, 3), (48, (2, 2, 2), (1, 3, 6))),
        ((16, 1, 2), (16, (1,), (4,))),
    ],
)
def test_sizes_are_those_of_the_paper(size: object, wanted: object) -> None:
    assert stages_of(*size) == wanted


def test_a_mistake_is_named() -> None:
    with pytest.raises(ConfigError, match="2 stages and num_heads 1"):
        small(num_heads=(2,))
    with pytest.raises(ConfigError, match="no multiple of the 4 px"):
        small(18)
    with pytest.raises(ShapeError, match="4 bands, the model 3"):
        small()(torch.rand(1, 4, 32, 32))


def test_recomputed_activations_give_the_same_gradients() -> None:
    images = torch.rand(2, 3, 32, 32)
    gradients = []
    for recomputes in (False, True):
        encoder = small().train()
        encoder.blocks.recomputes = recomputes
        encoder(images).square().sum().backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters()})
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])


def test_int8_and_adapters_reach_its_maps() -> None:
    images = torch.rand(2, 3, 32, 32)
    encoder = small(embed_dim=32)
    with torch.no_grad():
        wanted = encoder(images)
    whole = weight_bytes(encoder)
    adapted = add_adapters(small(embed_dim=32), rank=2)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * encoder.depth  # Two matrices of two maps a block.
    with torch.no_grad():
        assert torch.allclose(adapted(images), wanted)
        quantize_encoder(encoder)
        found = encoder(images)
    assert weight_bytes(encoder) < 0.6 * whole
    assert 0 < float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


def test_it_is_exported_as_it_runs() -> None:
    encoder = small()
    batch = torch.export.Dim("batch", min=1, max=64)
    images = torch.rand(2, 3, 32, 32)
    program = torch.export.export(encoder, (images,), dynamic_shapes=({0: batch},))
    images = torch.rand(5, 3, 32, 32)
    assert torch.allclose(program.module()(images), encoder(images), atol=1e-5)
