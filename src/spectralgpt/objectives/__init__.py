"""Ways of learning from images without labels, by name.

Each has a file of its own here, named as it is, whose `OBJECTIVE` is its class; nothing
else lists them. `spectralgpt` is our own masked autoencoder.
"""

import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from spectralgpt.config import fit_arguments
from spectralgpt.errors import ConfigError
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.sizes import check_settings

__all__ = [
    "OURS",
    "Objective",
    "ObjectiveOutput",
    "build",
    "names",
    "objective_class",
    "settings_of",
]

OURS = "spectralgpt"


def names() -> tuple[str, ...]:
    """Return the names of all objectives, ours first."""
    found = sorted(module.name.replace("_", "-") for module in iter_modules(__path__))
    return (OURS, *found)


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in names():
        raise ConfigError(f"objective {name!r} is unknown: use {', '.join(names())}.")
    if name == OURS:
        from spectralgpt.models.mae import MaskedAutoencoder

        return MaskedAutoencoder
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    found: type[Objective] = module.OBJECTIVE
    return found


def settings_of(name: str) -> tuple[str, ...]:
    """Return the names of an objective's settings.

    Raises:
        ConfigError: there is no such objective.
    """
    return tuple(inspect.signature(objective_class(name)).parameters)


def build(name: str, **settings: Any) -> Objective:
    """Build an objective with random weights.

    Args:
        name: one of `names`.
        **settings: arguments of its class.

    Raises:
        ConfigError: it is unknown, has no such argument, or one is out of range.
    """
    chosen = objective_class(name)
    fitted = fit_arguments(chosen, settings, f"objective {name}")
    check_settings(fitted)
    return chosen(**fitted)
