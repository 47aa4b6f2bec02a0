"""Keep the weights with the best held-out score."""

import logging
import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from spectralgpt.training.fit import full_state_dict
from spectralgpt.training.module import TrainingModule

__all__ = ["BestModel"]

logger = logging.getLogger(__name__)


class BestModel(Callback):
    """Export the model whenever a validation metric is better than ever before.

    The best value is part of the training checkpoint, so that a resumed run does not
    replace better weights by worse ones. Equal scores keep the earlier weights.

    Args:
        metric: name of the logged metric.
        lower_is_better: whether that is an error or a loss.
        of_class: the class that the metric is about, for logs and reports.
        export: called on the first process with the model's state, on the CPU, and what
            it was chosen by.
    """

    def __init__(
        self,
        metric: str,
        export: Callable[[dict[str, Tensor], dict[str, Any]], None],
        *,
        lower_is_better: bool = False,
        of_class: str | None = None,
    ) -> None:
        self.metric = metric
        self.lower_is_better = lower_is_better
        self.of_class = of_class
        self.export = export
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Give the best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best value of the interrupted run."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and export if better.

        Raises:
            TrainingError: the weights are not finite; what was exported stays.
        """
        assert isinstance(pl_module, TrainingModule)
        value = pl_module.last_terms[self.metric]
        if self.best is not None and not self._is_better(value, self.best):
            return
        pl_module.check_state()
        self.best = value
        state = full_state_dict(trainer, pl_module)
        if trainer.is_global_zero:
            epoch = trainer.current_epoch + 1
            chosen = {"metric": self.metric, "value": value, "epoch": epoch}
            self.export(state, {**chosen, "class": self.of_class})
            of = "" if self.of_class is None else f" of {self.of_class}"
            logger.info(
                "epoch %d: %s%s %.4f is the best", epoch, self.metric, of, value
            )

    def _is_better(self, value: float, best: float) -> bool:
        # An undefined score is better than none, and any is better than it.
        if math.isnan(best):
            return not math.isnan(value)
        return value < best if self.lower_is_better else value > best
