import pytest
import torch

from spectralgpt.building import build_encoder, quantize_encoder, weight_bytes
from spectralgpt.errors import ConfigError
from spectralgpt.models.heads import ClassificationModel
from tests.tiny import tiny_encoder, tiny_model

pytest.importorskip("torchao", reason="spectralgpt[quantize]")


def test_int8_weights_give_nearly_the_same_embeddings() -> None:
    encoder, quantized = tiny_encoder().eval(), tiny_encoder().eval()
    quantize_encoder(quantized)
    images = torch.rand(3, 12, 32, 32)
    with torch.inference_mode():
        full, int8 = encoder.pooled(images), quantized.pooled(images)
    assert not torch.equal(full, int8)
    assert torch.nn.functional.cosine_similarity(full, int8).min() > 0.9999


def test_each_row_of_weights_has_its_own_scale() -> None:
    encoder = tiny_encoder().eval()
    layer = encoder.blocks[0].mlp.fc1
    with torch.no_grad():
        layer.weight[0] *= 1000
    before = layer.weight.detach().clone()
    quantize_encoder(encoder)
    # A tensor that is asked for its values gives them back.
    after = encoder.blocks[0].mlp.fc1.weight.dequantize()
    step = before.abs().amax(dim=1, keepdim=True) / 127
    assert ((after - before).abs() <= 0.51 * step).all()


def test_memory_is_a_quarter_in_the_blocks() -> None:
    encoder = build_encoder("tiny", image_size=32, num_bands=12)
    blocks = weight_bytes(encoder.blocks)
    assert blocks == 4 * sum(each.numel() for each in encoder.blocks.parameters())
    quantize_encoder(encoder)
    assert weight_bytes(encoder.blocks) < 0.27 * blocks


def test_heads_and_decoders_keep_their_weights() -> None:
    classifier = ClassificationModel(tiny_encoder(), 3)
    quantize_encoder(classifier)
    assert type(classifier.head.weight) is torch.nn.Parameter
    model = tiny_model().eval()
    quantize_encoder(model)
    assert type(model.decoder.blocks[0].mlp.fc1.weight) is torch.nn.Parameter
    assert torch.isfinite(model(torch.rand(2, 12, 32, 32), 0.75).loss)


def test_none_changes_nothing_and_unknown_is_refused() -> None:
    encoder = tiny_encoder()
    quantize_encoder(encoder, "none")
    assert type(encoder.blocks[0].mlp.fc1.weight) is torch.nn.Parameter
    with pytest.raises(ConfigError, match="'int4' is unknown: use none or int8"):
        quantize_encoder(encoder, "int4")  # type: ignore[arg-type]


def test_missing_torchao_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"pip install 'spectralgpt\[quantize\]'"):
        quantize_encoder(tiny_encoder())
