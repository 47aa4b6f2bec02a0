"""Linear maps and attention on processors equal PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from spectralgpt.models import cpu
from spectralgpt.models.cpu import Linear, attend, keep_rounded


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    queries=st.integers(1, 9),
    keys=st.integers(1, 9),
)
def test_attention_equals_pytorchs(
    batch: int, heads: int, queries: int, keys: int
) -> None:
    torch.manual_seed(0)
    shapes = [(batch, heads, n, 8) for n in (queries, keys, keys)]
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
    expected = F.scaled_dot_product_attention(q, k, v)
    found = attend(q, k, v)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (q, k, v), grad),
        torch.autograd.grad(expected, (q, k, v), grad),
    )


@pytest.mark.parametrize("limit", ["_SCORE_BYTES", "_KEPT_VALUES"])
def test_attention_in_small_buffers_and_made_anew_gives_the_same(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3))
    expected = attend(q, k, v)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (q, k, v), grad)
    monkeypatch.setattr(cpu, limit, 1)
    found = attend(q, k, v)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (q, k, v), grad), expected_grads
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_attention_without_gradients_gives_the_same(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 8).to(dtype).requires_grad_() for _ in range(3))
    with_gradients = attend(q, k, v)
    with torch.no_grad():
        found = attend(q, k, v)
    torch.testing.assert_close(found, with_gradients, rtol=tolerance, atol=tolerance)


def test_attention_takes_heads_of_a_fused_map_without_copies_by_the_caller() -> None:
    qkv = torch.randn(2, 7, 3, 4, 8)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 5), (5, 12), (8, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_pytorchs(inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    ours = Linear(inputs, outputs, bias=bias)
    theirs = nn.Linear(inputs, outputs, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, inputs, requires_grad=True)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, *ours.parameters()), grad),
        torch.autograd.grad(expected, (x, *theirs.parameters()), grad),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("half_input", [True, False])
def test_linear_under_autocast_equals_pytorchs(bias: bool, half_input: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(12, 5, bias=bias), nn.Linear(12, 5, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 12)
    x = x.to(torch.bfloat16 if half_input else x.dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(x), theirs(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, *ours.parameters()), grad),
        torch.autograd.grad(expected, (x, *theirs.parameters()), grad),
        rtol=1.6e-2,
        atol=1e-2,
    )


@pytest.mark.parametrize("keeps", [True, False])
def test_training_in_bf16_keeps_rounded_weights_only_where_told(keeps: bool) -> None:
    linear, kept = Linear(12, 5), []
    if keeps:
        keep_rounded(linear)

    def pack(saved: torch.Tensor) -> torch.Tensor:
        kept.append(saved)
        return saved

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        linear(torch.randn(4, 12, requires_grad=True))
    sizes = [each.numel() for each in kept if each.dtype == torch.bfloat16]
    assert sorted(sizes) == ([48, 60] if keeps else [48])


def test_linear_without_rows_gives_none() -> None:
    assert Linear(3, 2)(torch.zeros(0, 3)).shape == (0, 2)


def test_linear_of_other_types_is_pytorchs() -> None:
    linear = Linear(3, 2).double()
    assert linear(torch.zeros(1, 3, dtype=torch.float64)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(3, 2)(torch.zeros(1, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 4e-3)])
@pytest.mark.parametrize("bias", [True, False])
def test_gelu_within_the_product_equals_gelu_after_it(
    half: bool, tolerance: float, bias: bool
) -> None:
    torch.manual_seed(0)
    linear, x = Linear(24, 96, bias=bias), torch.randn(2, 5, 24)
    after = F.gelu(F.linear(x, linear.weight, linear.bias))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        trained = linear.gelu(x)
        with torch.no_grad():
            within = linear.gelu(x)
    assert trained.requires_grad
    assert within.dtype == trained.dtype == (torch.bfloat16 if half else torch.float32)
    for found in (trained, within):
        assert (found.float() - after).abs().max() <= tolerance * after.abs().max()
