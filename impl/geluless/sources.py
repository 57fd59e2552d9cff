"""Which code, data and packages a record is of: what others have made says nothing about these.

Code counts by its content, the networks and images of fixtures/ by their manifest, which has the sha256 of each, and the packages
that make networks by their versions. What is timed counts by its code alone: the packages take no part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parent
CLAIMS = PACKAGE.parent.parent / "claims"  # beside the package in a clone; elsewhere there is none
FIXTURES = PACKAGE.parent.parent / "fixtures" / "MANIFEST.toml"  # likewise
SUFFIXES = (".py", ".h", ".cpp", ".cmake", ".txt", ".toml")
ONLY_SHOW = ("report", "commands", "cli.py", "pytest_plugin.py")  # what draws and prints: it changes no verdict
ARTIFACTS = ("bench/networks.py", "data", "integer", "models", "ptq")
TIMING = ("bench", "engine", "integer", "verdicts/latency.py", "verdicts/harness.py")
COMPARISON = ("baselines", "bench", "data", "engine/__init__.py", "engine/engine.py", "engine/cpu", "integer", "models", "ptq")
PACKAGES = ("numpy", "timm", "torch")  # what networks are made, trained and quantized by


@cache
def verdict_sources() -> str:
    """Everything that decides a verdict: the package but for ONLY_SHOW, the claims, the fixtures, the packages' versions."""
    return with_packages(_code())


@cache
def timing_sources() -> str:
    """What is timed, and how."""
    return digest(*(PACKAGE / name for name in TIMING))


@cache
def comparison_sources() -> str:
    """What the comparison with other engines depends on, and what they are prepared from."""
    return with_packages(digest(*(PACKAGE / name for name in COMPARISON), *_in_a_clone(FIXTURES)))


@cache
def artifact_sources() -> str:
    """What makes a network and an artifact of it."""
    return with_packages(digest(*(PACKAGE / name for name in ARTIFACTS), *_in_a_clone(FIXTURES)))


def with_packages(sources: str) -> str:
    """One digest, sha256 in hex, of a digest of sources and of the versions of PACKAGES."""
    versions = "".join(f"{name} {package_version(name)}\n" for name in PACKAGES)
    return hashlib.sha256(f"{sources}\n{versions}".encode()).hexdigest()


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def digest(*places: Path) -> str:
    """sha256 in hex over the sources in files and folders, their places and their contents.

    Raises FileNotFoundError for a place that is not there: a digest that silently leaves out what was renamed vouches for code
    it has not seen.
    """
    found = hashlib.sha256()
    for path in sorted({path for place in places for path in _files(place)}):
        name = path.relative_to(PACKAGE.parent.parent).as_posix()
        found.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _in_a_clone(*places: Path) -> list[Path]:
    return [place for place in places if place.exists()]


def _files(place: Path) -> Iterator[Path]:
    if not place.exists():
        raise FileNotFoundError(f"{place} is not there: if it was renamed, name it anew in {Path(__file__).name}")
    return (path for path in ([place] if place.is_file() else place.rglob("*")) if path.suffix in SUFFIXES)


@cache
def code_sources() -> str:
    """What decides a verdict as far as it lies in the repository: the same on every machine, whatever packages it has."""
    return _code()


def _code() -> str:
    names = [path.name for path in PACKAGE.iterdir() if path.name not in ONLY_SHOW]
    return digest(*(PACKAGE / name for name in names), *_in_a_clone(CLAIMS, FIXTURES))
