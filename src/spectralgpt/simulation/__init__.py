"""A simulated satellite archive, for labelled tasks at any size with any sensor.

Wherever its images or results on them are shown, they are said to be simulated.
"""

from spectralgpt.errors import require

require("scipy")
from spectralgpt.simulation.archive import (  # noqa: E402
    TASKS,
    SimulationConfig,
    simulate_archive,
)

__all__ = ["TASKS", "SimulationConfig", "simulate_archive"]
