import pytest
import torch
from torch import nn

from spectralgpt.models import heads


@pytest.mark.parametrize(
    ("embed_dim", "width"), [(768, 256), (1280, 256), (384, 128), (192, 64), (48, 64)]
)
def test_head_width_follows_the_encoder(embed_dim: int, width: int) -> None:
    assert heads._head_width(embed_dim) == width


@pytest.mark.parametrize(
    ("head", "scale"), [(heads._UPerNetHead, 8), (heads._FPNHead, 4)]
)
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (7, 5)])
def test_heads_train_on_one_image_of_any_grid(
    head: type[nn.Module], scale: int, grid: tuple[int, int]
) -> None:
    built = head(48, 3, 64, 0.5).train()
    logits = built(torch.randn(1, 48, *grid))
    assert logits.shape == (1, 3, scale * grid[0], scale * grid[1])
    nn.functional.cross_entropy(logits, logits.argmin(1)).backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", [heads._UPerNetHead, heads._FPNHead])
def test_fresh_heads_are_nearly_undecided(head: type[nn.Module]) -> None:
    torch.manual_seed(0)
    probabilities = head(48, 4, 64)(torch.randn(2, 48, 6, 6)).softmax(dim=1)
    assert (probabilities - 0.25).abs().max() < 0.25
    assert probabilities.std() > 1e-4


def test_every_level_of_a_fresh_upernet_counts() -> None:
    torch.manual_seed(0)
    head = heads._UPerNetHead(48, 3, 64)
    features = torch.randn(2, 48, 6, 6)
    scales = [level(features).std().item() for level in head.levels]
    assert max(scales) < 4 * min(scales)


def test_pyramid_pooling_takes_maxima() -> None:
    pooling = heads._PyramidPooling(32, 32)
    x = torch.randn(1, 32, 6, 6)
    with torch.no_grad():
        for branch in pooling.branches[1:]:
            branch.weight.zero_()
            branch.bias.zero_()
        top = pooling.branches[0](x.amax(dim=(2, 3), keepdim=True))
        parts = [top.expand(-1, -1, 6, 6), *[torch.zeros(1, 32, 6, 6)] * 3, x]
        wanted = pooling.final(torch.cat(parts, dim=1))
        torch.testing.assert_close(pooling(x), wanted)


def test_pixel_head_lays_out_patches() -> None:
    head = heads._PixelHead(2, 4)
    scores = torch.zeros(1, 2 * 4 * 4, 3, 5)
    # Class 1, pixel row 2 and column 3 of the patch in row 1, column 4.
    scores[0, 1 * 16 + 2 * 4 + 3, 1, 4] = 1
    logits = head(scores)
    assert logits.shape == (1, 2, 12, 20)
    assert logits.nonzero().tolist() == [[0, 1, 1 * 4 + 2, 4 * 4 + 3]]
