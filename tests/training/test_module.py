"""Blocks that are recomputed, or compiled where that works."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spectralgpt.models import blocks as blocks_module
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.training import module
from spectralgpt.training.module import TrainingModule

CPU = torch.device("cpu")


def weights_after(
    run: Callable[..., TrainingModule], root: Path, **trainer: Any
) -> Any:
    return run(root, **trainer).model.state_dict()


def test_a_run_that_recomputes_gives_the_same_weights(
    tmp_path: Path, run_tiny: Callable[..., TrainingModule]
) -> None:
    plain = weights_after(run_tiny, tmp_path / "plain")
    model = run_tiny(tmp_path / "recomputed", recompute_activations=True).model
    assert model.encoder.blocks.recomputes
    assert model.decoder.blocks.recomputes
    recomputed = model.state_dict()
    assert plain.keys() == recomputed.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(recomputed[name], weight)


def test_without_a_compiler_blocks_run_as_before(
    tiny_model: Callable[[], MaskedAutoencoder],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no C++ compiler\nand a long story")

    model, images = tiny_model().eval(), torch.rand(1, 6, 16, 16)
    before = model.encoder(images)
    monkeypatch.setattr(nn.Module, "compile", fail)
    assert not module._compile_blocks(model, CPU)
    assert "does not work here (no C++ compiler); blocks are run" in caplog.text
    assert torch.equal(model.encoder(images), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # The compiler's own.
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_blocks_train_alike(
    tmp_path: Path,
    run_tiny: Callable[..., TrainingModule],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = run_tiny(tmp_path / "plain")
    compiled_blocks = []
    compile_block = blocks_module._Block.compile

    def note(self: blocks_module._Block, *args: Any, **kwargs: Any) -> None:
        compiled_blocks.append(self)
        compile_block(self, *args, **kwargs)

    monkeypatch.setattr(blocks_module._Block, "compile", note)
    compiled = run_tiny(tmp_path / "compiled", compile=True)
    assert len(compiled_blocks) == 3  # A trial, the encoder's and the decoder's.
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    assert compiled.last_terms == pytest.approx(plain.last_terms, rel=1e-4)
