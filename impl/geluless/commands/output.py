"""Output files: refused before hours of work rather than after, and either complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geluless.commands.result import OptionError


def checked_output(path: Path, *, suffix: str, force: bool) -> Path:
    """The path itself if a file can be written there. Raises OptionError saying what is in the way."""
    folder = path.parent
    if not path.name.endswith(suffix):
        raise OptionError(f"--output {path} must end in {suffix}")
    if not folder.is_dir():
        raise OptionError(f"--output {path}: there is no folder {folder}; create it first")
    if path.is_dir():
        raise OptionError(f"--output {path} is a folder; name a file in it")
    if path.exists() and not force:
        raise OptionError(f"--output {path} exists; remove it or pass --force")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(f"--output {path}: cannot write to {folder} ({error.strerror}); choose another folder") from error
    return path


def checked_folder(path: Path, *, option: str) -> Path:
    """A folder that exists after this call and takes files. Raises OptionError saying what is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OptionError(f"{option} {path}: cannot write there ({error.strerror}); choose another folder") from error
    return path


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well and removed when it does not.

    The temporary name ends like the final one, for writers that look at the suffix.
    """
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())  # a rename may reach the disk before the bytes it names
        temporary.chmod(0o644)  # safetensors writes for the owner alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
