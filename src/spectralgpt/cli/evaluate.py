"""`spectralgpt evaluate`: measure a model on labelled images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spectralgpt.cli.images import (
    ARITHMETIC,
    DEVICE,
    IMAGE_SIZE,
    OUTPUT,
    prepare_output,
)
from spectralgpt.cli.options import (
    CHECKPOINT,
    add_options,
    counting,
    error_console,
    plain_values,
)
from spectralgpt.errors import ConfigError
from spectralgpt.files import read_json

if TYPE_CHECKING:
    from spectralgpt.checkpoints import LoadedModel
    from spectralgpt.data.labelled import LabelledDataConfig
    from spectralgpt.data.samples import SampleSet
    from spectralgpt.rasters import Stated

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
    add_options(
        parser,
        model=(
            str,
            ...,
            f"checkpoint: {CHECKPOINT}; or a size for random weights",
        ),
        method=(
            Literal["auto", "linear-probe", "ridge", "knn", "forest", "finetuned"],
            "what is fitted to frozen features: logistic regression, least squares, "
            "nearest neighbours, a random forest, or (auto, the default) what does "
            "best on val; finetuned (with --masks the default) scores the model's own "
            "classes on held-out images",
        ),
    )
    _add_data(parser)
    parser.add_argument(
        "--data.root", type=str | None, default=None, help="folder of the data set"
    )
    add_options(
        parser,
        masks=(
            Path,
            "YAML file that describes images with masks, as for finetune segmentation "
            "and change; in place of --data for models that make maps",
        ),
        split=(
            Literal["train", "val", "test"],
            "test",
            "what finetuned models are scored on",
        ),
        test_flips=(
            bool,
            "for maps: average over mirror images, four times the work; null does as "
            "the scores of the model's fine-tuning did",
        ),
        floors=(
            bool,
            True,
            "for maps: what a forest on pixels and the best index reach beside the "
            "scores, learnt from pixels of the file's training places",
        ),
        k=(int, 20, "neighbours of knn"),
        baselines="compare with random weights and random convolutions, too; band "
        "statistics always stand beside",
        seeds=(
            int,
            1,
            "repetitions, each with its own split (unless the data set gives one), "
            "training subset, random weights and filters",
        ),
        resamples=(int, 500, "bootstrap test sets, for finetuned"),
        seed=(int, 0, "seed of the bootstrap, for finetuned"),
        workers=(int, 0, "processes that read; 0 reads in this one"),
        **IMAGE_SIZE,
        **OUTPUT,
        **DEVICE,
        **ARITHMETIC,
    )


def _add_data(parser: ArgumentParser) -> None:
    """Add the options of labelled images; those of the split are null by default."""
    from spectralgpt.data.identity import SPLIT_SETTINGS
    from spectralgpt.data.labelled import LabelledDataConfig

    hints = get_type_hints(LabelledDataConfig)
    of_split = [name for name in SPLIT_SETTINGS if name in hints]
    parser.add_class_arguments(LabelledDataConfig, "data", skip={"root", *of_split})
    for name in of_split:
        parser.add_argument(
            f"--data.{name}",
            type=hints[name] | None,
            default=None,
            help="as for finetune; null takes what the fine-tuned model was trained "
            "with, so that its test images are the ones that are scored",
        )


def run(args: Namespace) -> Path:
    """Measure; returns the folder with metrics.json, table.csv and report.html."""
    from spectralgpt.cli.results import print_test_scores
    from spectralgpt.scenes.loading import in_precision, load_on_device

    console = error_console()
    if (args.masks is None) == (args.data.root is None):
        raise ConfigError(
            "give either --data.root, a folder of labelled images, or --masks, a YAML "
            "file that describes images with masks."
        )
    method: str = args.method or ("auto" if args.masks is None else "finetuned")
    if args.masks is not None and method != "finetuned":
        raise ConfigError(f"method {method} takes no masks: leave out one of them.")
    if args.masks is None and args.test_flips:
        raise ConfigError("--test-flips is for maps (--masks): leave it out.")
    if method != "finetuned" and args.split != "test":
        raise ConfigError(f"method {method} scores test: leave out --split.")
    check_early(args)
    loaded = load_on_device(
        args.model, args.device, image_size=args.image_size, quantize=args.quantize
    )
    with in_precision(loaded, args.precision):
        if method == "finetuned":
            _score(args, loaded)
        else:
            _compare(args, method, loaded)
    show = print_test_scores if method == "finetuned" else _print_comparison
    show(args.output, console)
    folder: Path = args.output
    return folder


def _score(args: Namespace, loaded: "LoadedModel") -> None:
    from spectralgpt.data.datasets import DenseDataset
    from spectralgpt.data.statistics import tell_if_far
    from spectralgpt.scenes.loading import stated_contract
    from spectralgpt.training.scoring import evaluate

    read = _read_images if args.masks is None else _read_masks
    whole = read(args, loaded)
    contract = stated_contract(loaded, args.model)
    test = whole.select(args.split)
    tell_if_far(test.items, contract, test.source)
    train, total = None, len(test.samples)
    if not test.has_labels:
        total = len(DenseDataset(test, contract))
        is_there = any(sample.split == "train" for sample in whole.samples)
        if args.floors and args.split != "train" and is_there:
            train = whole.select("train")
    with counting("scoring", total) as update:
        evaluate(
            loaded,
            args.model,
            test,
            args.output,
            seed=args.seed,
            flips=_flips(args, loaded),
            batch_size=args.batch_size,
            num_workers=args.workers,
            resamples=args.resamples,
            train=train,
            progress=lambda done: update(advance=done),
        )


def _flips(args: Namespace, loaded: "LoadedModel") -> bool:
    from spectralgpt.data.identity import training_settings

    if args.test_flips is None:
        return training_settings(loaded.extra).get("test_flips") is True
    return bool(args.test_flips)


def _read_images(args: Namespace, loaded: "LoadedModel") -> "SampleSet":
    """Read labelled images for a classifier, divided as for its training."""
    from spectralgpt.data.labelled import read_labelled

    names, _ = loaded.classes(args.model)
    return read_labelled(_read_config(args, loaded), names, _assumed(loaded))


def _read_masks(args: Namespace, loaded: "LoadedModel") -> "SampleSet":
    """Read images with masks for a model that makes maps, divided as for training."""
    from spectralgpt.data.dense.config import DenseDataConfig, read_dense_config
    from spectralgpt.data.dense.sets import read_dense
    from spectralgpt.data.identity import split_settings

    names, task = loaded.classes(args.model, maps=True)
    usual = split_settings(loaded.extra, DenseDataConfig)
    config = read_dense_config(args.masks, usual=usual)
    if config.task != task:
        raise ConfigError(
            f"{args.masks} describes {config.task}, but {args.model} was fine-tuned "
            f"for {task}: set 'task: {task}' if its images and masks are for that."
        )
    return read_dense(config, names, _assumed(loaded))


def _read_config(
    args: Namespace, loaded: "LoadedModel | None" = None
) -> "LabelledDataConfig":
    """Read what is stated of labelled images; a model's training gives its split."""
    from spectralgpt.config import build_config
    from spectralgpt.data.identity import SPLIT_SETTINGS, split_settings
    from spectralgpt.data.labelled import LabelledDataConfig

    usual = {} if loaded is None else split_settings(loaded.extra, LabelledDataConfig)
    stated = {
        name: value
        for name, value in plain_values(args.data).items()
        if name not in SPLIT_SETTINGS or value is not None
    }
    return build_config({**usual, **stated}, LabelledDataConfig, "data")


def _assumed(loaded: "LoadedModel") -> "Stated | None":
    """Return what is so of images that do not say."""
    return loaded.preprocessing.assumed if loaded.preprocessing else None


def _compare(args: Namespace, method: Any, loaded: "LoadedModel") -> None:
    from spectralgpt.data.labelled import read_labelled
    from spectralgpt.training.comparison import compare_features

    config = _read_config(args)
    labelled = read_labelled(config, assumed=_assumed(loaded), divided=False)
    with counting("features", len(labelled.samples)) as update:
        compare_features(
            loaded,
            labelled,
            config,
            args.output,
            args.model,
            method=method,
            k=args.k,
            baselines=args.baselines,
            seeds=args.seeds,
            batch_size=args.batch_size,
            num_workers=args.workers,
            progress=lambda name, done, total: update(
                description=name, completed=done, total=total
            ),
        )


def _print_comparison(folder: Path, console: Console) -> None:
    """Print mean and standard deviation over seeds of each kind of features."""
    found = read_json(folder / "metrics.json")
    kinds = found["features"]
    metrics = list(next(iter(kinds.values())))
    names = ("features", "head", *(m.replace("_", " ") for m in metrics))
    title = f"{found['method']}, {found['seeds']} seeds"
    table = Table(*names, title=title)
    for kind, row in kinds.items():
        cells = [f"{row[m]['mean']:.4f} ± {row[m]['std']:.4f}" for m in metrics]
        heads = ", ".join(dict.fromkeys(found["heads"][kind]))
        table.add_row(kind, heads, *cells)
    console.print(table)
