"""A loss in parts has the value and the gradients of the whole batch's."""

import pytest
import torch
from torch import Tensor, nn

from spectralgpt.building import build_encoder
from spectralgpt.models import cpu, mae
from spectralgpt.models.cpu import loss_in_parts, part_size, split_batch
from spectralgpt.models.mae import MaskedAutoencoder


def run(size: int, scale: float = 1.0) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
    x = torch.randn(7, 4, requires_grad=True)

    def part_loss(part: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        found = module(part)
        return (found**2).sum() / len(x), (found.detach(),)

    loss, others = loss_in_parts(part_loss, x, module, size)
    (scale * loss).backward()
    gradients = [x.grad, *(each.grad for each in module.parameters())]
    assert all(each is not None for each in gradients)
    return loss.detach(), [other[0] for other in others], gradients  # type: ignore[return-value]


@pytest.mark.parametrize("size", [1, 3, 6])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_parts_sum_to_the_whole(size: int, scale: float) -> None:
    loss, others, gradients = run(size, scale)
    whole, (all_rows,), expected = run(7, scale)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(torch.cat(others), all_rows)
    torch.testing.assert_close(gradients, expected)
    assert len(others) == -(-7 // size)


def test_frozen_weights_get_no_gradient() -> None:
    module = nn.Linear(4, 2)
    module.weight.requires_grad_(False)
    x = torch.randn(5, 4)
    loss, _ = loss_in_parts(lambda part, _: (module(part).sum(), ()), x, module, 2)
    loss.backward()
    assert module.weight.grad is None
    assert module.bias.grad is not None


def test_a_part_holds_at_least_one_image() -> None:
    assert part_size(10**6, 512) == 1
    assert part_size(576, 512) == 2
    assert part_size(1024, 512) == 2


def test_two_weights_with_one_gradient_are_summed_apart() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.ones(4)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x * (self.first + self.second)

    module = Sum()
    loss, _ = loss_in_parts(
        lambda part, rows: (module(part).sum(), ()), torch.ones(6, 4), module, size=2
    )
    loss.backward()
    for each in (module.first, module.second):
        torch.testing.assert_close(each.grad, torch.full((4,), 6.0))


@pytest.mark.parametrize("decoder", ["full", "cross"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_model_trains_alike_in_parts(
    decoder: mae.DecoderKind, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients(values: int) -> tuple[Tensor, list[Tensor]]:
        monkeypatch.setattr(cpu, "_PART_VALUES", values)
        torch.manual_seed(0)
        model = MaskedAutoencoder(
            16, 6, embed_dim=24, depth=1, num_heads=2, decoder_embed_dim=16,
            decoder_depth=1, decoder_num_heads=2, decoder=decoder,
            normalize_targets=normalize,
        )  # fmt: skip
        images = torch.rand(5, 6, 16, 16)
        valid = torch.rand(5, 6, 16, 16) > 0.2
        noise = torch.rand(5, 8)
        output = model(images, 0.5, noise, valid=valid)
        output.loss.backward()
        found = [each.grad for each in model.parameters() if each.grad is not None]
        return output.loss.detach(), found

    loss, found = gradients(1)
    whole, expected = gradients(10**9)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_without_gradients_a_batch_is_split_until_no_block_is_mapped_anew() -> None:
    x, module = torch.zeros(16, 576, 768), torch.nn.Identity()
    assert [len(part) for part in split_batch(x, 4, module)] == [16]
    with torch.inference_mode():
        fp32 = split_batch(x, 4, module)
        with torch.autocast("cpu", torch.bfloat16):
            bf16 = split_batch(x, 4, module)
        assert [len(part) for part in split_batch(x[:, :50], 4, module)] == [16]
        long = x.repeat(1, 20, 1)[:2]
        assert [len(part) for part in split_batch(long, 4, module)] == [1, 1]
        assert [len(part) for part in split_batch(x[:0], 4, module)] == [0]
    assert [len(part) for part in fp32] == [4] * 4
    assert [len(part) for part in bf16] == [8] * 2


def test_split_or_not_an_encoder_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = build_encoder("tiny", image_size=32).eval()
    images = torch.rand(5, 12, 32, 32)
    with torch.no_grad():
        whole = encoder(images)
        monkeypatch.setattr(cpu, "_BLOCK_BYTES", 1)
        apart = encoder(images)
    torch.testing.assert_close(apart, whole, rtol=1e-4, atol=1e-5)
