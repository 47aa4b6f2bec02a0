"""`spectralgpt evaluate`: measure a model on labelled images."""

from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from spectralgpt.cli.images import add_device, add_output
from spectralgpt.cli.options import plain_values

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Measure a model on labelled images: a fine-tuned one, or its frozen features by a "
    "linear probe or nearest neighbours, beside baselines that learned nothing."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.data.labelled import LabelledDataConfig

    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="checkpoint: a folder, file or Hub name, or a size for random weights",
    )
    parser.add_argument(
        "--method",
        type=Literal["linear-probe", "ridge", "knn", "finetuned"],
        default="linear-probe",
        help="linear-probe fits logistic regression to frozen features, ridge least "
        "squares; finetuned scores the model's own classes on the test split",
    )
    parser.add_class_arguments(LabelledDataConfig, "data")
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


def run(args: Namespace) -> Path:
    """Measure; returns the folder with metrics.json, table.csv and report.html."""
    from spectralgpt.cli.images import load_on_device, prepare_output
    from spectralgpt.cli.results import print_comparison, print_test_scores
    from spectralgpt.data.labelled import LabelledDataConfig
    from spectralgpt.training.configuration import build_config

    console = Console(stderr=True)
    prepare_output(args.output, "metrics.json", args.overwrite)
    loaded = load_on_device(args.model, args.device, image_size=args.image_size)
    config = build_config(plain_values(args.data), LabelledDataConfig, "data")
    if args.method == "finetuned":
        _score(args, loaded, config, console)
        print_test_scores(args.output, console)
    else:
        _compare(args, loaded, config, console)
        print_comparison(args.output, console)
    folder: Path = args.output
    return folder


def _score(args: Namespace, loaded: Any, config: Any, console: Console) -> None:
    from spectralgpt.cli.images import counting
    from spectralgpt.data.labelled import read_labelled
    from spectralgpt.tasks.classification import check_classifier
    from spectralgpt.training.scoring import evaluate_classifier

    names, _ = check_classifier(loaded.model, loaded.extra, args.model)
    sensor = loaded.preprocessing.sensor if loaded.preprocessing else None
    test = read_labelled(config, names, sensor).select("test")
    with counting(console, "classifying", len(test.chips)) as progress:
        evaluate_classifier(
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


def _compare(args: Namespace, loaded: Any, config: Any, console: Console) -> None:
    from rich.progress import Progress

    from spectralgpt.data.labelled import read_all
    from spectralgpt.training.comparison import compare_features, write_comparison

    sensor = loaded.preprocessing.sensor if loaded.preprocessing else None
    labelled = read_all(config, assumed_sensor=sensor)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("features", total=len(labelled.chips))
        comparison = compare_features(
            loaded,
            labelled,
            config,
            method=args.method,
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
