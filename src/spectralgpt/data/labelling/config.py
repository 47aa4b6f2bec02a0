"""What a user states about labels, and about the tiles that are cut."""

from dataclasses import dataclass, field
from pathlib import Path

from spectralgpt.data.splits import Fractions
from spectralgpt.errors import ConfigError

__all__ = ["UNLABELLED", "LabelSource", "TileRules"]

UNLABELLED = 255
"""Value of masks where there is no label."""


@dataclass(frozen=True)
class LabelSource:
    """Where labels lie, and what their values mean.

    Args:
        labels: layer of polygons (GeoPackage, GeoJSON, Shapefile), or raster of codes.
        class_column: column of the polygons that holds class names or codes.
        classes: YAML or JSON file with the value, or list of values, of each class by
            its name; null makes each value that occurs a class.
        ignored: values that are no label, such as [cloud].
        background: class of pixels that no label covers; null leaves them unlabelled.
        layer: name of the layer in a file of several, or number of the raster's layer.
        all_touched: label every pixel that a polygon touches, not only those whose
            centre lies in it.
    """

    labels: Path
    class_column: str | None = None
    classes: Path | None = None
    ignored: tuple[str | int | float, ...] = ()
    background: str | None = None
    layer: str | int | None = None
    all_touched: bool = False


@dataclass(frozen=True)
class TileRules:
    """How tiles are cut from scenes, and dealt out by blocks on the ground.

    Args:
        tile_px: side of a tile, pixels of the scene's finest band.
        min_labelled: least share of a tile that is labelled and valid, 0..1.
        block_m: side of a block on the ground, m; a whole number of tiles is taken.
            Null takes up to ten tiles, fewer where blocks would be too few.
        gap_m: least distance of tiles in different blocks, m. Null takes four pixels
            of the coarsest band: as far as resampling reaches from both sides.
        fractions: shares of the labelled pixels in train, val and test.
        seed: another seed deals the blocks out otherwise.

    Raises:
        ConfigError: a number makes no sense.
    """

    tile_px: int = 128
    min_labelled: float = 0.5
    block_m: float | None = None
    gap_m: float | None = None
    fractions: Fractions = field(default_factory=Fractions)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.tile_px < 1 or self.seed < 0:
            raise ConfigError(
                f"tile_px must be at least 1 and seed at least 0 (found: "
                f"{self.tile_px} and {self.seed})."
            )
        if not 0 < self.min_labelled <= 1:
            raise ConfigError(
                f"min_labelled must be above 0 and at most 1: {self.min_labelled}."
            )
        if (self.block_m is not None and not self.block_m > 0) or (
            self.gap_m is not None and not self.gap_m >= 0
        ):
            raise ConfigError(
                f"block_m must be above 0 and gap_m at least 0 (found: {self.block_m} "
                f"and {self.gap_m})."
            )
