"""`spectralgpt simulate`: make a simulated, labelled satellite archive."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import add_options

NAME = "simulate"
HELP = (
    "Make a simulated, labelled satellite archive for trying out tasks at any size. "
    "Its images are computed, not measured, and say so."
)


_OPTIONS = {
    "sensor": "sensor of the registry (see spectralgpt info)",
    "images": "images of each task over all splits; pairs for change",
    "image_size": "side of an image, pixels of the finest band",
    "seed": "fixes every number of the archive",
    "regions": "simulated regions, each in one split only",
    "train_share": "share of images and regions for training, 0..1",
    "val_share": "the same for validation; the rest is for testing",
    "cloudy_share": "share of images with clouds, 0..1",
    "label_share": "share of a multilabel image that makes a label, 0..1",
    "workers": "processes to use",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.simulation import TASKS, SimulationConfig

    add_options(
        parser,
        output=(Path, ..., "folder to make"),
        tasks=(
            str,
            ",".join(SimulationConfig.tasks),
            f"what to make labels for, parted by commas: {', '.join(TASKS)} "
            "(scenes are unlabelled, for pretraining)",
        ),
    )
    for option, text in _OPTIONS.items():
        default = getattr(SimulationConfig, option)
        parser.add_argument(
            f"--{option}", type=type(default), default=default, help=text
        )
    add_options(parser, overwrite="replace a simulated archive")


def run(args: Namespace) -> Path:
    """Simulate the archive; returns its folder."""
    from spectralgpt.simulation import SimulationConfig, simulate_archive

    tasks = tuple(task.strip() for task in args.tasks.split(",") if task.strip())
    options = {option: args[option] for option in _OPTIONS}
    config = SimulationConfig(tasks=tasks, **options)
    return simulate_archive(args.output, config, overwrite=args.overwrite)
