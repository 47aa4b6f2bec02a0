"""What all processes that work on a job agree on, and the file that says so."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from spectralgpt import __version__
from spectralgpt.atomic_files import replace_file
from spectralgpt.data.formats import ImageFormat
from spectralgpt.errors import ConfigError
from spectralgpt.jobs.kinds import Job, ReadyJob
from spectralgpt.json_files import read_json
from spectralgpt.scenes.fingerprints import digest_facts

__all__ = ["Plan", "check_plan", "load_job", "versions", "write_plan"]

_FILE = "job.json"
_OTHERS = ("torch", "rasterio")


@dataclass(frozen=True)
class Plan:
    """A job and where its outputs go.

    Args:
        job: what is done with every scene.
        output: its folder, an absolute path.
        weights: digest of the model.
        run: id of this run, unlike those of all others.
        version: of this package, which all processes must have.
    """

    job: Job
    output: Path
    weights: str
    run: str = field(default_factory=lambda: uuid4().hex)
    version: str = __version__

    @cached_property
    def configuration(self) -> str:
        """Digest of model and options: outputs of the same are not made again."""
        return digest_facts(self.facts)

    @property
    def facts(self) -> dict[str, str]:
        """Model and options, by the words that a user knows them by."""
        plain = {name: _plain(value) for name, value in self.job.settings.items()}
        return {"model": self.weights, **plain}

    def target(self, name: str) -> Path:
        """Return the raster that is made of a scene."""
        return self.output / "scenes" / f"{name}.tif"


def _plain(value: Any) -> str:
    """Say a setting in words; of what is stated about images what is not as usual."""
    if not isinstance(value, ImageFormat):
        return str(value)
    usual = ImageFormat()
    rows = [(each.name, getattr(value, each.name)) for each in fields(value)]
    return ", ".join(f"{k}={v}" for k, v in rows if v != getattr(usual, k))


@lru_cache(maxsize=1)
def load_job(job: Job) -> ReadyJob:
    """Load the model of a job, once a process."""
    return job.load()


def check_plan(plan: Plan) -> None:
    """Refuse a folder that another job was done in.

    Raises:
        ConfigError: it was; says what differs.
    """
    path = plan.output / _FILE
    if not path.is_file():
        return
    try:
        found = read_json(path)["facts"]
        is_known = isinstance(found, Mapping)
    except (OSError, ValueError, KeyError, TypeError):
        is_known = False
    if not is_known:
        raise ConfigError(
            f"{path} cannot be read: choose another --output, or pass --overwrite."
        )
    stated = plan.facts
    differing = [
        key for key in {**stated, **found} if stated.get(key) != found.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{plan.output} holds scenes done with another {' and '.join(differing)}: "
            "pass --overwrite to do the scenes again, or choose another --output."
        )


def write_plan(plan: Plan) -> None:
    """Write the file that says what is done with every scene.

    Raises:
        OSError: it cannot be written.
    """
    said = {
        "model": plan.job.model,
        "configuration": plan.configuration,
        "facts": plan.facts,
        "versions": versions(),
    }
    text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
    path = plan.output / _FILE
    replace_file(path, lambda made: made.write_text(text, encoding="utf-8"))


def versions() -> dict[str, str]:
    """Return the versions of the programs that matter for the outputs."""
    others = {name: version(name) for name in _OTHERS}
    return {"spectralgpt": __version__, "python": platform.python_version(), **others}
