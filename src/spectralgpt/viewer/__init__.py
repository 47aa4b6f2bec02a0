"""A local web page to look at scenes, maps, reconstructions and likeness.

`open_sources` tells what paths are, `Viewer` holds what the page shows, `serve` answers
a browser on this machine. The page itself lies in `static`, with Leaflet, the map
library. Needs `spectralgpt[view]`.
"""

from spectralgpt.viewer.contents import Viewer
from spectralgpt.viewer.model import ViewModel
from spectralgpt.viewer.named_paths import Sources, open_sources, take_models
from spectralgpt.viewer.server import check_installed, serving

__all__ = [
    "Sources",
    "ViewModel",
    "Viewer",
    "check_installed",
    "open_sources",
    "serving",
    "take_models",
]
