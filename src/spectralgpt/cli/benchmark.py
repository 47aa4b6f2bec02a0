"""`spectralgpt benchmark`: measure speed and memory on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spectralgpt.cli.options import add_options, counting, from_options
from spectralgpt.errors import ConfigError

if TYPE_CHECKING:
    from spectralgpt.benchmarks.measurement import Result

HELP = (
    "Measure training, inference or loading on this machine, beside the fastest "
    "product of matrices that it gives."
)
# What is shown: key, title, factor to the unit shown, format.
_FIGURES = (
    ("images_per_second", "images/s", 1, ".2f"),
    ("seconds_per_step", "seconds a step (median)", 1, ".4f"),
    ("model_flops_per_image", "model GFLOP an image (counted)", 1e-9, ".1f"),
    ("peak_matmul_gflops", "fastest product, GFLOP/s", 1, ".0f"),
    ("model_flops_utilization", "share of the fastest product", 1, ".3f"),
    ("memory_bandwidth_gb_s", "memory bandwidth (copy), GB/s", 1, ".1f"),
    ("peak_rss_bytes", "peak memory, GB", 1e-9, ".2f"),
    ("peak_device_bytes", "peak memory of the GPU, GB", 1e-9, ".2f"),
    ("weight_bytes", "weights, MB", 1e-6, ".1f"),
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
        default = getattr(BenchmarkConfig, option)
        parser.add_argument(f"--{option}", type=kind, default=default, help=text)
    add_options(
        parser,
        json=(Path, "file for the result"),
        overwrite="replace the file of a result",
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
    console = Console()
    if args.compare:
        from spectralgpt.benchmarks.measurement import read_result

        one, two = (read_result(path) for path in args.compare)
        return _print_comparison(one, two, [p.stem for p in args.compare], console)
    check_early(args)
    result = _measure(args)
    if args.json is not None:
        from spectralgpt.files import write_json

        write_json(args.json, result)
    return _print_result(result, args.json, console)


def _measure(args: Namespace) -> dict[str, object]:
    from spectralgpt.benchmarks.measurement import run_benchmark
    from spectralgpt.benchmarks.settings import BenchmarkConfig
    from spectralgpt.benchmarks.steps import total_steps

    config = from_options(BenchmarkConfig, args)
    with counting("steps", total_steps(config)) as update:
        return run_benchmark(config, lambda done: update(completed=done))


def _print_result(result: "Result", path: Path | None, console: Console) -> str:
    """Print one measurement; returns its summary, with the file it is in."""
    from spectralgpt.benchmarks.measurement import PROBE_SIZE

    settings, machine = result["settings"], result["machine"]
    table = Table("figure", "value", title=_title(settings))
    for key, title, factor, form in _FIGURES:
        if result.get(key) is not None:
            table.add_row(title, format(result[key] * factor, form))
    spread = result["spread"]
    between = (f"{spread[name]:.4f}" for name in ("lower_quartile", "upper_quartile"))
    table.add_row("quartiles of a step, s", " to ".join(between))
    if probes := sorted(result["probe_gflops"]):
        title = f"product of {PROBE_SIZE} rows after each step, GFLOP/s"
        table.add_row(title, f"{probes[0]:.0f} to {probes[-1]:.0f}")
    used = machine["gpu"] or machine["cpu"]
    table.add_row("machine", f"{used}, {result['threads']} threads")
    console.print(table)
    if result["parts"]:
        console.print(_parts_table(result))
    return _summary(result) + (f"; {path}" if path else "")


def _title(settings: Mapping[str, Any]) -> str:
    side = settings["image_size"]
    if settings["mode"] == "data":
        return (
            f"data: {settings['data']}, {side} px, batches of {settings['batch_size']}"
        )
    bands = "" if settings["data"] else f" x {settings['num_bands']}"
    return (
        f"{settings['mode']}: {settings['model']}, {side} x {side}{bands}, batch "
        f"{settings['batch_size']}, {settings['precision']}"
    )


def _summary(result: "Result") -> str:
    share = result["model_flops_utilization"]
    of_peak = "" if share is None else f", {share:.0%} of the fastest product"
    return f"{result['images_per_second']:.2f} images/s{of_peak}"


def _parts_table(result: "Result") -> Table:
    table = Table("part of a step", "seconds", "share", "of it backward, s")
    total = sum(result["parts"].values())
    for part, seconds in result["parts"].items():
        backward = result["backward"].get(part)
        table.add_row(
            part,
            f"{seconds:.4f}",
            f"{seconds / total:.1%}",
            "" if backward is None else f"{backward:.4f}",
        )
    return table


def _print_comparison(
    one: "Result", two: "Result", names: Sequence[str], console: Console
) -> str:
    """Print two measurements side by side; returns how the speeds compare."""
    from spectralgpt.benchmarks.measurement import differing_settings

    # Files of one name in two folders are told apart by their order.
    first, second = names if names[0] != names[1] else (f"A: {names[0]}", "B")
    table = Table("figure", first, second, f"{second} / {first}")
    for key, title, factor, form in _FIGURES:
        _add_pair(table, title, one.get(key), two.get(key), factor, form)
    parts = [result.get("parts") or {} for result in (one, two)]
    for part in dict.fromkeys([*parts[0], *parts[1]]):
        seconds = [found.get(part) for found in parts]
        _add_pair(table, f"{part}, s", seconds[0], seconds[1], 1, ".4f")
    console.print(table)
    differing = differing_settings(one, two)
    if differing:
        other = Table("measured otherwise", first, second)
        for name, pair in differing.items():
            other.add_row(name.replace("_", " "), *map(str, pair))
        console.print(other)
    ratio = two["images_per_second"] / one["images_per_second"]
    return f"{second} does {ratio:.2f} times the images/s of {first}"


def _add_pair(
    table: Table, title: str, one: Any, two: Any, factor: float, form: str
) -> None:
    if one is None and two is None:
        return
    cells = ["" if v is None else format(v * factor, form) for v in (one, two)]
    ratio = f"{two / one:.3f}" if one and two is not None else ""
    table.add_row(title, *cells, ratio)
