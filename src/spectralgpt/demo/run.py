"""The demo from imagery to report: six steps, each on what the one before made."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt.checkpoints import load_model
from spectralgpt.demo.clusters import find_clusters
from spectralgpt.demo.findings import Findings
from spectralgpt.demo.imagery import Imagery, own_imagery, read_pixels, shipped_imagery
from spectralgpt.demo.labels import read_labels
from spectralgpt.demo.probing import (
    Compared,
    compare,
    embed_cells,
    map_classes,
    mean_spectra,
)
from spectralgpt.demo.rebuild import rebuild_held_out
from spectralgpt.demo.story import write_demo_report
from spectralgpt.demo.training import (
    demo_config,
    fit_to_time,
    measure_speed,
    run_pretraining,
    using_threads,
)
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.rasters import Stated
from spectralgpt.tasks.baselines import random_encoder
from spectralgpt.training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["STEPS", "run_demo"]

STEPS = (
    "read the imagery",
    "pretrain a tiny model",
    "rebuild held-out parts",
    "embed the scene",
    "compare with random weights",
    "write the report",
)
_SHOWN_CROPS = 3
_RANDOM_SEEDS = 5
_MAP_OVERLAP = 0.25


def run_demo(
    output: Path,
    *,
    data: Path | None = None,
    stated: Stated | None = None,
    minutes: float = 3.0,
    seed: int = 0,
    callbacks: Sequence["Callback"] = (),
    on_step: Callable[[int, str], None] = lambda number, note: None,
) -> Path:
    """Pretrain, rebuild, compare, map, and write a report on it.

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
    on_step(0, str(data) if data else "ships with the package")
    imagery = (
        shipped_imagery() if data is None else own_imagery(data, stated or Stated())
    )
    config = demo_config(imagery, output, seed)
    speed = measure_speed(config, imagery)
    config = fit_to_time(config, speed.seconds, minutes)
    with using_threads(speed.threads):
        on_step(1, f"{config.trainer.epochs} epochs, about {minutes:g} min")
        run = run_pretraining(config, output / "pretraining", callbacks)
        return _examine(output, imagery, config, run, on_step)


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
    crops = rebuild_held_out(loaded, config, imagery, _SHOWN_CROPS)
    on_step(3, imagery.title)
    encoder = loaded.encoder
    cells = embed_cells(encoder, contract, imagery, _MAP_OVERLAP)
    untrained = random_encoder(encoder, config.seed)
    random_cells = embed_cells(untrained, contract, imagery, _MAP_OVERLAP)
    pixels = read_pixels(imagery, contract)
    spectra = mean_spectra(pixels, encoder.patch_size)
    labels = None
    if imagery.labels is not None:
        labels = read_labels(imagery.labels, imagery, encoder.patch_size)
    on_step(4, f"{_RANDOM_SEEDS} seeds" if labels else "left out: there are no labels")
    compared: tuple[Compared, ...] = ()
    if labels is not None:
        seeds = range(config.seed, config.seed + _RANDOM_SEEDS)
        compared = compare(encoder, contract, imagery, labels, pixels, seeds)
    on_step(5, str(output / "report.html"))
    findings = Findings(
        imagery=imagery,
        config=config,
        run=run,
        scores=json.loads((run / "validation.json").read_text(encoding="utf-8")),
        crops=crops,
        bands=contract.bands,
        pixels=pixels,
        cells=cells,
        random_cells=random_cells,
        clusters=find_clusters(cells, spectra, contract.bands, labels, config.seed),
        labels=labels,
        compared=compared,
        classes=None if labels is None else map_classes(labels, cells),
    )
    return write_demo_report(output / "report.html", findings)
