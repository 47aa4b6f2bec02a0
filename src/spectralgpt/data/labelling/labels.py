"""Where labels lie, and how their values become numbered classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectralgpt.config import read_mapping
from spectralgpt.errors import ConfigError, DataError

UNLABELLED = 255
"""Value of masks where there is no label."""
_SHOWN = 8


@dataclass(frozen=True)
class LabelSource:
    """Where labels lie, and what their values mean.

    Args:
        labels: layer of polygons (GeoPackage, GeoJSON, Shapefile), or raster of codes.
        class_column: column of the polygons that holds class names or codes.
        classes: YAML or JSON file with the value, or list of values, of each class by
            its name; null makes each value that occurs a class.
        ignored: values that are no label, such as [cloud].
        background: class of pixels that no label covers; null leaves them unlabelled.
        layer: name of the layer in a file of several, or number of the raster's layer.
        all_touched: label every pixel that a polygon touches, not only those whose
            centre lies in it.
    """

    labels: Path
    class_column: str | None = None
    classes: Path | None = None
    ignored: tuple[str | int | float, ...] = ()
    background: str | None = None
    layer: str | int | None = None
    all_touched: bool = False


@dataclass(frozen=True)
class LabelClasses:
    """Classes, numbered from 0 in their order.

    Args:
        names: of the classes.
        code_of: number of the class of each value, as text; `UNLABELLED` for those
            that are no label.
        fill: number of pixels that no label covers.
        unseen: classes that were stated and do not occur.
    """

    names: tuple[str, ...]
    code_of: Mapping[str, int]
    fill: int = UNLABELLED
    unseen: tuple[str, ...] = ()


def value_text(value: Any) -> str:
    """Return a value of a label as text: whole numbers alike, "" for none."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def number_classes(
    found: Mapping[str, int], labels: LabelSource, names: Mapping[str, str]
) -> LabelClasses:
    """Number the classes of the values that occur.

    Args:
        found: how often each value occurs, as text; "" is no label.
        labels: what is stated about them.
        names: what values are called, if the layer itself says.

    Raises:
        ConfigError: a value is in two classes, or there are too many classes.
        DataError: a value is in no class, or there is none.
    """
    ignored = {value_text(value) for value in labels.ignored} | {""}
    if labels.classes is None:
        values = sorted(set(found) - ignored, key=_in_order)
        stated: dict[str, list[str]] = {}
        for value in values:
            stated.setdefault(_name(value, names), []).append(value)
    else:
        stated = _read_classes(labels.classes)
    code_of = dict.fromkeys(ignored, UNLABELLED)
    for code, (name, values) in enumerate(stated.items()):
        for value in values:
            if value in code_of:
                other = "ignored" if value in ignored else list(stated)[code_of[value]]
                raise ConfigError(f"value '{value}' is {name} and {other}. Choose one.")
            code_of[value] = code
    _refuse_unknown(found, code_of, labels)
    unseen = [name for name, values in stated.items() if not set(values) & set(found)]
    classes = list(stated)
    fill = UNLABELLED
    if labels.background is not None:
        classes = list(dict.fromkeys([*classes, labels.background]))
        fill = classes.index(labels.background)
    if not 0 < len(classes) <= UNLABELLED:
        raise DataError(
            f"{labels.labels} gives {len(classes)} classes: masks hold 1 to "
            f"{UNLABELLED}. Put values together in a file of classes."
        )
    return LabelClasses(tuple(classes), code_of, fill, tuple(unseen))


def _refuse_unknown(
    found: Mapping[str, int], code_of: Mapping[str, int], labels: LabelSource
) -> None:
    unknown = sorted(set(found) - set(code_of), key=_in_order)
    if unknown:
        shown = ", ".join(f"{value} ({found[value]})" for value in unknown[:_SHOWN])
        more = f", and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise DataError(
            f"{labels.labels}: {len(unknown)} values are in no class of "
            f"{labels.classes}: {shown}{more}. Add them to a class, or to ignored."
        )


def _read_classes(path: Path) -> dict[str, list[str]]:
    stated = {}
    for name, values in read_mapping(path).items():
        listed = values if isinstance(values, Sequence) else [values]
        listed = [values] if isinstance(values, str) else listed
        if not listed or not all(isinstance(v, str | int | float) for v in listed):
            raise ConfigError(
                f"{path}: class '{name}' needs a value or a list of values, found "
                f"{values!r}."
            )
        stated[name] = [value_text(value) for value in listed]
    return stated


def _name(value: str, names: Mapping[str, str]) -> str:
    return names.get(value) or (f"class {value}" if _is_number(value) else value)


def _is_number(value: str) -> bool:
    return value.lstrip("-").isdecimal()


def _in_order(value: str) -> tuple[int, int, str]:
    """Numbers by size, then texts by the alphabet."""
    return (0, int(value), "") if _is_number(value) else (1, 0, value)
