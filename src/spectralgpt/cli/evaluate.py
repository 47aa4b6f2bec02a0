"""`spectralgpt evaluate`: measure a model on labelled images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from spectralgpt.cli.images import (
    add_arithmetic,
    add_device,
    add_output,
    prepare_output,
)
from spectralgpt.cli.options import plain_values
from spectralgpt.errors import ConfigError

__all__ = ["HELP", "add_arguments", "check_early", "run"]

_OF_SPLIT = (
    "split",
    "fractions",
    "block_m",
    "gap_m",
    "split_seed",
    "train_fraction",
    "tile_px",
    "eurosat_split",
)

HELP = (
    "Measure a model: a fine-tuned one on labelled images (--data) or on images with "
    "masks (--masks), or its frozen features by a linear probe or nearest neighbours, "
    "beside baselines that learned nothing."
)


def check_early(early: Mapping[str, Any] | Namespace) -> None:
    """Refuse an output that is there already, or cannot be made.

    Raises:
        ConfigError: it is one of them.
    """
    if early["output"] is not None:
        prepare_output(early["output"], "metrics.json", early["overwrite"])


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="checkpoint: a folder, file or Hub name, or a size for random weights",
    )
    parser.add_argument(
        "--method",
        type=Literal["linear-probe", "ridge", "knn", "finetuned"] | None,
        default=None,
        help="linear-probe (the default) fits logistic regression to frozen features, "
        "ridge least squares; finetuned (with --masks the default) scores the model's "
        "own classes on held-out images",
    )
    _add_data(parser)
    parser.add_argument(
        "--data.root", type=str | None, default=None, help="folder of the data set"
    )
    parser.add_argument(
        "--masks",
        type=Path | None,
        default=None,
        help="YAML file that describes images with masks, as for finetune segmentation "
        "and change; in place of --data for models that make maps",
    )
    parser.add_argument(
        "--split",
        type=Literal["train", "val", "test"],
        default="test",
        help="what finetuned models are scored on",
    )
    parser.add_argument(
        "--test_flips",
        type=bool,
        default=False,
        help="for maps: average over mirror images, four times the work",
    )
    parser.add_argument(
        "--floors",
        type=bool,
        default=True,
        help="for maps: what a forest on pixels and the best index reach beside the "
        "scores, learnt from pixels of the file's training places",
    )
    parser.add_argument("--k", type=int, default=20, help="neighbours of knn")
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="compare with random weights, band statistics and random convolutions",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="repetitions, each with its own split (unless the data set gives one), "
        "training subset, random weights and filters",
    )
    parser.add_argument(
        "--resamples", type=int, default=500, help="bootstrap test sets, for finetuned"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the bootstrap, for finetuned"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that read; 0 reads in this one",
    )
    parser.add_argument(
        "--image_size",
        type=int | None,
        default=None,
        help="side that images are brought to, px; null keeps the checkpoint's, which "
        "may have been pretrained on smaller crops",
    )
    add_output(parser)
    add_device(parser)
    add_arithmetic(parser)


def _add_data(parser: ArgumentParser) -> None:
    """Add the options of labelled images; those of the split are null by default."""
    from spectralgpt.data.labelled import LabelledDataConfig

    parser.add_class_arguments(LabelledDataConfig, "data", skip={"root", *_OF_SPLIT})
    hints = get_type_hints(LabelledDataConfig)
    for name in _OF_SPLIT:
        parser.add_argument(
            f"--data.{name}",
            type=hints[name] | None,
            default=None,
            help="as for finetune; null takes what the fine-tuned model was trained "
            "with, so that its test images are the ones that are scored",
        )


def run(args: Namespace) -> Path:
    """Measure; returns the folder with metrics.json, table.csv and report.html."""
    from spectralgpt.cli.maps import score_masks
    from spectralgpt.cli.results import print_comparison, print_test_scores
    from spectralgpt.scenes.loading import in_precision, load_on_device

    console = Console(stderr=True)
    method = _choose_method(args)
    check_early(args)
    loaded = load_on_device(
        args.model, args.device, image_size=args.image_size, quantize=args.quantize
    )
    with in_precision(loaded, args.precision):
        if args.masks is not None:
            score_masks(args, loaded, console)
        elif method == "finetuned":
            _score(args, loaded, console)
        else:
            _compare(args, method, loaded, console)
    show = print_test_scores if method == "finetuned" else print_comparison
    show(args.output, console)
    folder: Path = args.output
    return folder


def _choose_method(args: Namespace) -> str:
    """Return the method, stated or implied, once it fits the other options."""
    if (args.masks is None) == (args.data.root is None):
        raise ConfigError(
            "give either --data.root, a folder of labelled images, or --masks, a YAML "
            "file that describes images with masks."
        )
    method: str = args.method or ("linear-probe" if args.masks is None else "finetuned")
    if args.masks is not None and method != "finetuned":
        raise ConfigError(f"method {method} takes no masks: leave out one of them.")
    if args.masks is None and args.test_flips:
        raise ConfigError("--test_flips is for maps (--masks): leave it out.")
    if method != "finetuned" and args.split != "test":
        raise ConfigError(f"method {method} scores test: leave out --split.")
    return method


def _read_config(args: Namespace, usual: Mapping[str, Any] | None = None) -> Any:
    """Read what is stated of the data; `usual` is for what is left out of the split."""
    from spectralgpt.config import build_config
    from spectralgpt.data.labelled import LabelledDataConfig

    stated = {
        name: value
        for name, value in plain_values(args.data).items()
        if name not in _OF_SPLIT or value is not None
    }
    return build_config({**(usual or {}), **stated}, LabelledDataConfig, "data")


def _score(args: Namespace, loaded: Any, console: Console) -> None:
    from spectralgpt.cli.images import counting
    from spectralgpt.data.identity import split_settings
    from spectralgpt.data.labelled import read_labelled
    from spectralgpt.data.statistics import tell_if_far
    from spectralgpt.tasks.classification import check_classifier
    from spectralgpt.training.scoring import evaluate

    names, _ = check_classifier(loaded.model, loaded.extra, args.model)
    assumed = loaded.preprocessing.assumed if loaded.preprocessing else None
    config = _read_config(args, split_settings(loaded.extra, _OF_SPLIT))
    test = read_labelled(config, names, assumed).select(args.split)
    if loaded.preprocessing is not None:
        tell_if_far(
            [chip.item for chip in test.chips], loaded.preprocessing, test.source
        )
    with counting(console, "classifying", len(test.chips)) as progress:
        evaluate(
            loaded,
            args.model,
            test,
            args.output,
            seed=args.seed,
            batch_size=args.batch_size,
            num_workers=args.workers,
            resamples=args.resamples,
            progress=progress,
        )


def _compare(args: Namespace, method: Any, loaded: Any, console: Console) -> None:
    from rich.progress import Progress

    from spectralgpt.data.labelled import read_all
    from spectralgpt.training.comparison import compare_features, write_comparison

    config = _read_config(args)
    assumed = loaded.preprocessing.assumed if loaded.preprocessing else None
    labelled = read_all(config, assumed=assumed)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("features", total=len(labelled.chips))
        comparison = compare_features(
            loaded,
            labelled,
            config,
            method=method,
            k=args.k,
            baselines=args.baselines,
            seeds=args.seeds,
            batch_size=args.batch_size,
            num_workers=args.workers,
            progress=lambda name, done, total: bar.update(
                task, description=name, completed=done, total=total
            ),
        )
    write_comparison(comparison, args.output, args.model)
