"""What a check of an archive found, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectralgpt.data.archives.inventory import Fault, FaultKind
from spectralgpt.rasters import Raster
from spectralgpt.scaling import BandStatistics

__all__ = ["ArchiveCheck", "Example", "fault_lines"]

_SHOWN = 3
"""Names printed for each kind of fault."""


@dataclass(frozen=True)
class Example:
    """An image for the contact sheet."""

    raster: Raster
    title: str


@dataclass(frozen=True)
class ArchiveCheck:
    """What was found.

    Args:
        name: of the archive or description.
        root: its folder.
        num_listed: images that are listed and there.
        num_checked: images that were opened.
        class_counts: images by split and class; a split "" is none.
        pixel_counts: pixels of masks by split and class, or code where it has no name.
        split_counts: images by split.
        sizes: images by "height x width" of their finest band.
        bands: images by the names of their bands.
        overlaps: images of a split that lie on places of another, by "train / test".
        num_overlapping: labelled images in no split that show ground of another place.
        statistics: reflectance by band over a sample; None if no image is sound.
        faults: all of them, sorted by kind.
        notes: what is worth knowing and no fault.
        examples: images for the contact sheet.
    """

    name: str
    root: Path
    num_listed: int
    num_checked: int
    class_counts: Mapping[str, Mapping[str, int]]
    pixel_counts: Mapping[str, Mapping[str, int]]
    split_counts: Mapping[str, int]
    sizes: Mapping[str, int]
    bands: Mapping[str, int]
    overlaps: Mapping[str, int]
    num_overlapping: int
    statistics: BandStatistics | None
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = field(default=(), compare=False)

    def as_table(self) -> dict[str, Any]:
        """Return all but the examples as plain values, for JSON."""
        statistics = self.statistics
        return {
            "name": self.name,
            "root": str(self.root),
            "images_listed": self.num_listed,
            "images_checked": self.num_checked,
            "images_by_split": dict(self.split_counts),
            "images_by_split_and_class": {
                split: dict(counts) for split, counts in self.class_counts.items()
            },
            "mask_pixels_by_split_and_class": {
                split: dict(counts) for split, counts in self.pixel_counts.items()
            },
            "images_by_size": dict(self.sizes),
            "images_by_bands": dict(self.bands),
            "images_on_places_of_another_split": dict(self.overlaps),
            "images_on_ground_of_another_without_split": self.num_overlapping,
            "reflectance": None
            if statistics is None
            else {
                "mean": dict(statistics.mean),
                "std": dict(statistics.std),
                "percentile_1": dict(statistics.low),
                "percentile_99": dict(statistics.high),
            },
            "faults": {
                kind: [
                    {"name": f.name, "detail": f.detail}
                    for f in self.faults
                    if f.kind == kind
                ]
                for kind in dict.fromkeys(fault.kind.value for fault in self.faults)
            },
            "notes": list(self.notes),
        }


def fault_lines(faults: Sequence[Fault]) -> list[str]:
    """Return one line for each kind of fault: how many, and the first names."""
    kinds: dict[FaultKind, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    lines = []
    for kind, found in kinds.items():
        shown = [
            f"{fault.name} ({fault.detail})" if fault.detail else fault.name
            for fault in found[:_SHOWN]
        ]
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        lines.append(f"{kind}: {len(found)}: {', '.join(shown)}{more}")
    return lines
