"""Reconstructions drawn while a pretraining run goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import default_collate

from spectralgpt.data.pretraining import MixedDataset
from spectralgpt.reports.reconstructions import Reconstruction
from spectralgpt.tasks.pretraining import PretrainingTask, pixel_mask
from spectralgpt.training.loading import SampleKey, sample_seed
from spectralgpt.training.mixing import KeyedMixture

__all__ = ["ReconstructionFigures"]


class ReconstructionFigures(Callback):
    """Draw the same held-out images, with the same masks, at chosen epochs.

    Args:
        folder: gets reconstruction_epoch_EEEE_image_I.png.
        task: rebuilds the images.
        images: held-out images.
        names: which of them are drawn, by index, with the names shown.
        every_epochs: epochs between drawings; 0 draws at the end only.
        seed: seed of the masks.
    """

    def __init__(
        self,
        folder: Path,
        task: PretrainingTask,
        images: MixedDataset,
        names: Mapping[int, str],
        every_epochs: int,
        seed: int,
    ) -> None:
        self.folder = folder
        self.task = task
        self.images = images
        self.names = names
        self.every_epochs = every_epochs
        self.seed = seed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw if this epoch is one of the chosen, or the last."""
        epoch = trainer.current_epoch + 1
        chosen = self.every_epochs > 0 and epoch % self.every_epochs == 0
        if chosen or epoch == trainer.max_epochs:
            self.draw(trainer, pl_module, epoch)

    def draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Rebuild the images on every process, and draw them on the first."""
        shown = dict(enumerate(self.names))
        parts = {index: self.images.place_of(index)[0] for index in self.names}
        for part in sorted(set(parts.values())):
            # Images of one data set have one shape, and go through the model together.
            chosen = {i: n for i, n in shown.items() if parts[n] == part}
            self._draw_together(trainer, pl_module, epoch, chosen)

    def _draw_together(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        epoch: int,
        chosen: Mapping[int, int],
    ) -> None:
        """Draw images of one data set: number of the figure to index of the image."""
        keyed = KeyedMixture(self.images)
        keys = [SampleKey(i, sample_seed(self.seed, 0, i)) for i in chosen.values()]
        batch: dict[str, Any] = default_collate([keyed[key] for key in keys])
        placed = {name: value.to(pl_module.device) for name, value in batch.items()}
        was_training = self.task.model.training
        self.task.model.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            output = self.task.forward(placed)
        self.task.model.train(was_training)
        if not trainer.is_global_zero:
            return
        # Of a series the last date is drawn.
        rebuilt, masked, images = (
            tensor[:, -1] if output.grid.num_dates else tensor
            for tensor in (
                self.task.model.reconstruct(output).float().cpu(),
                pixel_mask(output.mask, output.grid).cpu(),
                batch["images"],
            )
        )
        for at, (number, index) in enumerate(chosen.items()):
            self._save(
                f"epoch_{epoch:04d}_image_{number}",
                Reconstruction(
                    images[at].numpy(),
                    rebuilt[at].numpy(),
                    masked[at].numpy(),
                    self.images.contract_of(index).bands,
                    f"{self.names[index]}, epoch {epoch}",
                ),
            )

    def _save(self, name: str, reconstruction: Reconstruction) -> None:
        from spectralgpt.reports.reconstructions import (
            plot_reconstruction,
            plot_spectra,
        )

        self.folder.mkdir(parents=True, exist_ok=True)
        plot_reconstruction(reconstruction).savefig(
            self.folder / f"reconstruction_{name}.png"
        )
        plot_spectra(reconstruction).savefig(self.folder / f"spectra_{name}.png")
