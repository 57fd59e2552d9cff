"""Which code a record is of: a verdict made by other code says nothing about this one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
CLAIMS = PACKAGE.parent.parent / "claims"  # beside the package in a clone; elsewhere there is none
SUFFIXES = (".py", ".h", ".cpp", ".toml")
ONLY_SHOW = ("report", "commands", "cli.py")  # what draws and prints: it changes no verdict
BENCH = ("intervals", "load", "networks", "paired", "study", "study_worker", "verification")
TIMING = (*(f"bench/{name}.py" for name in BENCH), "engine", "verdicts/latency.py", "verdicts/harness.py")


@cache
def verdict_sources() -> str:
    """sha256 in hex over everything that decides a verdict: the package but for ONLY_SHOW, and the claims."""
    shown = {path for name in ONLY_SHOW for path in _files(PACKAGE / name)}
    return _digest([path for path in (*_files(PACKAGE), *_files(CLAIMS)) if path not in shown])


@cache
def timing_sources() -> str:
    """The same over what is timed and how."""
    return _digest([path for name in TIMING for path in _files(PACKAGE / name)])


def _files(root: Path) -> Iterator[Path]:
    found = [root] if root.is_file() else sorted(root.rglob("*"))
    return (path for path in found if path.suffix in SUFFIXES)


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        root = CLAIMS if path.is_relative_to(CLAIMS) else PACKAGE
        digest.update(source_line(path, root))
    return digest.hexdigest()


def source_line(path: Path, root: Path) -> bytes:
    """What a file adds to a digest: its place and its content."""
    return f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
