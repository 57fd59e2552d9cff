"""A file is whole or as it was, an error names it and a way out, nothing is left beside it; one run to a folder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from geluless import files
from geluless.cache import default_cache, made_cache
from geluless.errors import BusyError, MissingResource, OutputError
from geluless.files import atomic_output, one_run_in, write_whole
from tests.support.scripts import ROOT, run_script


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, times: int = 1000) -> Iterator[None]:
    """os.NAME fails the first `times` times, as the system call does: without a file's name."""
    real, left = getattr(os, name), [times]

    def call(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return real(*arguments, **options)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, name, call)
        yield


KINDS = [
    (errno.ENOSPC, r"No space left on device\): free some space, or name a place on another disk"),
    (errno.EDQUOT, r"quota exceeded\): free some of your quota, or name a place on another disk"),
    (errno.EIO, r"Input/output error\): name another place"),
]


@pytest.mark.parametrize(("number", "reason"), KINDS, ids=[errno.errorcode[number] for number, _ in KINDS])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_whatever_fails_the_error_names_the_file_and_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    path = tmp_path / "new.bin"
    with failing(monkeypatch, call, number), pytest.raises(OutputError, match=f"cannot write {path} .*{reason}$"):
        write_whole(path, b"content")
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with failing(monkeypatch, call, number), pytest.raises(OutputError, match=r"; the file that was there is intact$"):
        write_whole(path, b"content")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]
    write_whole(path, b"con", memoryview(b"tent"))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"content"]


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from geluless.errors import OutputError
from geluless.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), b"x" * 1001)
except OutputError as error:
    print(error)
"""
    path = tmp_path / "large.bin"
    assert run_script(script, path) == f"cannot write {path} (File too large): raise the limit of a file's size (ulimit -f)\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["n" * 255, "ü" * 127, "a.safetensors", ".hidden", "with space.onnx", "[x]*?.json", "\udcff.bin"]
)
def test_every_name_that_a_file_can_have_can_be_written(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"first")
    write_whole(tmp_path / name, b"second")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [(name, b"second")]


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"File name too long\): name a shorter one"):
        write_whole(tmp_path / ("n" * 256), b"content")
    assert list(tmp_path.iterdir()) == []


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_output(tmp_path / "a.bin"):
        (tmp_path / "elsewhere").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_two_outputs_of_one_writer_differ_in_the_suffix_only(tmp_path: Path) -> None:
    """OpenVINO derives the name of the weights from that of the network."""
    with atomic_output(tmp_path / "net.xml") as network, atomic_output(tmp_path / "net.bin") as weights:
        assert network.with_suffix(".bin") == weights
        network.write_bytes(b"n")
        weights.write_bytes(b"w")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.bin", "net.xml"]


WRITER = """
import sys, time
from pathlib import Path
from geluless.files import atomic_output
with atomic_output(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(600)
"""


@contextmanager
def running(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A script that has said its first word; killed at the end."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_what_a_killed_writer_left_goes_with_the_next_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with running(WRITER, path) as writer:
        write_whole(path, b"whole")
        assert len(list(tmp_path.iterdir())) == 2, "the other's file is left alone"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(list(tmp_path.iterdir())) == 2, "which nobody could remove then"
        write_whole(path, b"whole again")
        assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"whole again"]


# ------------------------------------------------------------------------------------------------ one run to a folder

HOLDER = """
import sys, time
from pathlib import Path
from geluless.files import one_run_in
with one_run_in(Path(sys.argv[1]), name="run"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_who_is_there(tmp_path: Path) -> None:
    with running(HOLDER, tmp_path) as holder:
        who = rf"{tmp_path} is in use by process {holder.pid} on \S+, since [\d-]+ [\d:]+"
        busy = rf"{who}: wait until it ends, or name another folder"
        with pytest.raises(BusyError, match=busy), one_run_in(tmp_path, name="run"):
            raise AssertionError("two runs in one folder")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with one_run_in(tmp_path, name="run"):  # a lock ends with its process, though the file is still there
            assert f"process {os.getpid()} on" in (tmp_path / "run.lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_thread_of_the_same_process_is_another_run(tmp_path: Path) -> None:
    with one_run_in(tmp_path, name="run"), pytest.raises(BusyError), one_run_in(tmp_path, name="run"):
        pass
    with one_run_in(tmp_path, name="run"), one_run_in(tmp_path, name="other"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_many_runs_at_once_and_never_two_inside(tmp_path: Path) -> None:
    """Each removes the file that the others wait for."""
    inside, most, done = [0], [0], [0]

    def work() -> None:
        for _ in range(200):
            try:
                with one_run_in(tmp_path, name="run"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    done[0] += 1
                    inside[0] -= 1
            except BusyError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done[0] > 0
    assert most[0] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_frees_its_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with one_run_in(tmp_path, name="run"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with one_run_in(tmp_path, name="run"):
        pass


def test_a_folder_that_takes_no_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = pytest.raises(OutputError, match=r"run\.lock \(No space left on device\): free some space")
    with failing(monkeypatch, "open", errno.ENOSPC), full, one_run_in(tmp_path, name="run"):
        pass


def lockless(number: int) -> Callable[..., None]:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(files.fcntl, "flock", lockless(number))
    with one_run_in(tmp_path, name="run"):
        write_whole(tmp_path / "a.bin", b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


# ------------------------------------------------------------------------------------------------ the user's cache


def test_a_user_without_a_home_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(MissingResource, match="no home folder for a cache: set XDG_CACHE_HOME"):
        default_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "geluless"


@pytest.mark.parametrize("where", ["/proc/geluless", "/dev/null/geluless"])
def test_a_cache_that_cannot_be_made_is_named_with_the_variable(where: str) -> None:
    with pytest.raises(OutputError, match=f"cannot make the cache folder {where} .*set XDG_CACHE_HOME"):
        made_cache(Path(where))
