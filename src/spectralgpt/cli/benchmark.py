"""`spectralgpt benchmark`: measure speed and memory on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from spectralgpt.errors import ConfigError

__all__ = ["HELP", "add_arguments", "check_early", "run"]

HELP = (
    "Measure training, inference or loading on this machine, beside the fastest "
    "product of matrices that it gives."
)


def check_early(early: Mapping[str, Any] | Namespace) -> None:
    """Refuse a file that cannot be written, before seconds go into imports.

    Raises:
        ConfigError: it is there already, or cannot be made.
    """
    path = early["json"]
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"--json {path} is a folder: name a file.")
    if path.exists() and not early["overwrite"]:
        raise ConfigError(f"{path} is there already: pass --overwrite.")
    if not path.parent.is_dir():
        raise ConfigError(f"--json {path}: there is no folder {path.parent}. Make it.")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    from spectralgpt.benchmarks.settings import BenchmarkConfig, Mode
    from spectralgpt.models.sizes import SIZES

    kinds = {
        "mode": (Mode, "pretrain or finetune (training steps), inference (encoder on "
                 "all tokens) or data (loading of --data)"),
        "model": (str, f"size of the model: {', '.join(SIZES)}"),
        "image_size": (int, "side of the images, px"),
        "num_bands": (int, "bands of the random images"),
        "batch_size": (int, "images in a step"),
        "precision": (Literal["bf16", "fp32"], "arithmetic; weights stay fp32"),
        "decoder": (Literal["full", "cross"], "decoder of pretraining"),
        "mask_ratio": (float, "share of masked tokens, 0..1"),
        "steps": (int, "measured steps, at least 5"),
        "warmup": (int, "steps before them that are not measured"),
        "threads": (int | None, "CPU threads; without it torch chooses"),
        "device": (str, "auto (CUDA if there is any), cpu, cuda, cuda:1"),
        "data": (Path | None, "description of a data set (YAML, or archive:NAME), or a "
                 "folder of images, for mode data or pretrain"),
        "data_root": (Path, "folder that descriptions' roots are in"),
        "sensor": (str, "whose bands the model takes of --data"),
        "exclude_bands": (tuple[str, ...], "bands of it to leave out, such as [B10]"),
        "workers": (int, "loader processes; 0 loads in the measured process"),
        "quantize": (Literal["none", "int8"], "int8 holds the encoder's weights as "
                     "8-bit integers; inference only"),
        "recompute_activations": (bool, "run blocks again in the backward pass: less "
                                  "memory; training only"),
        "compile": (bool, "compile blocks with torch.compile; training only"),
    }  # fmt: skip
    for option, (kind, text) in kinds.items():
        spellings = dict.fromkeys((f"--{option}", f"--{option.replace('_', '-')}"))
        default = getattr(BenchmarkConfig, option)
        parser.add_argument(*spellings, type=kind, default=default, help=text)
    parser.add_argument(
        "--json", type=Path | None, default=None, help="file for the result"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file of a result"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A.json", "B.json"),
        help="measure nothing: set two results side by side",
    )


def run(args: Namespace) -> str:
    """Measure, or compare; returns the line that says the most."""
    from spectralgpt.cli.benchmark_tables import print_comparison, print_result

    console = Console()
    if args.compare:
        from spectralgpt.benchmarks.measurement import read_result

        one, two = (read_result(path) for path in args.compare)
        return print_comparison(one, two, [p.stem for p in args.compare], console)
    check_early(args)
    result = _measure(args)
    if args.json is not None:
        from spectralgpt.files import write_json

        write_json(args.json, result)
    return print_result(result, args.json, console)


def _measure(args: Namespace) -> dict[str, object]:
    from dataclasses import fields

    from rich.progress import Progress

    from spectralgpt.benchmarks.measurement import run_benchmark
    from spectralgpt.benchmarks.settings import BenchmarkConfig
    from spectralgpt.benchmarks.steps import total_steps

    config = BenchmarkConfig(
        **{field.name: args[field.name] for field in fields(BenchmarkConfig)}
    )
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("steps", total=total_steps(config))
        return run_benchmark(config, lambda done: bar.update(task, completed=done))
