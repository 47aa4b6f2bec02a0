"""Dependencies point one way; ARCHITECTURE.md draws the same rows."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "spectralgpt"
# A module imports from its own row only within one package, and from rows below.
ROWS = [
    {"errors", "threads"},
    {"config", "files", "outputs", "recipes"},
    {"sensors"},
    {"rasters", "scaling"},
    {"preprocessing", "models", "losses", "metrics"},
    {"data", "published"},
    {"checkpoints"},
    {"tasks"},
    {"scenes", "exporting"},
    {"reports"},
    {"jobs"},
    {"training"},
    {"demo", "benchmarks", "viewer", "simulation"},
    {"cli"},
]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
# Imports within a row that are not of one package.
ALLOWED = {("models", "losses"), ("files", "outputs")}
MODULES = sorted(SOURCE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "spectralgpt" and parts[1] != "__version__":
                found.add(parts[1])
    return found


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(SOURCE))
)
def test_imports_point_to_rows_below(path: Path) -> None:
    own = package_of(path)
    if own in ("__init__", "__main__"):
        return
    assert own in ROW_OF, f"{own} has no row: give it one, here and in ARCHITECTURE.md"
    for other in imported_packages(path):
        below = ROW_OF[other] < ROW_OF[own]
        assert below or other == own or (own, other) in ALLOWED, f"{path} -> {other}"


def test_only_its_command_imports_the_simulation() -> None:
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES
        if package_of(path) != "simulation" and "simulation" in imported_packages(path)
    }
    assert users == {"cli/simulate.py"}


def test_only_rasters_reads_through_rasterio() -> None:
    users = {
        package_of(path)
        for path in MODULES
        if any(
            line.strip().startswith(("import rasterio", "from rasterio"))
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    }
    assert users == {"rasters"}


@pytest.mark.parametrize(
    "word", ["pickle.load", "allow_pickle=True", "weights_only=False", ".cuda("]
)
def test_source_is_free_of(word: str) -> None:
    users = [path.name for path in MODULES if word in path.read_text(encoding="utf-8")]
    assert users == []
