"""How well a model rebuilds each pixel of a whole scene, as a map."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spectralgpt.models.building import check_output
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import MODEL_TAG, Grid, RasterFile, measure_layers
from spectralgpt.scenes.strips import WindowBatch, compute_strips, read_batches
from spectralgpt.scenes.unfinished import digest_model, making_maps, scene_facts
from spectralgpt.scenes.windows import check_size, choose_bands, plan_windows
from spectralgpt.tasks.pretraining import PretrainingTask, pixel_mask

FloatArray = NDArray[np.float32]
_OVERLAP = 0.5


def map_errors(
    model: MaskedAutoencoder,
    preprocessing: Preprocessing,
    item: RasterFile,
    path: Path,
    *,
    mask_ratio: float = 0.75,
    seed: int = 0,
    batch_size: int = 16,
    name: str = "",
    overwrite: bool = False,
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
        mask_ratio: share of masked tokens, 0 < ratio < 1.
        seed: of the masks.
        batch_size: windows rebuilt at once.
        name: what the model is called in the map's tags.
        overwrite: replace what a run of another model has left unfinished.
        progress: called with the share that is done, 0..1.

    Raises:
        BandError: a band of the contract is missing.
        ShapeError: the scene is smaller than a token.
        OutputError: the file cannot be written.
    """
    bands = choose_bands(preprocessing, item)
    check_size(item, bands, model.encoder.patch_size)
    grid = item.grid(bands)
    side, patch = preprocessing.image_size, preprocessing.patch_size
    plan = plan_windows(item, bands, side, _OVERLAP, patch)
    tags = {MODEL_TAG: name, "MASK_RATIO": f"{mask_ratio:g}"}
    layers = measure_layers(["rmse of hidden bands (reflectance)"], tags)
    settings = {
        "settings": f"{mask_ratio:g}, {seed}, {batch_size}",
        "model": digest_model(model, next(model.parameters()).device.type),
    }
    facts = scene_facts([item], preprocessing) | settings
    task = PretrainingTask(model.eval(), mask_ratio)
    with making_maps({path: layers}, grid, facts, overwrite) as made:
        first = made.next_row
        batches = read_batches([item], [bands], plan, batch_size, first)
        measure = partial(_measure, task, preprocessing, grid, seed)
        for row, means in compute_strips(
            batches, plan, preprocessing, measure, 1, first_row=first
        ):
            made.write(row, [np.sqrt(means)])
            if progress is not None:
                progress(made.next_row / grid.height)
        made.export()
        made.publish()
    return path


def _measure(
    task: PretrainingTask,
    preprocessing: Preprocessing,
    grid: Grid,
    seed: int,
    batch: WindowBatch,
    images: FloatArray,
    valid: NDArray[np.bool_],
) -> tuple[WindowBatch, FloatArray]:
    """Give mean squares (B, 1, H, W) of hidden bands, known where there are any."""
    device = next(task.model.parameters()).device
    images, valid = images[:, 0], valid[:, 0]
    # A window's mask depends on its place alone, so that a run can be continued.
    above = (seed * grid.height + batch.row) * grid.width
    places = [above + column for column in batch.columns]
    with torch.inference_mode():
        output = task.forward(
            {
                "images": torch.from_numpy(images).to(device),
                "valid": torch.from_numpy(valid).to(device),
                "seed": torch.tensor(places),
            }
        )
        made = check_output(task.model.reconstruct(output).float().cpu()).numpy()
        hidden = pixel_mask(output.mask, output.grid).cpu().numpy() & valid
    side = images.shape[-1]
    rasters = [raster.padded(side, side, "constant") for (raster,) in batch.rasters]
    squares = np.stack(
        [
            (preprocessing.restore(out, r) - preprocessing.restore(true, r)) ** 2
            for out, true, r in zip(made, images, rasters, strict=True)
        ]
    )
    count = hidden.sum(axis=1)
    means = (squares * hidden).sum(axis=1) / np.maximum(count, 1)
    known = [
        (seen > 0)[: shown.shape[0], : shown.shape[1]]
        for seen, shown in zip(count, batch.is_known, strict=True)
    ]
    return replace(batch, is_known=known), means[:, None].astype(np.float32)
