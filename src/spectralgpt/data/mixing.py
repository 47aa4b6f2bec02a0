"""Several data sets in one run: other sensors, band counts and image sizes.

Each keeps its own contract. Their samples share one row of indices, so that a sampler
need not know what it draws from; which indices make a batch is the sampler's business.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch.utils.data import Dataset

from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.data.series import SeriesDataset
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.rasters import RasterItem

__all__ = ["MixedDataset", "NamedDataset", "join_contracts"]


@dataclass(frozen=True)
class NamedDataset:
    """A data set that takes part in a mixture.

    Args:
        name: what it is called in metrics and reports.
        dataset: draws its samples.
        weight: how often it is drawn, relative to the other data sets.
        number: which of the run's data sets it is; its samples carry it.
    """

    name: str
    dataset: PretrainingDataset | SeriesDataset
    weight: float = 1.0
    number: int = 0


class MixedDataset(Dataset[dict[str, Any]]):
    """Data sets one after the other; `dataset` in a sample says which it is from.

    Args:
        parts: the data sets; the first is the primary one.

    Raises:
        ConfigError: there is none.
    """

    def __init__(self, parts: Sequence[NamedDataset]) -> None:
        if not parts:
            raise ConfigError("a mixture needs at least one data set.")
        self.parts = tuple(parts)
        self._ends = list(accumulate(self.sizes))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the data sets, in order."""
        return tuple(part.name for part in self.parts)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of indices of each data set."""
        return tuple(len(part.dataset) for part in self.parts)

    @property
    def weights(self) -> tuple[float, ...]:
        """How often each is drawn, relative to each other."""
        return tuple(part.weight for part in self.parts)

    def __len__(self) -> int:
        """Count the indices of all data sets."""
        return self._ends[-1]

    def place_of(self, index: int) -> tuple[int, int]:
        """Return which data set an index belongs to, and which of its indices it is."""
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number] - self.sizes[number]
        return number, index - first

    def item_of(self, index: int) -> RasterItem:
        """The image an index belongs to."""
        number, inner = self.place_of(index)
        return self.parts[number].dataset.item_of(inner)

    def contract_of(self, index: int, batch_seed: int = 0) -> Preprocessing:
        """The contract of an index's sample in a batch."""
        number, _ = self.place_of(index)
        return self.parts[number].dataset.contract_of(batch_seed)

    def draw(
        self, index: int, generator: torch.Generator, batch_seed: int = 0
    ) -> dict[str, Any]:
        """Give one sample; see `PretrainingDataset.draw`.

        Returns:
            The sample, with `dataset`, the number of the data set that it is from.
        """
        place, inner = self.place_of(index)
        part = self.parts[place]
        return {
            **part.dataset.draw(inner, generator, batch_seed),
            "dataset": part.number,
        }


def join_contracts(contracts: Sequence[Preprocessing]) -> Preprocessing:
    """Return one contract for several sensors: the first, with the rest as its others.

    Of data sets of one sensor the first one's image size is kept.

    Raises:
        ConfigError: data sets of one sensor differ in bands or scaling, so that it is
            not clear what an image of it is to become.
    """
    by_sensor: dict[str, Preprocessing] = {}
    for contract in contracts:
        known = by_sensor.setdefault(contract.sensor, contract)
        for name in ("band_names", "scaling", "statistics"):
            one, two = getattr(known, name), getattr(contract, name)
            if one != two:
                raise ConfigError(
                    f"two data sets of sensor {contract.sensor} differ in {name}: "
                    f"{one} and {two}. Give them the same."
                )
    first, *rest = by_sensor.values()
    return replace(first, others=tuple(rest))
