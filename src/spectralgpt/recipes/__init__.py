"""The configurations that ship with the package, one YAML file each."""

import difflib
import re
from importlib.resources import files
from pathlib import Path

from spectralgpt.errors import ConfigError

__all__ = ["find_recipe", "list_recipes"]


def _folder() -> Path:
    return Path(str(files(__name__)))


def list_recipes() -> dict[str, str]:
    """Return what each recipe reproduces, its first comment line, by sorted names."""
    texts = {path.stem: path.read_text("utf-8") for path in _folder().glob("*.yaml")}
    comment = re.compile("^#(.*)", re.MULTILINE)
    found = {name: comment.search(texts[name]) for name in sorted(texts)}
    return {
        name: match[1].lstrip("# ") if match else "" for name, match in found.items()
    }


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe, given its name or a path to any YAML file.

    Raises:
        ConfigError: there is neither a file nor a recipe of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipes = {each.stem: each for each in _folder().glob("*.yaml")}
    if str(name) in recipes:
        return recipes[str(name)]
    near = difflib.get_close_matches(str(name), recipes, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "See spectralgpt recipes."
    raise ConfigError(f"no file and no recipe called {str(name)!r}. {hint}")
