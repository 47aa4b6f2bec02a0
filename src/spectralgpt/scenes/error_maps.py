"""How well a model rebuilds each pixel of a whole scene, as a map."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.models.building import check_output
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import MODEL_TAG, RasterItem, measure_layers
from spectralgpt.scenes.strips import (
    Layout,
    WindowBatch,
    blend,
    plan_windows,
    prefetch,
    prepare_windows,
    read_batches,
)
from spectralgpt.scenes.unfinished import digest_model, making_maps, scene_facts
from spectralgpt.scenes.windows import check_size, choose_bands
from spectralgpt.tasks.pretraining import PretrainingTask, pixel_mask

__all__ = ["ErrorMapOptions", "map_errors"]

FloatArray = NDArray[np.float32]
_Prepared = tuple[WindowBatch, FloatArray | None, NDArray[np.bool_] | None]
_OVERLAP = 0.5


@dataclass(frozen=True)
class ErrorMapOptions:
    """How a map of errors is made.

    Args:
        mask_ratio: share of masked tokens, 0 < ratio < 1.
        seed: of the masks.
        batch_size: windows rebuilt at once.
        name: what the model is called in the map's tags.
        overwrite: replace what a run of another model has left unfinished.
    """

    mask_ratio: float = 0.75
    seed: int = 0
    batch_size: int = 16
    name: str = ""
    overwrite: bool = False


def map_errors(
    model: MaskedAutoencoder,
    preprocessing: Preprocessing,
    item: RasterItem,
    path: Path,
    options: ErrorMapOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Write the root mean square error of each pixel's hidden bands, in reflectance.

    Windows of the model's image size overlap by half and are masked each for itself, so
    that most pixels are hidden in several bands and windows; squares are averaged over
    them. NaN stands where nothing was hidden, or the scene holds no data. A run that
    was stopped is continued, as by `spectralgpt.scenes.maps.map_image`.

    Args:
        model: the autoencoder; its device is used.
        preprocessing: its contract.
        item: the scene.
        path: the Cloud-Optimized GeoTIFF to write.
        options: how.
        progress: called with the share that is done, 0..1.

    Raises:
        BandError: a band of the contract is missing.
        ShapeError: the scene is smaller than a token.
        OutputError: the file cannot be written.
    """
    options = options or ErrorMapOptions()
    bands = choose_bands(preprocessing, item)
    check_size(item, bands, model.encoder.patch_size)
    grid = item.grid(bands)
    side, patch = preprocessing.image_size, preprocessing.patch_size
    layout = plan_windows(item, bands, side, _OVERLAP, patch)
    tags = {MODEL_TAG: options.name, "MASK_RATIO": f"{options.mask_ratio:g}"}
    layers = measure_layers(["rmse of hidden bands (reflectance)"], tags)
    settings = {
        "settings": f"{options.mask_ratio:g}, {options.seed}, {options.batch_size}",
        "model": digest_model(model, next(model.parameters()).device.type),
    }
    facts = scene_facts([item], preprocessing) | settings
    task = PretrainingTask(model.eval(), options.mask_ratio)
    with making_maps({path: layers}, grid, facts, options.overwrite) as made:
        first = made.next_row
        batches = read_batches([item], [bands], layout, options.batch_size, first)
        prepared = prefetch(_prepare(preprocessing, batches))
        squares = prefetch(_rebuild(task, preprocessing, prepared, layout, options))
        for row, means in blend(squares, layout, 1, first):
            made.write(row, [np.sqrt(means)])
            if progress is not None:
                progress(made.next_row / grid.height)
        made.export()
        made.publish()
    return path


def _prepare(
    preprocessing: Preprocessing, batches: Iterator[WindowBatch]
) -> Generator[_Prepared]:
    for batch in batches:
        if batch.windows:
            images, valid = prepare_windows(
                batch, preprocessing, preprocessing.image_size
            )
            yield batch, images[:, 0], valid[:, 0]
        else:
            yield batch, None, None


def _rebuild(
    task: PretrainingTask,
    preprocessing: Preprocessing,
    prepared: Iterator[_Prepared],
    layout: Layout,
    options: ErrorMapOptions,
) -> Generator[tuple[WindowBatch, FloatArray | None]]:
    """Give mean squares (B, 1, H, W) and where they are known, for each batch."""
    device = next(task.model.parameters()).device
    for batch, images, valid in prepared:
        if images is None or valid is None:
            yield batch, None
            continue
        # A window's mask depends on its place alone, so that a run can be continued.
        first = options.seed * layout.height * layout.width
        places = [w.row * layout.width + w.column for w in batch.windows]
        with torch.inference_mode():
            output = task.forward(
                {
                    "images": torch.from_numpy(images).to(device),
                    "valid": torch.from_numpy(valid).to(device),
                    "seed": torch.tensor(places) + first,
                }
            )
            made = check_output(task.model.reconstruct(output).float().cpu())
            hidden = pixel_mask(output.mask, output.grid).cpu().numpy() & valid
        squares = np.stack(
            [
                (preprocessing.restore(out, r) - preprocessing.restore(true, r)) ** 2
                for out, true, r in zip(
                    made.numpy(),
                    images,
                    (
                        rasters[0].padded(images.shape[2], images.shape[3], "constant")
                        for rasters in batch.rasters
                    ),
                    strict=True,
                )
            ]
        )
        count = hidden.sum(axis=1)
        means = (squares * hidden).sum(axis=1) / np.maximum(count, 1)
        known = [
            (seen > 0)[: window.height, : window.width]
            for seen, window in zip(count, batch.windows, strict=True)
        ]
        yield replace(batch, is_known=known), means[:, None].astype(np.float32)
