"""Files that are either complete or not there, one run to a folder, and JSON from outside."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geluless.errors import BusyError, OutputError

WAYS_OUT = {
    errno.ENOSPC: "free some space, or name a place on another disk",
    errno.EDQUOT: "free some of your quota, or name a place on another disk",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.ENAMETOOLONG: "name a shorter one",
}
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that has none
TOKEN = secrets.token_hex(4)  # with the process's number: other containers, which share a disk, number their processes likewise


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well and removed when it does not.

    The temporary name ends like the final one, for writers that look at the suffix, and those of F.xml and F.bin differ in the
    suffix only, for a writer of both. What a killed process left of an earlier attempt is removed first. Raises OutputError, with
    `path` and a way out, for an OSError about either of the two.
    """
    tail = path.name[-50:]  # of at most 200 bytes: a name has 255
    temporary = path.with_name(f".partial.{os.getpid()}-{TOKEN}.{tail}")
    try:
        _remove_abandoned(path.parent, tail)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed, by whatever death of this process
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())  # a rename may reach the disk before the bytes it names
            temporary.chmod(0o644)  # a writer may have made it for the owner alone
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) in (temporary, path, path.parent):
            raise _output_error(path, error) from error
        raise


def write_whole(path: Path, *pieces: bytes | memoryview) -> None:
    """The pieces in one file, or the file as it was. Raises OutputError."""
    with atomic_output(path) as temporary, temporary.open("wb") as stream:
        stream.writelines(pieces)


def _output_error(path: Path, error: OSError) -> OutputError:
    way_out = WAYS_OUT.get(error.errno or 0, "name another place")
    message = f"cannot write {path} ({error.strerror or error}): {way_out}"
    with suppress(OSError):  # of a name that is too long
        message += "; the file that was there is intact" * path.is_file()
    return OutputError(message)


def _remove_abandoned(folder: Path, tail: str) -> None:
    """Whoever still writes holds a lock, and a lock ends with its process."""
    for left in folder.glob(f".partial.*.{glob.escape(tail)}"):
        with suppress(OSError), left.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


@contextmanager
def one_run_in(folder: Path, *, name: str) -> Iterator[None]:
    """Holds FOLDER/NAME.lock, which says who runs there. Raises BusyError with just that where another run, of this or another
    process, holds it; OutputError where it cannot be made. Where the file system has no locks nothing is held."""
    path = folder / f"{name}.lock"
    try:
        descriptor = _locked(path)
    except BlockingIOError:
        other = ""
        with suppress(OSError):
            other = path.read_text(encoding="utf-8").strip()
        raise BusyError(f"{folder} is in use by {other or 'another run'}: wait until it ends, or name another folder") from None
    except OSError as error:
        raise _output_error(path, error) from error
    try:
        with suppress(OSError):  # a full disk has room for a lock, and none for a name
            os.truncate(descriptor, 0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes: whoever waits for this very file looks whether it is still there
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor
            os.close(descriptor)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # its holder removed it between the two calls


def read_json(path: Path) -> Any:
    """What a UTF-8 file holds. Raises OSError, and ValueError for all that is no JSON, also where it is nested too deeply."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
