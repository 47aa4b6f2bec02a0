import itertools
import time

import pytest
import torch
from torch import Tensor, nn

from spectralgpt.benchmarks import steps
from tests.tiny import tiny_encoder

CPU = torch.device("cpu")


class Slow(nn.Module):
    """A head that takes 30 ms forward and 60 ms backward."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.03)
        y = x.square()
        y.register_hook(lambda gradient: time.sleep(0.06))
        return y


def test_parts_fill_the_step_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    clock = steps._PartClock(CPU)
    clock.start()
    for part in ("data", "embedding", "data"):
        clock.end_part(part)
    clock.end_step()
    # A second look at the clock between two parts would be a second lost.
    assert clock.medians() == ({"data": 2, "embedding": 1}, {})


def test_forward_and_backward_are_told_apart() -> None:
    encoder, head, clock = tiny_encoder(), Slow(), steps._PartClock(CPU)
    with steps._watch_parts(clock, encoder, head, "decoder"):
        clock.start()
        loss = head(encoder(torch.rand(1, 12, 32, 32))).sum()
        clock.end_part("loss")
        clock.is_backward = True
        loss.backward()
        clock.end_part("embedding")
        clock.end_step()
    parts, backward = clock.medians()
    assert set(parts) == {"embedding", "encoder", "decoder", "loss"}
    assert set(backward) == {"embedding", "encoder", "decoder", "loss"}
    assert parts["decoder"] - backward["decoder"] >= 0.03
    # The head's own hook runs before the boundary's, so its time is the loss's.
    assert backward["decoder"] + backward["loss"] >= 0.06
    assert all(seconds > 0 for seconds in parts.values())


def test_recomputed_blocks_belong_to_the_backward_pass() -> None:
    encoder, clock = tiny_encoder(), steps._PartClock(CPU)
    with steps._watch_parts(clock, encoder, None):
        clock.start()
        clock.is_backward = True
        encoder(torch.rand(1, 12, 32, 32))
        clock.end_part("embedding")
        clock.end_step()
    assert set(clock.medians()[0]) == {"embedding"}


def test_marks_come_off() -> None:
    encoder = tiny_encoder()
    with steps._watch_parts(steps._PartClock(CPU), encoder, None):
        assert encoder.blocks[0]._forward_pre_hooks
    assert not encoder.blocks[0]._forward_pre_hooks


def test_a_head_may_take_its_gradients_image_by_image() -> None:
    encoder, head, clock = tiny_encoder(), Slow(), steps._PartClock(CPU)
    with steps._watch_parts(clock, encoder, head, "decoder"):
        clock.start()
        latent = encoder(torch.rand(2, 12, 32, 32))
        gradients = []
        for row in latent.detach():
            part = row.requires_grad_()
            gradients += torch.autograd.grad(head(part).sum(), part)
            time.sleep(0.05)
        clock.end_part("loss")
        clock.is_backward = True
        latent.backward(torch.stack(gradients))
        clock.end_part("embedding")
        clock.end_step()
    parts, backward = clock.medians()
    # Twice 30 ms forward, and the pause after the first image.
    assert parts["decoder"] - backward["decoder"] >= 0.11
    assert parts["loss"] >= 0.12 + 0.05
    assert parts["encoder"] > backward["encoder"] > 0
