"""Tables of measurements on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from spectralgpt.benchmarks.measurement import PROBE_SIZE, Result, differing_settings

__all__ = ["print_comparison", "print_result"]

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


def print_result(result: Result, path: Path | None, console: Console) -> str:
    """Print one measurement; returns its summary, with the file it is in."""
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


def _summary(result: Result) -> str:
    share = result["model_flops_utilization"]
    of_peak = "" if share is None else f", {share:.0%} of the fastest product"
    return f"{result['images_per_second']:.2f} images/s{of_peak}"


def _parts_table(result: Result) -> Table:
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


def print_comparison(
    one: Result, two: Result, names: Sequence[str], console: Console
) -> str:
    """Print two measurements side by side; returns how the speeds compare."""
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
