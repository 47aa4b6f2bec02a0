"""The demo from imagery to report: six steps, each on what the one before made."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from spectralgpt.checkpoints import LoadedModel, load_model
from spectralgpt.config import read_config
from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.demo.imagery import CellLabels, Imagery
from spectralgpt.demo.story import NEIGHBOURS, Compared, write_demo_report
from spectralgpt.errors import BandError, CheckpointError, ConfigError, require
from spectralgpt.metrics import Scores, score_images
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.objective import Objective
from spectralgpt.preprocessing import Preprocessing, sensor_preprocessing
from spectralgpt.rasters import Raster, Stated
from spectralgpt.recipes import find_recipe
from spectralgpt.reports.style import choose_composites
from spectralgpt.scenes.embedding import embed_scene
from spectralgpt.scenes.reconstruction import Reconstruction
from spectralgpt.sensors import Band
from spectralgpt.tasks.pretraining import PretrainingTask
from spectralgpt.tasks.probes import Features, predict_knn, predict_linear
from spectralgpt.training.comparison import random_encoder
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_models import build_model

if TYPE_CHECKING:
    from lightning.pytorch import Callback

STEPS = (
    "read the imagery",
    "pretrain",
    "rebuild held-out parts",
    "embed the scene",
    "compare with random weights",
    "write the report",
)
_SHOWN_CROPS = 3
_RANDOM_SEEDS = 5
_MAP_OVERLAP = 0.25
_TIMED_CALLS = 4
_WARMUP_SHARE = 0.1
_CIRRUS_NM = (1360.0, 1400.0)
_CLUSTERS = 6
_STARTS = 4

FloatArray = NDArray[np.float32]


def run_demo(
    output: Path,
    *,
    data: Path | None = None,
    stated: Stated | None = None,
    minutes: float = 2.0,
    seed: int = 0,
    callbacks: Sequence["Callback"] = (),
    on_step: Callable[[int, str], None] = lambda number, note: None,
) -> Path:
    """Pretrain on from the weights in the package, rebuild, compare, map, and report.

    Imagery without the twelve bands of those weights starts from random ones.

    Args:
        output: folder for the run (`pretraining/`) and `report.html`.
        data: the user's folder of imagery; None takes what ships with the package.
        stated: of the user's imagery, where its files do not say.
        minutes: wall-clock time for pretraining.
        seed: of everything random.
        callbacks: given to the training, such as a progress display.
        on_step: called with the index in `STEPS` and a note when a step begins.

    Returns:
        The report.

    Raises:
        ConfigError: the time is not positive, or imagery is described without data.
        DataError: there are no usable images.
    """
    facts = {} if stated is None else stated.facts
    if minutes <= 0 or (facts and data is None):
        raise ConfigError(
            f"found {minutes} minutes, {facts or 'nothing'} stated, data {data}: give "
            "a time above 0, and state sensor and the like only together with data."
        )
    from spectralgpt.training.pretraining import pretrain

    on_step(0, str(data) if data else "ships with the package")
    imagery = (
        Imagery.shipped()
        if data is None
        else Imagery.of_folder(data, stated or Stated())
    )
    config = _demo_config(imagery, output, seed)
    seconds, threads = _measure_speed(config, imagery)
    config = _fit_to_time(config, seconds, minutes)
    with _using_threads(threads):
        start = config.model.start_from or "random weights"
        on_step(1, f"from {start}, about {minutes:g} min, broken off and resumed")
        run = output / "pretraining"
        half = _steps(config) // 2
        with contextlib.suppress(_BrokenOff):
            pretrain(
                config, run, overwrite=True, callbacks=[*callbacks, _break_at(half)]
            )
        pretrain(config, run, resume=True, callbacks=callbacks)
        return _examine(output, imagery, config, run, on_step)


class _BrokenOff(Exception):  # noqa: N818
    """The demonstration broke its training off, to show that it goes on."""


def _break_at(step: int) -> "Callback":
    """Return what breaks a training off before an optimizer step."""
    from lightning.pytorch.callbacks import LambdaCallback

    def check(trainer: Any, *_: object) -> None:
        if trainer.global_step == step:
            raise _BrokenOff

    return LambdaCallback(on_train_batch_start=check)


def _steps(config: PretrainConfig) -> int:
    crops = config.data.samples_per_epoch
    assert crops is not None, "the recipe says how long an epoch is"
    return crops // config.trainer.batch_size * config.trainer.epochs


def _demo_config(imagery: Imagery, folder: Path, seed: int) -> PretrainConfig:
    """Return the recipe `demo` on this imagery."""
    item = imagery.strips[0][0]
    # Within these wavelengths water vapour hides the ground: a cirrus band is empty.
    low, high = _CIRRUS_NM
    seen = [band for band in item.bands if not low <= band.wavelength_nm <= high]
    if not seen:
        raise BandError(f"{imagery.title} has no band that sees the ground.")
    recipe = read_config(find_recipe("demo"), PretrainConfig)
    data = replace(
        recipe.data,
        root=imagery.root,
        sources=_write_sources(imagery, folder),
        sensor=item.sensor.name,
        use_bands=tuple(band.name for band in seen),
        exclude_bands=(),
    )
    start = recipe.model.start_from
    assert start is not None, "the recipe starts from the weights in the package"
    contract = load_model(start).preprocessing
    assert contract is not None, "which state theirs"
    model = recipe.model
    if not contract.knows(seen) or len(seen) < len(contract.bands):
        model, data = replace(model, start_from=None), replace(data, statistics=None)
    return replace(recipe, data=data, seed=seed, model=model)


def _write_sources(imagery: Imagery, folder: Path) -> tuple[str, ...]:
    """Write descriptions for the run; those that ship with the package stay there."""
    if imagery.descriptions:
        return tuple(str(path) for path in imagery.descriptions)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "imagery.yaml"
    facts = {"sensor": imagery.strips[0][0].sensor.name} | imagery.stated.facts
    if facts["sensor"].endswith(".yaml"):
        facts["sensor"] = str(Path(facts["sensor"]).absolute())
    content = {
        {"band_pattern": "pattern"}.get(name, name): list(v) if type(v) is tuple else v
        for name, v in facts.items()
    } | {"holdout": "auto"}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return (str(path),)


def _measure_speed(config: PretrainConfig, imagery: Imagery) -> tuple[float, int]:
    """Time a few training steps with all of torch's threads, and with one.

    On a machine shared with others, or in a container with fewer processors than it
    shows, many threads wait for each other and one alone is faster. Returns seconds of
    an optimizer step, reading included, and the number of threads that is fastest.
    """
    contract = sensor_preprocessing(
        config.data.sensor, config.data.use_bands, image_size=config.data.image_size
    )
    dataset = PretrainingDataset(imagery.items, contract, crops=config.data.crops)
    chosen = [index % len(dataset) for index in range(config.trainer.batch_size)]
    stacked = torch.stack([dataset[index]["images"] for index in chosen])
    reading = _time(lambda: [dataset[index] for index in chosen])
    task = PretrainingTask(build_model(config, contract), config.masking.ratio)
    batch = {
        "images": stacked,
        "valid": torch.ones(stacked.shape, dtype=torch.bool),
        "seed": torch.arange(len(stacked)),
    }

    def step() -> None:
        task.forward(batch).loss.backward()

    found = []
    for threads in sorted({torch.get_num_threads(), 1}):
        with _using_threads(threads):
            step()  # Pays for starting up.
            computing = _time(step)
        # With a core to spare the worker reads meanwhile; else both take turns.
        alone = threads < (os.cpu_count() or 1)
        seconds = max(computing, reading) if alone else computing + reading
        found.append((seconds, threads))
    return min(found)


def _time(action: Callable[[], object]) -> float:
    """Return the mean wall-clock time of a few calls, seconds."""
    started = time.monotonic()
    for _ in range(_TIMED_CALLS):
        action()
    return (time.monotonic() - started) / _TIMED_CALLS


@contextlib.contextmanager
def _using_threads(threads: int) -> Iterator[None]:
    """Let torch use this many threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit_to_time(
    config: PretrainConfig, seconds: float, minutes: float
) -> PretrainConfig:
    """Set the epochs so that steps of so many seconds take about so many minutes."""
    per_epoch = _steps(config) / config.trainer.epochs * seconds
    epochs = max(2, round(60 * minutes / per_epoch))
    return replace(
        config,
        trainer=replace(config.trainer, epochs=epochs),
        optimizer=replace(config.optimizer, warmup_epochs=_WARMUP_SHARE * epochs),
    )


def _examine(
    output: Path,
    imagery: Imagery,
    config: PretrainConfig,
    run: Path,
    on_step: Callable[[int, str], None],
) -> Path:
    """Look at what the pretrained model does, and report it."""
    loaded = load_model(run)
    contract = loaded.preprocessing
    if contract is None:
        raise CheckpointError(f"{run} was saved without its contract.")
    on_step(2, f"{config.masking.ratio:.0%} of each crop hidden")
    crops = _rebuild_held_out(loaded, contract, config, imagery)
    on_step(3, imagery.title)
    encoder = loaded.encoder
    cells = _embed_cells(encoder, contract, imagery, _MAP_OVERLAP)
    untrained = random_encoder(encoder, config.seed)
    random_cells = _embed_cells(untrained, contract, imagery, _MAP_OVERLAP)
    pixels = imagery.read_pixels(contract)
    spectra = _mean_spectra(pixels, encoder.patch_size)
    labels = None
    if imagery.labels is not None:
        labels = CellLabels.read(imagery.labels, imagery, encoder.patch_size)
    on_step(4, f"{_RANDOM_SEEDS} seeds" if labels else "left out: there are no labels")
    compared: Compared = {}
    if labels is not None:
        compared = _compare(encoder, contract, imagery, labels, spectra, config)
    on_step(5, str(output / "report.html"))
    return write_demo_report(
        output / "report.html",
        imagery=imagery,
        config=config,
        run=run,
        scores=json.loads((run / "validation.json").read_text(encoding="utf-8")),
        crops=crops,
        pixels=pixels,
        cells=cells,
        random_cells=random_cells,
        clusters=_find_clusters(cells, spectra, contract.bands, labels, config.seed),
        labels=labels,
        compared=compared,
        classes=None if labels is None else _map_classes(labels, cells),
    )


def _rebuild_held_out(
    loaded: LoadedModel,
    contract: Preprocessing,
    config: PretrainConfig,
    imagery: Imagery,
) -> list[Reconstruction]:
    """Rebuild the most varied held-out crops, each under a mask of its own.

    They are in reflectance, the most varied first.
    """
    assert isinstance(loaded.model, Objective), "what pretraining trains"
    dataset = PretrainingDataset(imagery.items, contract, "val", config.data.crops)
    samples = [dataset[index] for index in range(len(dataset))]
    # Variety of the crop, not quality of the result, decides what is shown.
    variety = [float(s["images"].std(dim=(1, 2)).mean()) for s in samples]
    chosen = sorted(range(len(samples)), key=lambda i: -variety[i])[:_SHOWN_CROPS]
    task = PretrainingTask(loaded.model, config.masking.ratio, config.masking.style)
    batch = {
        "images": torch.stack([samples[i]["images"] for i in chosen]),
        "valid": torch.stack([samples[i]["valid"] for i in chosen]),
        "seed": torch.tensor([config.seed + i for i in chosen]),
    }
    rebuilt, hidden = task.rebuild(batch)
    found = []
    for number, index in enumerate(chosen):
        image, valid = (batch[name][number].numpy() for name in ("images", "valid"))
        # Of a fixed range, which no pixels of the image change.
        scaled_from = Raster(image, valid, contract.bands)
        found.append(
            Reconstruction(
                contract.restore(image, scaled_from),
                contract.restore(rebuilt[number].numpy(), scaled_from),
                hidden[number].numpy(),
                contract.bands,
                f"Held-out crop {index} of {Path(dataset.item_of(index).name).name}",
                "reflectance",
            )
        )
    return found


def _embed_cells(
    encoder: Encoder,
    contract: Preprocessing,
    imagery: Imagery,
    overlap: float = 0.0,
) -> FloatArray:
    """Embed the cells of the mapped scene: (rows, columns, D).

    Each strip is embedded for itself, so that none sees pixels of another.
    """
    parts = [
        embed_scene(encoder, contract, item, overlap=overlap, window=window).values
        for item, window in imagery.strips
    ]
    return np.concatenate(parts)


def _mean_spectra(pixels: FloatArray, cell_px: int) -> FloatArray:
    """Average reflectance (C, H, W) over cells: (rows, columns, C)."""
    C, height, width = pixels.shape
    blocks = pixels.reshape(C, height // cell_px, cell_px, width // cell_px, cell_px)
    means: FloatArray = np.nanmean(blocks, axis=(2, 4))
    return np.ascontiguousarray(np.moveaxis(means, 0, -1))


def _compare(
    encoder: Encoder,
    contract: Preprocessing,
    imagery: Imagery,
    labels: CellLabels,
    spectra: FloatArray,
    config: PretrainConfig,
) -> Compared:
    """Score pretrained embeddings, random encoders and mean spectra on one split."""

    def embedded(encoder: Encoder) -> FloatArray:
        return _embed_cells(encoder, contract, imagery)

    contenders = {
        "pretrained encoder": [embedded(encoder)],
        "same encoder, random weights": [
            embedded(random_encoder(encoder, config.seed + number))
            for number in range(_RANDOM_SEEDS)
        ],
        "mean spectrum of the cell": [spectra],
    }
    start = config.model.start_from
    if start is not None:
        # Scaled by the statistics of the start, which training on from it keeps.
        contenders[f"before: {start}"] = [embedded(load_model(start).encoder)]
    return {
        name: {
            method: [_score(labels, cells, method) for cells in runs]
            for method in ("knn", "probe")
        }
        for name, runs in contenders.items()
    }


def _score(labels: CellLabels, cells: FloatArray, method: str) -> Scores:
    train, val, test = (_features(labels, cells, s) for s in ("train", "val", "test"))
    if method == "knn":
        probabilities = predict_knn(train, test, NEIGHBOURS)
    else:
        probabilities = predict_linear(train, val, test)
    return score_images(probabilities, test.targets, labels.class_names)


def _features(labels: CellLabels, cells: FloatArray, split: str) -> Features:
    chosen = labels.split == split
    targets = torch.from_numpy(labels.classes[chosen])
    return Features(cells[chosen], targets, len(labels.class_names))


def _map_classes(labels: CellLabels, cells: FloatArray) -> NDArray[np.int64]:
    """Classify every cell of the scene with the linear probe: (rows, columns)."""
    rows, columns, width = cells.shape
    unknown = torch.zeros(rows * columns, dtype=torch.long)
    everything = Features(cells.reshape(-1, width), unknown, len(labels.class_names))
    train, val = _features(labels, cells, "train"), _features(labels, cells, "val")
    best = predict_linear(train, val, everything).argmax(dim=1)
    return best.numpy().reshape(rows, columns)


def _find_clusters(
    cells: FloatArray,
    spectra: FloatArray,
    bands: Sequence[Band],
    labels: CellLabels | None,
    seed: int,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Group cells (rows, columns, D) by k-means on their embeddings, the largest first.

    Groups are named afterwards: by the labelled class found most often in them, or
    without labels by their vegetation index. The names take no part in the grouping.
    """
    require("sklearn")
    from sklearn.cluster import KMeans

    rows, columns, width = cells.shape
    count = min(_CLUSTERS, rows * columns)
    grouping = KMeans(count, n_init=_STARTS, random_state=seed)
    raw = grouping.fit_predict(cells.reshape(-1, width)).reshape(rows, columns)
    order = np.argsort(-np.bincount(raw.ravel(), minlength=count))
    index = np.argsort(order)[raw].astype(np.int64)
    greenness = _vegetation_index(spectra, bands)
    names = [_name(index == number, labels, greenness) for number in range(count)]
    return index, tuple(f"{number}: {name}" for number, name in enumerate(names, 1))


def _name(
    members: NDArray[np.bool_], labels: CellLabels | None, greenness: FloatArray | None
) -> str:
    if labels is not None:
        known = labels.classes[members & (labels.classes >= 0)]
        if not known.size:
            return "no labelled cell in it"
        counts = np.bincount(known, minlength=len(labels.class_names))
        best = int(counts.argmax())
        return f"{labels.class_names[best]} in {counts[best]} of {known.size} labelled"
    if greenness is None:
        return "cluster"
    return f"NDVI {np.nanmedian(greenness[members]):.2f}"


def _vegetation_index(spectra: FloatArray, bands: Sequence[Band]) -> FloatArray | None:
    """Return (near infrared - red) / (near infrared + red), None without the bands."""
    for composite in choose_composites(bands):
        if composite.name == "false colour":
            near_infrared, red = (spectra[..., i] for i in composite.indices[:2])
            total = np.maximum(near_infrared + red, np.float32(1e-6))
            result: FloatArray = (near_infrared - red) / total
            return result
    return None
