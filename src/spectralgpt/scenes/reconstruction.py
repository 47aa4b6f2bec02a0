"""What an autoencoder rebuilds of a stretch of a scene, tile by tile."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.errors import CheckpointError, RasterError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterItem, Window, read_raster
from spectralgpt.tasks.pretraining import PretrainingTask, pixel_mask

__all__ = ["RebuiltWindow", "centre_window", "rebuild_window"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class RebuiltWindow:
    """A window of a scene, and what the model made of its visible part.

    Attributes:
        pixels: (C, H, W), scaled as the model takes them.
        rebuilt: (C, H, W), the model's prediction everywhere.
        masked: bool (C, H, W), true where the model did not see the pixel.
        window: which pixels of the scene these are.
    """

    pixels: FloatArray
    rebuilt: FloatArray
    masked: NDArray[np.bool_]
    window: Window

    @property
    def error(self) -> float:
        """Mean squared error over masked pixels, in scaled units."""
        return float(((self.rebuilt - self.pixels)[self.masked] ** 2).mean())


def centre_window(item: RasterItem, side_px: int, tile_px: int) -> Window:
    """Return the middle of a scene, its sides whole multiples of a tile.

    Args:
        item: the scene.
        side_px: side wanted, pixels; less if the scene is smaller.
        tile_px: side of a tile, pixels.

    Raises:
        RasterError: the scene is smaller than one tile.
    """
    height, width = item.shape(item.bands)
    rows, columns = (
        min(side_px, side) // tile_px * tile_px for side in (height, width)
    )
    if rows == 0 or columns == 0:
        raise RasterError(
            f"{item.name} is {height} x {width} px, less than one tile of {tile_px} px "
            "(or less was asked for): give a larger image or --size_px."
        )
    return Window((height - rows) // 2, (width - columns) // 2, rows, columns)


def rebuild_window(
    model: MaskedAutoencoder,
    preprocessing: Preprocessing,
    item: RasterItem,
    window: Window,
    mask_ratio: float = 0.9,
    seed: int = 0,
    batch_size: int = 16,
) -> RebuiltWindow:
    """Mask a window of a scene and rebuild it, tile by tile.

    The window is scaled as one image, so that neighbouring tiles agree.

    Args:
        model: the autoencoder; its device is used.
        preprocessing: its contract; `image_size` is the side of a tile.
        item: the scene.
        window: sides must be multiples of a tile (see `centre_window`).
        mask_ratio: share of masked tokens, 0 <= ratio < 1.
        seed: of the masks.
        batch_size: tiles at once.

    Raises:
        BandError: a band of the contract is missing.
        CheckpointError: the window is no multiple of a tile.
    """
    tile = preprocessing.image_size
    rows, columns = window.height // tile, window.width // tile
    if (window.height, window.width) != (rows * tile, columns * tile):
        raise CheckpointError(f"{window} is no multiple of the tile of {tile} px.")
    bands = [item.bands[i] for i in preprocessing.match(item.bands)]
    pixels, valid = preprocessing.prepare(read_raster(item, bands, window))
    device = next(model.parameters()).device
    tiles = _split(torch.from_numpy(pixels), tile).to(device)
    known = _split(torch.from_numpy(valid), tile).to(device)
    seeds = torch.arange(len(tiles)) + seed * len(tiles)
    task = PretrainingTask(model, mask_ratio)
    rebuilt, masked = [], []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(tiles), batch_size):
            part = slice(start, start + batch_size)
            output = task.forward(
                {"images": tiles[part], "valid": known[part], "seed": seeds[part]}
            )
            rebuilt.append(model.reconstruct(output).float().cpu())
            masked.append(pixel_mask(output.mask, output.grid).cpu())
    return RebuiltWindow(
        pixels,
        _join(torch.cat(rebuilt), rows).numpy(),
        _join(torch.cat(masked), rows).numpy(),
        window,
    )


def _split(image: torch.Tensor, tile: int) -> torch.Tensor:
    """Cut (C, H, W) into tiles (rows * columns, C, tile, tile)."""
    tiles = image.unfold(1, tile, tile).unfold(2, tile, tile)
    return tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)  # (rows * columns, C, tile, tile)


def _join(tiles: torch.Tensor, rows: int) -> torch.Tensor:
    """Put tiles (rows * columns, C, tile, tile) together to (C, H, W)."""
    grid = tiles.unflatten(0, (rows, -1))  # (rows, columns, C, tile, tile)
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
