"""Our encoders as torchgeo-bench takes models."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchgeo_bench.datasets.base import BandSpec
from torchgeo_bench.models._input_units import (
    detect_input_unit,
    to_reflectance,
)
from torchgeo_bench.models.interface import BenchModel

from spectralgpt.checkpoints import load_model
from spectralgpt.errors import BandError, ConfigError
from spectralgpt.integrations import open_backbone
from spectralgpt.models.encoder import mean_by_group
from spectralgpt.sensors import Band, match_bands

# Data sets state centres only; theirs and ours of one band lie within half of this.
_WIDTH_NM, _GSD_M = 30.0, 10.0


class SpectralGPTBench(BenchModel):  # type: ignore[misc]
    """Weights as a model of torchgeo-bench, which the settings name by `_target_`.

    Bands are found by wavelength. Numbers become reflectance as torchgeo-bench tells
    their unit (Sentinel-2: divided by 10,000), and are scaled as the weights were
    trained. An encoder of any bands takes those of its own that a data set has; one of
    fixed bands needs all.

    Args:
        bands: of the data set.
        weights: see `open_backbone`.
        normalization: of torchgeo-bench: `identity`, since scaling is the model's.
        name: what results are filed under.

    Attributes:
        levels: what maps of four depths go through, early ones first, for the hooks of
            segmentation probes: tokens of blocks are of several band groups.

    Raises:
        ConfigError: another normalisation is asked for.
        BandError: the data set has none of the bands, or not all that are needed.
    """

    def __init__(
        self,
        bands: list[BandSpec],
        weights: str | Path = "spectralgpt-tiny-s2",
        normalization: str = "identity",
        name: str = "spectralgpt",
        **_: Any,
    ) -> None:
        super().__init__(bands=bands, normalization="identity")
        if normalization != "identity":
            raise ConfigError(
                f"dataset.normalization is {normalization}, but these weights scale "
                "images themselves: use dataset.normalization=identity."
            )
        self.unit = detect_input_unit(bands)
        contract = load_model(weights).preprocessing
        if contract is None:
            raise ConfigError(f"{weights} does not say what images it takes.")
        optical = [i for i, spec in enumerate(bands) if spec.wavelength_um is not None]
        found = match_bands(
            contract.bands,
            [
                Band(
                    bands[i].source_name,
                    float(bands[i].wavelength_um or 0) * 1000,
                    _WIDTH_NM,
                    _GSD_M,
                )
                for i in optical
            ],
            allow_missing=True,
        )
        names = [
            band.name
            for band, index in zip(contract.bands, found, strict=True)
            if index is not None
        ]
        if not names:
            raise BandError(
                f"{name} takes {', '.join(contract.band_names)}; the data set has none "
                f"of them ({', '.join(spec.name for spec in bands)})."
            )
        self.order = [optical[index] for index in found if index is not None]
        self.backbone = open_backbone(weights, bands=names)
        taps, levels = self.backbone.encoder.taps, self.backbone.encoder.levels
        self.indices = [taps.index(level) for level in levels]
        self.levels = nn.ModuleList(nn.Identity() for _ in levels)

    def normalize_inputs(self, images: Tensor) -> Tensor:
        """Return reflectance of the model's bands, in its order."""
        picked: Tensor = to_reflectance(images[:, self.order], self.unit)
        return picked

    def _forward_patch_features(self, images: Tensor) -> Tensor:
        """Map reflectance (B, C, H, W) to pooled features (B, G * D)."""
        last, maps = self.backbone.forward_intermediates(images, self.indices)
        # A shallow encoder has fewer: some are of one block.
        found = dict(zip(sorted(set(self.indices)), maps, strict=True))
        for level, index in zip(self.levels, self.indices, strict=True):
            level(found[index])
        return mean_by_group(last).flatten(1)
