"""Making a labelled data set: scenes and a layer of labels become tiles with masks.

`make_labelled_set` lays polygons or class codes on the grid of each scene, cuts aligned
tiles, and deals blocks of them out to train, val and test, apart from each other.
"""

from spectralgpt.data.labelling.blocks import Cell, TileRules
from spectralgpt.data.labelling.labels import (
    UNLABELLED,
    LabelSource,
    check_places,
    read_vectors,
    reading_layer,
)
from spectralgpt.data.labelling.making import MadeSet, make_labelled_set

__all__ = [
    "UNLABELLED",
    "Cell",
    "LabelSource",
    "MadeSet",
    "TileRules",
    "check_places",
    "make_labelled_set",
    "read_vectors",
    "reading_layer",
]
