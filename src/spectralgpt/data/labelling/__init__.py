"""Making a labelled data set: scenes and a layer of labels become tiles with masks.

`make_labelled_set` lays polygons or class codes on the grid of each scene, cuts aligned
tiles, and deals blocks of them out to train, val and test, apart from each other.
"""

from spectralgpt.data.labelling.config import UNLABELLED, LabelSource, TileRules
from spectralgpt.data.labelling.making import MadeSet, make_labelled_set
from spectralgpt.data.labelling.overview import Overview

__all__ = [
    "UNLABELLED",
    "LabelSource",
    "MadeSet",
    "Overview",
    "TileRules",
    "make_labelled_set",
]
