"""`spectralgpt pretrain`: train a masked autoencoder on unlabelled imagery."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import (
    add_run_options,
    check_run,
    error_console,
    plain_values,
)

HELP = "Pretrain a masked autoencoder on unlabelled imagery."


check_early = check_run


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.training.pretrain_config import PretrainConfig

    add_run_options(parser)
    parser.add_class_arguments(PretrainConfig, as_group=False)


def run(args: Namespace) -> Path:
    """Train; returns the folder of the run."""
    from spectralgpt.config import build_config
    from spectralgpt.files import is_first_process
    from spectralgpt.training.logs import ProgressDisplay
    from spectralgpt.training.pretrain_config import PretrainConfig
    from spectralgpt.training.pretraining import pretrain

    console = error_console()
    made = pretrain(
        build_config(plain_values(args), PretrainConfig, "the command line"),
        args.output,
        overwrite=args.overwrite,
        resume=args.resume,
        callbacks=[ProgressDisplay(console)],
        announce=lambda line: console.print(line, highlight=False),
    )
    if not is_first_process():
        # The folder is printed once, by the process that the user started.
        raise SystemExit(0)
    return made
