"""Images and masks listed in a CSV file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.entries import Entry, first_names
from spectralgpt.data.splits import SPLITS, split_named
from spectralgpt.errors import ConfigError, DataError, DatasetNotFoundError
from spectralgpt.files import read_table
from spectralgpt.rasters import path_below

__all__ = ["list_table"]


def list_table(root: Path, config: DenseDataConfig) -> list[Entry]:
    """List the rows of a table; paths are relative to it and stay beneath it.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: columns, paths or splits are wrong; all are counted, the first named.
    """
    if config.class_masks is not None:
        raise ConfigError("data.class_masks needs layout folders.")
    table = root / config.table
    if not table.is_file():
        raise DatasetNotFoundError(
            f"There is no table of images and masks at {table} (option data.table)."
        )
    dates = ("image",) if config.task == "segmentation" else ("before", "after")
    rows = _read_rows(table, (*dates, "mask"))
    paths = _find_paths(table, rows, (*dates, "mask"))
    return [
        Entry(
            name=Path(row[dates[0]]).with_suffix("").as_posix(),
            images=tuple(found[date] for date in dates),
            masks=(found["mask"],),
            split=split_named(row.get("split", "")) or "",
            place=row.get("place", ""),
        )
        for row, found in zip(rows, paths, strict=True)
    ]


def _read_rows(table: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    columns, found = read_table(table)
    rows = [{name: value.strip() for name, value in row.items()} for row in found]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(
            f"{table} lacks the columns {', '.join(missing)} (found: "
            f"{', '.join(columns) or 'none'})."
        )
    if not rows:
        raise DataError(f"{table} has no rows.")
    return rows


def _find_paths(
    table: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]
) -> list[dict[str, Path]]:
    """Return each row's files by column; one error names every kind of mistake."""
    folder = table.parent
    empty, outside, missing = [], [], []
    found: list[dict[str, Path]] = []
    for number, row in enumerate(rows, start=2):
        found.append({})
        for column in columns:
            text = row[column]
            path = path_below(folder, text)
            if not text or "\0" in text:
                empty.append(f"row {number}, {column}")
            elif path is None:
                outside.append(text)
            elif not path.exists():
                missing.append(text)
            else:
                found[-1][column] = path
    stated = {row.get("split", "") for row in rows} - {""}
    splits = {split for split in stated if split_named(split) is None}
    problems = [
        f"{len(names)} {what} ({first_names(names)})"
        for what, names in (
            ("paths are empty", empty),
            (f"paths lie outside {folder}", outside),
            ("files are missing", missing),
            (f"splits are unknown (known: {', '.join(SPLITS)})", sorted(splits)),
        )
        if names
    ]
    if problems:
        raise DataError(f"{table}: {'; '.join(problems)}.")
    return found
