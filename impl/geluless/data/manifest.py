"""fixtures/MANIFEST.toml lists the fixtures: what is listed must be on disk, byte for byte, and nothing else.

A verdict names the data it was reached on. So a changed, missing or unlisted file stops the run before anything is read.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from geluless.errors import DataError

VERIFIED_FOLDERS = ("data", "teachers")
RESTORE = "`git checkout -- fixtures` restores what was committed; `nox -s fixtures` makes everything anew and lists it"


@dataclass(frozen=True)
class FixtureFile:
    """One listed file: its path below fixtures/, with forward slashes, and what its bytes must hash to."""

    path: str
    sha256: str
    size: int


def fixtures_root() -> Path:
    """The folder with MANIFEST.toml: $GELULESS_FIXTURES, else fixtures/ of the source tree this package runs from.

    Raises DataError when it is not there, as after an installation without the repository.
    """
    given = os.environ.get("GELULESS_FIXTURES")
    root = Path(given) if given else Path(__file__).resolve().parents[3] / "fixtures"
    if not (root / "MANIFEST.toml").is_file():
        where = f"GELULESS_FIXTURES={given}" if given else f"this installation ({root})"
        raise DataError(
            f"no fixtures at {where}: clone the repository and install it with `pip install -e .`, "
            "or set GELULESS_FIXTURES to its fixtures folder"
        )
    return root


def read_fixture(relative: str) -> bytes:
    """The bytes of one listed file of fixtures/data, hashed before they are returned; DataError on any difference.

    The folder it lies in is checked for missing and unlisted files as well.
    """
    path = verified_path(relative)
    content = path.read_bytes()
    _require_equal(path, content, _listed(fixtures_root())[relative])
    return content


def teacher_path(name: str) -> Path:
    """fixtures/teachers/NAME.safetensors, verified against the manifest; DataError on any difference."""
    relative = f"teachers/{name}.safetensors"
    listed = _listed(fixtures_root())
    if relative not in listed:
        known = ", ".join(sorted(Path(p).stem for p in listed if p.startswith("teachers/"))) or "none yet"
        raise DataError(f"no teacher {name!r} in fixtures/MANIFEST.toml (listed: {known}); `nox -s fixtures` trains the teachers")
    return verified_path(relative)


def verified_path(relative: str) -> Path:
    """The path of one listed file after its whole folder has been verified (once per state of the folder)."""
    root = fixtures_root()
    folder = relative.split("/", 1)[0]
    if relative not in _listed(root):
        raise DataError(f"{relative} is not listed in {root / 'MANIFEST.toml'}: {RESTORE}")
    verify_folder(folder)
    return root / relative


def verify_fixtures() -> int:
    """Verify every listed file; returns how many there are. Raises DataError on the first difference."""
    root = fixtures_root()
    for folder in VERIFIED_FOLDERS:
        verify_folder(folder)
    return len(_listed(root))


def verify_folder(folder: str) -> None:
    """Compare one folder of fixtures/ with the manifest: nothing changed, nothing missing, nothing extra; else DataError."""
    root = fixtures_root()
    listed = {path: entry for path, entry in _listed(root).items() if path.startswith(f"{folder}/")}
    present = {p.relative_to(root).as_posix(): p for p in sorted((root / folder).rglob("*")) if not p.is_dir() or p.is_symlink()}
    if missing := sorted(listed.keys() - present.keys()):
        raise DataError(f"{root / missing[0]} is listed in MANIFEST.toml and missing: {RESTORE}")
    if extra := sorted(present.keys() - listed.keys()):
        listing = "`python fixtures/make_manifest.py`"
        raise DataError(f"{root / extra[0]} is not listed in MANIFEST.toml: remove it, or list it by {listing}")
    for relative, path in present.items():
        stat = path.stat()
        _verify_file(path, listed[relative], signature=(stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=64)
def _verify_file(path: Path, entry: FixtureFile, *, signature: tuple[int, int, int]) -> None:
    """Cached by the file's inode, size and time: a teacher is asked for by many tests and hashed by one."""
    _require_equal(path, path.read_bytes(), entry)


def _require_equal(path: Path, content: bytes, entry: FixtureFile) -> None:
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DataError(f"{path} differs from its sha256 in MANIFEST.toml ({len(content)} bytes, {entry.size} listed): {RESTORE}")


def _listed(root: Path) -> dict[str, FixtureFile]:
    path = root / "MANIFEST.toml"
    return _parse(path, path.read_text(encoding="utf-8"))


@lru_cache(maxsize=4)
def _parse(path: Path, text: str) -> dict[str, FixtureFile]:
    try:
        rows = tomllib.loads(text).get("file", [])
        entries = [FixtureFile(path=row["path"], sha256=row["sha256"], size=row["bytes"]) for row in rows]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): {RESTORE}") from error
    for entry in entries:
        if not isinstance(entry.path, str) or Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
            raise DataError(f"{path} lists {entry.path!r}, which is no path below fixtures/: {RESTORE}")
    listed = {entry.path: entry for entry in entries}
    if len(listed) != len(entries):
        raise DataError(f"{path} lists a file twice: {RESTORE}")
    return listed
