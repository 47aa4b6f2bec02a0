"""Options that several commands share."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    Namespace,
)

from spectralgpt.recipes import find_recipe
from spectralgpt.yaml_files import check_keys, read_mapping

__all__ = ["ConfigFile"]


class ConfigFile(ActionConfigFile):
    """`--config`: a YAML file or the name of a recipe, read strictly."""

    def __call__(  # type: ignore[override]
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str,
        option_string: str | None = None,
    ) -> None:
        """Read the file into the namespace.

        Raises:
            ConfigError: no such file or recipe, or a key that no option has; names the
                nearest known key.
        """
        path = find_recipe(values)
        known = parser.get_defaults(skip_validation=True).as_dict()
        _check_tree(read_mapping(path), known, str(path))
        self.apply_config(parser, namespace, self.dest, str(path))


def _check_tree(
    values: Mapping[str, Any], known: Mapping[str, Any], where: str
) -> None:
    check_keys(values, where, optional=tuple(known))
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(known[name], Mapping):
            _check_tree(value, known[name], f"{where}, {name}")
