"""How training is run: blocks recomputed or compiled, and who hears of signals."""

import logging
import signal
import threading

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from spectralgpt.models.transformer import Block, BlockStack

__all__ = ["CompileBlocks", "KeepSignals", "compile_blocks", "recompute_activations"]

_log = logging.getLogger(__name__)


def recompute_activations(model: nn.Module) -> None:
    """Keep no activations inside the blocks of a model; see `BlockStack`."""
    for stack in _stacks(model):
        stack.recomputes = True


def compile_blocks(model: nn.Module, device: torch.device) -> bool:
    """Compile each block of a model, if torch.compile works on this machine.

    Args:
        model: its blocks are compiled in place, at their first use.
        device: where it is trained.

    Returns:
        Whether they are; where not, the log says why, and they run as before.
    """
    with torch.random.fork_rng(devices=[]):  # The run draws what it would draw without.
        trial = Block(embed_dim=32, num_heads=1).to(device)
    try:
        trial.compile()
        trial(torch.zeros(1, 4, 32, device=device)).sum().backward()
    # Compilers, their tools and the system under them raise whatever they like.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        _log.warning(
            "trainer.compile: torch.compile does not work here (%s); blocks are run "
            "without it.",
            reason[0],
        )
        return False
    for stack in _stacks(model):
        for block in stack:
            block.compile()
    return True


class KeepSignals(Callback):
    """Leave SIGTERM to whoever had it before the Trainer, which waits for a step's end.

    It then ends the process as if all were done.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take back what the Trainer has set before."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


class CompileBlocks(Callback):
    """Compile the blocks of what is trained, once it is where it is trained."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile them."""
        compile_blocks(pl_module, pl_module.device)


def _stacks(model: nn.Module) -> list[BlockStack]:
    return [each for each in model.modules() if isinstance(each, BlockStack)]
