"""Dependencies point one way; ARCHITECTURE.md draws the same rows."""

import ast
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "spectralgpt"
# A module imports from its own row only within one package, and from rows below.
ROWS = [
    {"errors", "threads"},
    {"config", "files", "recipes"},
    {"sensors", "weights"},
    {"rasters", "spectra"},
    {"preprocessing", "models", "losses", "metrics", "estimating"},
    {"resampling", "objectives"},
    {"building"},
    {"data", "published"},
    {"checkpoints"},
    {"tasks"},
    {"scenes", "exporting", "hub"},
    {"reports"},
    {"jobs"},
    {"training"},
    {"demo", "benchmarks", "viewer", "simulation", "integrations"},
    {"cli"},
]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
# Imports within a row that are not of one package.
ALLOWED = {("models", "losses")}
MODULES = sorted(SOURCE.rglob("*.py"))
# Packages that are imported through their face, never past it.
FACES = {
    "data.labelling",
    *("simulation", "viewer"),
}
# How large the house may be. Raise none without a reason.
LIMITS = {
    "files": 220,
    "lines": 64_455,
    "public functions and classes": 918,
    "dataclasses": 150,
    "file names that occur twice": 11,
    "files with a single importer": 22,
    "longest chain of imports": 20,
}


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


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def imports() -> dict[str, set[str]]:
    """The modules of ours that each module names, at its top or in a function."""
    known = {name_of(path) for path in MODULES}
    found: dict[str, set[str]] = {}
    for path in MODULES:
        named = found.setdefault(name_of(path), set())
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.module in known:
                whole = (f"{node.module}.{alias.name}" for alias in node.names)
                named |= {name if name in known else node.module for name in whole}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names} & known
        # The package itself says its version, and loads its public names lazily.
        named -= {name_of(path), "spectralgpt"}
    return found


def test_an_underscore_is_private() -> None:
    users = {
        f"{name_of(path)}: {node.module}.{alias.name}"
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
        if alias.name[0] == "_" and alias.name != "__version__"
    }
    assert users == set()


def longest_chain() -> list[str]:
    """The most files of which each imports the next one; a circle is an error."""
    chains: dict[str, list[str]] = {}

    def chain_from(name: str, above: tuple[str, ...]) -> list[str]:
        assert name not in above, (
            f"imports go in a circle: {' > '.join(above)} > {name}"
        )
        if name not in chains:
            below = (chain_from(n, (*above, name)) for n in sorted(imports()[name]))
            chains[name] = [name, *max(below, key=len, default=[])]
        return chains[name]

    return max((chain_from(name, ()) for name in imports()), key=len)


def figures() -> dict[str, int]:
    importers = Counter(name for named in imports().values() for name in named)
    names = Counter(path.name for path in MODULES if path.name != "__init__.py")
    classes = [
        node
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
    ]
    return {
        "files": len(MODULES),
        "lines": sum(len(path.read_text().splitlines()) for path in MODULES),
        "public functions and classes": sum(
            isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            for path in MODULES
            for node in parsed(path).body
        ),
        "dataclasses": sum(
            any("dataclass" in ast.unparse(each) for each in node.decorator_list)
            for node in classes
        ),
        "file names that occur twice": sum(count > 1 for count in names.values()),
        "files with a single importer": sum(
            importers[name_of(path)] == 1 for path in MODULES if path.name[0] != "_"
        ),
        "longest chain of imports": len(longest_chain()),
    }


def test_the_house_stays_small(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures()
    lines = [
        f"{count:8,d}  {name} (<= {LIMITS[name]:,d})" for name, count in found.items()
    ]
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *lines, ""]))
    too_many = {name for name, count in found.items() if count > LIMITS[name]}
    assert not too_many, f"longest chain: {' > '.join(longest_chain())}"


@pytest.mark.parametrize("face", sorted(FACES))
def test_nobody_imports_past_a_face(face: str) -> None:
    inside = f"spectralgpt.{face}."
    users = {
        name
        for name, named in imports().items()
        if not f"{name}.".startswith(inside)
        and any(other.startswith(inside) for other in named)
    }
    assert users == set()
