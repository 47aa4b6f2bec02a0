"""All that the demo found out, for the report to tell."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectralgpt.demo.clusters import Clusters
from spectralgpt.demo.imagery import Imagery
from spectralgpt.demo.labels import CellLabels
from spectralgpt.demo.probing import Compared
from spectralgpt.reports.composites import Stretch, choose_composites, measure_stretch
from spectralgpt.reports.reconstructions import Reconstruction
from spectralgpt.sensors import Band
from spectralgpt.training.pretrain_config import PretrainConfig

__all__ = ["Findings"]


@dataclass(frozen=True)
class Findings:
    """All that the demo found.

    Args:
        imagery: what it ran on.
        config: of the pretraining.
        run: folder of the pretraining.
        scores: held-out errors of the model and of simple fillers.
        crops: held-out crops, rebuilt.
        bands: of the model.
        pixels: (C, H, W) reflectance of the mapped scene, NaN without data.
        cells: (rows, columns, D) embeddings of the scene.
        random_cells: the same from random weights.
        clusters: groups of cells.
        labels: known land cover, None without.
        compared: scores by kind of features, none without labels.
        classes: (rows, columns) class map, None without labels.
    """

    imagery: Imagery
    config: PretrainConfig
    run: Path
    scores: dict[str, float]
    crops: list[Reconstruction]
    bands: tuple[Band, ...]
    pixels: NDArray[np.float32]
    cells: NDArray[np.float32]
    random_cells: NDArray[np.float32]
    clusters: Clusters
    labels: CellLabels | None
    compared: tuple[Compared, ...]
    classes: NDArray[np.int64] | None

    @property
    def stretch(self) -> Stretch:
        """One stretch for every picture of the scene and of its crops."""
        return measure_stretch(self.pixels)

    @property
    def picture(self) -> NDArray[np.float32]:
        """The scene in true colour, or in grey where the sensor sees none."""
        composite = choose_composites(self.bands)[0]
        picture = self.stretch.apply(np.nan_to_num(self.pixels), composite)
        return picture if picture.shape[-1] > 1 else picture.repeat(3, axis=-1)

    @property
    def borders(self) -> list[int]:
        """Rows of the scene where training and held-out parts meet."""
        heights = [strip.window.height for strip in self.imagery.strips]
        return [int(row) for row in np.cumsum(heights)[:-1]]
