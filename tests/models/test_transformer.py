import pytest
import torch

from spectralgpt.errors import ConfigError
from spectralgpt.models import blocks
from spectralgpt.models.blocks import BlockStack, build_blocks


def test_attention_matches_torch_reference() -> None:
    torch.manual_seed(0)
    attention = blocks._Attention(24, 3)
    reference = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight,
            "out_proj.bias": attention.proj.bias,
        }
    )
    x = torch.randn(2, 7, 24)
    wanted, _ = reference(x, x, x, need_weights=False)
    torch.testing.assert_close(attention(x), wanted)


def test_block_treats_tokens_as_a_set() -> None:
    block = blocks._Block(16, 2)
    x = torch.randn(1, 6, 16)
    order = torch.randperm(6)
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]))


def test_drop_path_skips_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = blocks._Block(8, 2, drop_path=0.5).train()
    branch = torch.ones(4000, 3, 8)
    dropped = block._drop(branch)
    assert set(dropped.unique().tolist()) == {0, 2}
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert abs(float(dropped.mean()) - 1) < 0.1
    assert torch.equal(block.eval()._drop(branch), branch)


def test_drop_path_rises_with_depth() -> None:
    blocks = build_blocks(8, 5, 2, drop_path=0.2)
    rates = [block.drop_path for block in blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="embed_dim 10 is no multiple of num_heads 3"):
        blocks._Attention(10, 3)


def kept_and_gradients(blocks: BlockStack) -> tuple[int, list[torch.Tensor]]:
    """Count the values kept for the backward pass, and run it."""
    kept = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel())
        return x

    torch.manual_seed(1)
    x = torch.rand(2, 9, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = blocks(x).square().sum()
    return sum(kept), list(torch.autograd.grad(loss, (x, *blocks.parameters())))


def test_recomputed_blocks_keep_less_and_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    blocks = build_blocks(8, 3, 2, drop_path=0.5).train()
    kept, gradients = kept_and_gradients(blocks)
    blocks.recomputes = True
    less, same = kept_and_gradients(blocks)
    assert less < 0.1 * kept
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_nothing_is_recomputed_without_gradients() -> None:
    blocks = build_blocks(8, 2, 2).eval()
    blocks.recomputes = True
    x = torch.rand(1, 4, 8)
    with torch.inference_mode():
        assert torch.equal(blocks(x), blocks[1](blocks[0](x)))
