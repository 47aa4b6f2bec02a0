"""`spectralgpt demo`: pretrain, rebuild, compare and map, in a few minutes."""

import time
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import add_format_options, prepare_output, stated_of
from spectralgpt.cli.options import add_options, error_console

HELP = "Pretrain on, rebuild, compare and map, and write a report on it."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    add_options(
        parser,
        output=(Path, Path("demo"), "folder for report.html and the trained model"),
        overwrite="replace a demo in the output folder",
        data=(
            Path,
            "folder of your own imagery of one sensor; default: what ships with the "
            "package",
        ),
    )
    add_format_options(parser)
    add_options(
        parser,
        minutes=(float, 2.0, "time for pretraining, minutes"),
        seed=(int, 0, "seed of all that is random"),
    )


def run(args: Namespace) -> Path:
    """Run all steps; returns the report."""
    from spectralgpt.errors import require

    require("geopandas", "lightning", "sklearn")
    for name in ("report.html", "pretraining"):
        prepare_output(args.output, name, args.overwrite)

    from spectralgpt.demo.run import STEPS, run_demo
    from spectralgpt.training.logs import ProgressDisplay

    console = error_console()
    started = time.monotonic()

    def announce(number: int, note: str) -> None:
        seconds = time.monotonic() - started
        console.print(
            f"[bold]\\[{number + 1}/{len(STEPS)}][/bold] {STEPS[number]} "
            f"[dim]({note}; {seconds:.0f} s so far)[/dim]",
            highlight=False,
        )

    made = run_demo(
        args.output,
        data=args.data,
        stated=stated_of(args),
        minutes=args.minutes,
        seed=args.seed,
        callbacks=[ProgressDisplay(console)],
        on_step=announce,
    )
    seconds = time.monotonic() - started
    console.print(f"Done in {seconds:.0f} s. Open the report in a browser:")
    return made
