"""What the codes in masks mean: as stated, as the masks say, or as they occur."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spectralgpt.data.dense.chips import MaskFile
from spectralgpt.data.dense.masks import seen_codes
from spectralgpt.errors import ConfigError, DataError

__all__ = ["ClassTable", "find_classes", "name_classes"]

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
