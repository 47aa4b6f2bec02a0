"""What the codes in masks mean, and which class the scores are about."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spectralgpt.data.dense.chips import CHANGE, MaskFile
from spectralgpt.data.dense.masks import seen_codes
from spectralgpt.errors import ConfigError, DataError

__all__ = ["ALL_ALIKE", "ClassTable", "find_classes", "find_positive", "name_classes"]

ALL_ALIKE = "all"
"""In place of a positive class: scores are about all classes alike."""

_BACKGROUND = frozenset(
    {
        "background",
        "bg",
        "other",
        "others",
        "rest",
        "else",
        "nothing",
        "none",
        "negative",
        "normal",
        "stable",
        "same",
        "intact",
        "unaffected",
        "undamaged",
        "unburned",
        "unburnt",
        "unchanged",
        "nochange",
    }
)
_NEGATIONS = ("no", "not", "non", "un", "without")
_TAG = re.compile(r"CLASS_(-?\d+)")


@dataclass(frozen=True)
class ClassTable:
    """Classes and their codes.

    Args:
        names: in the order of the class indices.
        codes: class index of each code.
    """

    names: tuple[str, ...]
    codes: Mapping[int, int]

    def renumbered(self, names: Sequence[str], source: str) -> "ClassTable":
        """Return the table in the order of other names, matched by name.

        Raises:
            DataError: a class is not among them.
        """
        unknown = [name for name in self.names if name not in names]
        if unknown:
            raise DataError(
                f"{source} has classes {', '.join(unknown)} that are not among "
                f"{', '.join(names)}. Name its codes by these classes in data.classes, "
                "or put codes without a class into data.ignored."
            )
        index = {name: i for i, name in enumerate(names)}
        codes = {code: index[self.names[i]] for code, i in self.codes.items()}
        return ClassTable(tuple(names), codes)


def name_classes(
    classes: Mapping[str, int | Sequence[int]], ignored: Sequence[int] = ()
) -> ClassTable:
    """Make a table from the code, or codes, of each class by its name.

    Raises:
        ConfigError: a code stands for two classes, or for one and none.
    """
    codes: dict[int, int] = {}
    for index, (name, stated) in enumerate(classes.items()):
        for code in [stated] if isinstance(stated, int) else stated:
            if code in codes or code in ignored:
                other = list(classes)[codes[code]] if code in codes else "ignored"
                raise ConfigError(f"data.classes: code {code} is {name} and {other}.")
            codes[int(code)] = index
    if not codes:
        raise ConfigError("data.classes names no class: state each one's code.")
    return ClassTable(tuple(classes), codes)


def find_classes(
    masks: Sequence[MaskFile], tags: Mapping[str, str], ignored: Sequence[int]
) -> ClassTable:
    """Find the classes that masks themselves tell.

    Args:
        masks: the files.
        tags: those of the first one, such as CLASS_0=water.
        ignored: codes that are no label.

    Raises:
        DataError: there is no label at all.
    """
    matches = {match: name for tag, name in tags.items() if (match := _TAG.match(tag))}
    named = {int(match[1]): name for match, name in matches.items()}
    if named:
        stated = {named[code]: code for code in sorted(named) if code not in ignored}
        return name_classes(stated)
    codes = seen_codes(masks, ignored)
    if not codes:
        raise DataError(
            f"the {len(masks)} masks hold no label: all pixels are nodata or ignored. "
            "Check data.ignored."
        )
    return name_classes({f"class {code}": code for code in codes})


def find_positive(
    names: Sequence[str], task: str, stated: str | None = None
) -> str | None:
    """Find the class that F1, IoU and the choice of weights are about.

    It is told by names, never by their order: of two classes, the one that is not
    called background, unchanged, no change, other or the like.

    Args:
        names: of all classes.
        task: "segmentation" or "change".
        stated: its name, `ALL_ALIKE`, or None if nobody says.

    Returns:
        The name; None where all classes count alike: if that is stated, and by default
        for more than two classes, unless one alone of a change map is no background.

    Raises:
        ConfigError: the stated class is unknown, or names do not tell it.
    """
    if stated in names:
        return stated
    if stated is not None:
        if stated == ALL_ALIKE:
            return None
        raise ConfigError(
            f"data.positive is {stated!r}; the classes are {', '.join(names)}."
        )
    found = [name for name in names if not _is_background(name, names)]
    if len(names) > 2:
        return found[0] if task == CHANGE and len(found) == 1 else None
    if len(names) == 2 and len(found) != 1:
        raise ConfigError(
            f"which of the classes {names[0]!r} and {names[1]!r} F1 and IoU are about "
            f"cannot be told from their names. Set data.positive to it, or to "
            f"{ALL_ALIKE} if both count alike (with --masks: `positive: ...` in the "
            "file)."
        )
    return found[0] if len(names) == 2 else None


def _is_background(name: str, names: Sequence[str]) -> bool:
    """Tell by its name whether a class is what is left beside the others."""
    words = re.split(r"[\W_]+", name.casefold().strip())
    plain = "".join(words)
    negated = {
        negation + "".join(re.split(r"[\W_]+", other.casefold()))
        for negation in _NEGATIONS
        for other in names
        if other != name
    }
    has_negation = len(words) > 1 and words[0] in _NEGATIONS
    return plain in _BACKGROUND or has_negation or plain in negated
