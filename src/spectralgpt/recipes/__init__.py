"""The configurations that ship with the package, one YAML file each."""

import difflib
from importlib.resources import files
from pathlib import Path

from spectralgpt.errors import ConfigError

__all__ = ["describe_recipe", "find_recipe", "list_recipes"]


def _folder() -> Path:
    return Path(str(files(__name__)))


def list_recipes() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe, given its name or a path to any YAML file.

    Raises:
        ConfigError: there is neither a file nor a recipe of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipes = list_recipes()
    if str(name) in recipes:
        return _folder() / f"{name}.yaml"
    near = difflib.get_close_matches(str(name), recipes, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "See spectralgpt recipes."
    raise ConfigError(f"no file and no recipe called {str(name)!r}. {hint}")


def describe_recipe(name: str) -> str:
    """Return the first comment line of a recipe: what it reproduces."""
    for line in find_recipe(name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ")
    return ""
