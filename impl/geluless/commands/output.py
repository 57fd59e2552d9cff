"""Output files and folders that cannot be written are refused before hours of work rather than after; what becomes of the work of
hours where they cannot be written then."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from geluless.commands.result import OptionError
from geluless.errors import OutputError
from geluless.files import write_whole


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


def keep(path: Path, *pieces: bytes | memoryview) -> None:
    """Write the pieces to `path`, and where that fails to another folder. Raises OutputError, which says to which."""
    try:
        write_whole(path, *pieces)
    except OutputError as error:
        for folder in (Path(tempfile.gettempdir()), Path.cwd()):
            elsewhere = folder / f"{os.getpid()}-{path.name}"
            try:
                write_whole(elsewhere, *pieces)
            except OutputError:
                continue
            raise OutputError(f"{error}. What was to be written is in {elsewhere}") from None
        raise
