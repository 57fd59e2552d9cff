"""Which code a record is of: what other code has made says nothing about this one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
CLAIMS = PACKAGE.parent.parent / "claims"  # beside the package in a clone; elsewhere there is none
SUFFIXES = (".py", ".h", ".cpp", ".cmake", ".txt", ".toml")
ONLY_SHOW = ("report", "commands", "cli.py", "pytest_plugin.py")  # what draws and prints: it changes no verdict
ARTIFACTS = ("integer", "models", "ptq")
TIMING = ("bench", "engine", "integer", "verdicts/latency.py", "verdicts/harness.py")
COMPARISON = ("baselines", "bench", "engine/__init__.py", "engine/engine.py", "engine/cpu", "integer", "ptq")


@cache
def verdict_sources() -> str:
    """Everything that decides a verdict: the package but for ONLY_SHOW, and the claims."""
    names = [path.name for path in PACKAGE.iterdir() if path.name not in ONLY_SHOW]
    return digest(*(PACKAGE / name for name in names), *([CLAIMS] if CLAIMS.is_dir() else []))


@cache
def timing_sources() -> str:
    """What is timed, and how."""
    return digest(*(PACKAGE / name for name in TIMING))


@cache
def comparison_sources() -> str:
    """What the comparison with other engines depends on, and what they are prepared from."""
    return digest(*(PACKAGE / name for name in COMPARISON))


@cache
def artifact_sources() -> str:
    """What makes an artifact of a network."""
    return digest(*(PACKAGE / name for name in ARTIFACTS))


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


def _files(place: Path) -> Iterator[Path]:
    if not place.exists():
        raise FileNotFoundError(f"{place} is not there: if it was renamed, name it anew in {Path(__file__).name}")
    return (path for path in ([place] if place.is_file() else place.rglob("*")) if path.suffix in SUFFIXES)


@cache
def code_sources() -> str:
    """What decides a verdict as far as it lies in the repository: the same on every machine, whatever packages it has."""
    names = [path.name for path in PACKAGE.iterdir() if path.name not in ONLY_SHOW]
    beside = (CLAIMS, PACKAGE.parent.parent / "fixtures" / "MANIFEST.toml")
    return digest(*(PACKAGE / name for name in names), *(place for place in beside if place.exists()))
