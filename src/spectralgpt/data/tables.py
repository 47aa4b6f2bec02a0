"""Tables that list images: CSV and Parquet files, read strictly and as text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectralgpt.errors import ConfigError, DataError
from spectralgpt.text_files import read_table
from spectralgpt.yaml_files import check_keys, suggest, take_text

__all__ = ["Index", "check_table", "read_column", "read_parquet", "read_rows"]

_COLUMN = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Index:
    """A CSV or Parquet file that lists images.

    Args:
        file: path under the data set's root.
        column: column that holds paths under the root.
        paths: instead of such a column: how a path is made of the row's values, such as
            `{category}/{image_id}.tif`; of several ways the first counts whose first
            folder exists.
        allow_absolute: whether the index may also name files anywhere on the machine.
    """

    file: str
    column: str = "path"
    paths: tuple[str, ...] = ()
    allow_absolute: bool = False

    @classmethod
    def from_table(cls, table: Any, where: str) -> "Index":
        """Read it from a description: the file's name alone, or keys with values."""
        if isinstance(table, str):
            return cls(take_text({"file": table}, "file", where))
        optional = ("column", "paths", "allow_absolute")
        check_table(table, where, required=("file",), optional=optional)
        allow_absolute = table.get("allow_absolute", False)
        if not isinstance(allow_absolute, bool):
            raise ConfigError(f"{where}: 'allow_absolute' must be true or false.")
        paths = table.get("paths", [])
        if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
            raise ConfigError(f"{where}: 'paths' must be a list of texts.")
        texts = {
            k: take_text(table, k, where) for k in ("file", "column") if k in table
        }
        return cls(**texts, paths=tuple(paths), allow_absolute=allow_absolute)

    def read(self, root: Path) -> list[str]:
        """Return what the index lists, as it stands there.

        Raises:
            DataError: the file, or a column that is needed, is missing.
        """
        if not self.paths:
            return read_column(root / self.file, self.column)
        fitting = [p for p in self.paths if (root / p.split("/")[0]).is_dir()]
        template = (fitting or self.paths)[0]
        columns = _COLUMN.findall(template)
        return [_fill(template, row) for row in read_rows(root / self.file, columns)]


def _fill(template: str, row: Mapping[str, str | None]) -> str:
    return _COLUMN.sub(lambda match: row[match.group(1)] or "", template)


def read_column(path: Path, column: str) -> list[str]:
    """Read a column of a CSV or Parquet file as text, without empty rows.

    Raises:
        DataError: the file or the column is missing, or the file cannot be read.
    """
    values = [row[column] for row in read_rows(path, [column])]
    return [value for value in values if value]


def read_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[dict[str, str | None]]:
    """Read columns of a CSV or Parquet file as text; an empty cell is "".

    Args:
        path: the file.
        columns: which.
        optional: further ones; None in all rows where the file has no such column.

    Raises:
        DataError: the file or a column is missing, or the file cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Check the path or the description.")
    names: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    is_parquet = path.suffix == ".parquet"
    names, rows = read_parquet(path) if is_parquet else read_table(path)
    for column in columns:
        if column not in names:
            raise DataError(
                f"{path} has no column '{column}'{suggest(column, names)} "
                f"(found: {', '.join(names)})."
            )
    there = [name for name in (*columns, *optional) if name in names]
    absent: dict[str, str | None] = dict.fromkeys(set(optional) - set(there))
    return [
        absent
        | {name: "" if row.get(name) is None else str(row[name]) for name in there}
        for row in rows
    ]


def read_parquet(
    path: Path, columns: Sequence[str] | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Read a Parquet file; returns the columns' names, and a table for each row.

    Args:
        path: the file.
        columns: those that are read; None reads all.

    Raises:
        DataError: it is missing, damaged, or lacks a column.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=columns and list(columns))
        missing = [name for name in columns or () if name not in table.column_names]
        if missing:
            raise DataError(f"no column {', '.join(missing)}.")
        return list(table.column_names), table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet: {reason}") from error


def check_table(
    table: Any, where: str, required: Sequence[str], optional: Sequence[str]
) -> None:
    """Refuse what is no table, and unknown and missing keys.

    Raises:
        ConfigError: names the place and the key.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected keys with values, found {table!r}.")
    check_keys(table, where, required=required, optional=optional)
