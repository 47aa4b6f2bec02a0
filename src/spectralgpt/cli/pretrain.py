"""`spectralgpt pretrain`: train a masked autoencoder on unlabelled imagery."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.options import (
    add_run_options,
    check_run,
    counting,
    error_console,
    plain_values,
)
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.training.pretrain_config import PretrainConfig
    from spectralgpt.training.transfer import TransferConfig

HELP = "Pretrain a masked autoencoder on unlabelled imagery."


check_early = check_run


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.training.pretrain_config import PretrainConfig

    add_run_options(parser)
    parser.add_class_arguments(PretrainConfig, as_group=False)


def run(args: Namespace) -> Path | str:
    """Train; returns the folder of the run, or what --find-lr found."""
    from spectralgpt.config import build_config
    from spectralgpt.files import is_first_process
    from spectralgpt.training.logs import ProgressDisplay
    from spectralgpt.training.pretrain_config import PretrainConfig
    from spectralgpt.training.pretraining import pretrain

    config = build_config(plain_values(args), PretrainConfig, "the command line")
    if args.find_lr:
        return try_rates(pretrain, config, args)
    console = error_console()
    made = pretrain(
        config,
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


def try_rates(
    train: Callable[..., Path],
    config: "PretrainConfig | TransferConfig",
    options: Namespace,
) -> str:
    """Do what --find-lr asks for, also of `finetune`; returns what is said of it."""
    from spectralgpt.files import is_first_process
    from spectralgpt.training.trials import RATES, RATES_FIGURE, RATES_TABLE, find_rate

    folder = options.output
    if options.resume:
        raise ConfigError("--find-lr begins no run to go on with: leave out --resume.")
    with counting("learning rates", RATES) as count:
        base_lr = find_rate(
            train,
            config,
            folder,
            overwrite=options.overwrite,
            progress=lambda: count(advance=1),
        )
    if not is_first_process():
        raise SystemExit(0)
    batch = config.trainer.effective_batch
    rate = replace(config.optimizer, base_lr=base_lr).rate(batch)
    return (
        f"optimizer.base_lr {base_lr:.1e} (a learning rate of {rate:.1e} for {batch} "
        f"images a step)\n{folder / RATES_FIGURE}\n{folder / RATES_TABLE}"
    )
