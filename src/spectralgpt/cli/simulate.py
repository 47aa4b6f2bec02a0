"""`spectralgpt simulate`: make a simulated, labelled satellite archive."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "simulate"
HELP = (
    "Make a simulated, labelled satellite archive for trying out tasks at any size. "
    "Its images are computed, not measured, and say so."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.data.simulation import TASKS, SimulationConfig

    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--tasks",
        type=str,
        default=",".join(SimulationConfig.tasks),
        help=f"what to make labels for, parted by commas: {', '.join(TASKS)} "
        "(scenes are unlabelled, for pretraining)",
    )
    for option, kind, text in (
        ("sensor", str, "sensor of the registry (see spectralgpt info)"),
        ("images", int, "images of each task over all splits; pairs for change"),
        ("image_size", int, "side of an image, pixels of the finest band"),
        ("seed", int, "fixes every number of the archive"),
        ("regions", int, "simulated regions, each in one split only"),
        ("train_share", float, "share of images and regions for training, 0..1"),
        ("val_share", float, "the same for validation; the rest is for testing"),
        ("cloudy_share", float, "share of images with clouds, 0..1"),
        ("label_share", float, "share of a multilabel image that makes a label, 0..1"),
        ("workers", int, "processes to use"),
    ):
        spellings = dict.fromkeys((f"--{option}", f"--{option.replace('_', '-')}"))
        default = getattr(SimulationConfig, option)
        parser.add_argument(*spellings, type=kind, default=default, help=text)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a simulated archive"
    )


def run(args: Namespace) -> Path:
    """Simulate the archive; returns its folder."""
    from spectralgpt.data.simulation import SimulationConfig, simulate_archive

    config = SimulationConfig(
        tasks=tuple(task.strip() for task in args.tasks.split(",") if task.strip()),
        sensor=args.sensor,
        images=args.images,
        image_size=args.image_size,
        seed=args.seed,
        regions=args.regions,
        train_share=args.train_share,
        val_share=args.val_share,
        cloudy_share=args.cloudy_share,
        label_share=args.label_share,
        workers=args.workers,
    )
    return simulate_archive(args.output, config, overwrite=args.overwrite)
