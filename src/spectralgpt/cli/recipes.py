"""`spectralgpt recipes`: list the shipped configurations, or print one."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from spectralgpt.recipes import find_recipe, list_recipes

HELP = "List the configurations that ship with the package, or print one of them."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "name", type=str, nargs="?", help="recipe to print; without it, list them all"
    )


def run(args: Namespace) -> Path:
    """List recipes or print one; returns the folder or file they are in."""
    if args.name:
        path = find_recipe(args.name)
        print(path.read_text(encoding="utf-8"))
        return path
    table = Table("recipe", "what it is")
    recipes = list_recipes()
    for name, text in recipes.items():
        table.add_row(name, text)
    Console().print(table)
    return find_recipe(next(iter(recipes))).parent
