"""Print the size of what an installation without extras brings beside PyTorch."""

import argparse
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement

_BYTES_PER_MB = 1_000_000


def needed_by(name: str, found: dict[str, Distribution]) -> None:
    """Add a package and all that it needs without extras, but for PyTorch's own."""
    if name in found or name == "torch":
        return
    found[name] = distribution(name)
    for line in found[name].requires or ():
        wanted = Requirement(line)
        extras = wanted.extras or {""}
        if not wanted.marker or wanted.marker.evaluate({"extra": ""}):
            needed_by(wanted.name.lower().replace("_", "-"), found)
            # Such as those of jsonargparse[signatures].
            for inner in map(Requirement, distribution(wanted.name).requires or ()):
                if inner.marker and any(
                    inner.marker.evaluate({"extra": extra}) for extra in extras - {""}
                ):
                    needed_by(inner.name.lower().replace("_", "-"), found)


def size_mb(package: Distribution) -> float:
    """Return what its files take on disk, their compiled copies included."""
    files = (package.locate_file(file) for file in package.files or ())
    sizes = (path.stat().st_size for path in files if path.is_file())  # type: ignore[attr-defined]
    return sum(sizes) / _BYTES_PER_MB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most-mb", type=float, default=400)
    most = parser.parse_args().most_mb
    found: dict[str, Distribution] = {}
    needed_by("spectralgpt", found)
    sizes = {name: size_mb(found[name]) for name in found if name != "spectralgpt"}
    for name, size in sorted(sizes.items(), key=lambda each: -each[1])[:10]:
        print(f"{size:8.1f} MB  {name}")
    total = sum(sizes.values())
    print(f"{total:8.1f} MB  in {len(sizes)} packages beside PyTorch (<= {most:g})")
    return int(total > most)


if __name__ == "__main__":
    raise SystemExit(main())
