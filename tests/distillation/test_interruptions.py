"""A distillation on another day: fewer processors, a full disk, a second run in its folder; and the file of its student."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from geluless import cli
from geluless.commands import output as outputs
from geluless.distillation import distill
from geluless.distillation.checkpoints import FILE, NAME, threads_begun_with
from geluless.distillation.student_file import student_file
from geluless.errors import BusyError, CheckpointError, OutputError
from geluless.files import one_run_in
from tests.distillation.test_distillation import LOCAL, PAPER
from tests.support.networks import MemoryImages, awkward_swin
from tests.support.scripts import ROOT, run_script


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(folder: Path, **options: Any) -> Any:
    return distill(awkward_swin(), MemoryImages(120), **{"recipe": LOCAL, "checkpoint_dir": folder, **options})


class Stopped(Exception):
    pass


def stop(record: object) -> None:
    raise Stopped


# ------------------------------------------------------------------------------------------------ processors


def test_a_run_with_other_threads_is_refused_with_the_option_that_continues_it(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    with pytest.raises(Stopped):
        run(tmp_path, on_block=stop)
    torch.set_num_threads(1)
    way_out = r"begun with --threads 2, .* continue it with that \(in Python torch.set_num_threads\(2\)\), or delete"
    with pytest.raises(CheckpointError, match=way_out):
        run(tmp_path)
    assert threads_begun_with(tmp_path) == 2


def test_without_a_run_nobody_says_how_many_threads(tmp_path: Path) -> None:
    assert threads_begun_with(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"not a checkpoint")
    assert threads_begun_with(tmp_path) is None


def line(folder: Path, output: Path, *more: str) -> list[str]:
    made = ["distill", "--model", "swin_micro_tiny", "--embedded", "--recipe", "local"]
    return [*made, "--checkpoint-dir", str(folder), "--output", str(output), *more]


def test_the_same_command_continues_with_the_threads_that_the_run_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from geluless import distillation

    seen = []

    def fake(*_: Any, **options: Any) -> Any:
        seen.append(torch.get_num_threads())
        raise Stopped

    monkeypatch.setattr(distillation, "distill", fake)
    torch.set_num_threads(3)
    with pytest.raises(Stopped):
        run(tmp_path / "run", on_block=stop)
    for threads, more in ((1, ()), (2, ()), (1, ("--threads", "2"))):
        torch.set_num_threads(threads)
        with pytest.raises(Stopped):
            cli.main(line(tmp_path / "run", tmp_path / "student.safetensors", *more))
    assert seen == [3, 3, 2]
    said = [text for text in capsys.readouterr().err.splitlines() if "begun" in text]
    assert said == [f"geluless: {tmp_path / 'run'} was begun with --threads 3 and goes on with that"] * 2


# ------------------------------------------------------------------------------------------------ two runs


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    refused = []

    def try_another(record: object) -> None:
        with pytest.raises(BusyError, match=f"process {os.getpid()} on"):
            run(tmp_path)
        refused.append(record)

    done = run(tmp_path, on_block=try_another)
    assert refused == list(done.records)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_another_process_in_the_folder_is_named_in_one_line(tmp_path: Path) -> None:
    """As a job that was queued again beside the old one, or torchrun with two processes."""
    folder = tmp_path / "run"
    folder.mkdir()
    with one_run_in(folder, name=NAME):
        command = [sys.executable, "-m", "geluless.cli", *line(folder, tmp_path / "student.safetensors", "--threads", "1")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"geluless: error: {folder} is in use by process {os.getpid()} on ")
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


# ------------------------------------------------------------------------------------------------ disks


def full_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """The disk fills up: os.fsync succeeds so often and no more."""
    real, left = os.fsync, [calls]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("recipe", [LOCAL, PAPER], ids=["local", "paper"])
def test_a_disk_that_fills_up_costs_one_step(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", recipe=recipe)
    folder, steps = tmp_path / "run", []
    with monkeypatch.context() as patch:
        full_after(patch, 2)
        with pytest.raises(
            OutputError, match=f"cannot write {folder / FILE} .*free some space.*; the file that was there is intact"
        ):
            run(folder, recipe=recipe)
    assert [entry.name for entry in folder.iterdir()] == [FILE]
    again = run(folder, recipe=recipe, on_block=steps.append)
    assert len(steps) == len(whole.records) - 2, "the two steps that were saved are not taken again"
    expected = whole.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.student.state_dict().items())


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_after(monkeypatch, 0)
    with pytest.raises(OutputError, match=r"free some space, or name a place on another disk$"):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_one_line(tmp_path: Path) -> None:
    """ulimit -f: a real one, for everything that the process writes."""
    script = """
import resource, sys
from geluless import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
print(cli.main(sys.argv[1:]))
"""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", script, *line(folder, tmp_path / "s.safetensors", "--threads", "1")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", "no step is shown as done that was not saved"
    message = f"geluless: error: cannot write {folder / FILE} (File too large): raise the limit of a file's size (ulimit -f)"
    assert done.stderr.splitlines()[-1] == message
    assert list(folder.iterdir()) == []


class Done:
    """What distill() gives back, without its minutes."""

    warnings = ()

    def __init__(self) -> None:
        self.student = awkward_swin(relu=True)

    def to_json(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("resumable", [True, False])
def test_a_student_that_finds_no_room_is_kept_elsewhere(
    resumable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from geluless import distillation

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(distillation, "distill", lambda *_, **__: Done())
    monkeypatch.setattr(outputs.tempfile, "gettempdir", lambda: str(elsewhere))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if elsewhere not in Path(f"/proc/self/fd/{descriptor}").readlink().parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    output, folder = tmp_path / "student.safetensors", tmp_path / "run"
    command = line(folder, output)
    if not resumable:
        at = command.index("--checkpoint-dir")
        command = command[:at] + command[at + 2 :]
    assert cli.main(command) == 1
    (message,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("geluless: error")]
    (kept,) = elsewhere.iterdir()
    assert f"cannot write {output} (No space left on device): free some space" in message
    assert f"What was to be written is in {kept}" in message
    assert (f"The run is whole in {folder}: the same command writes the file from there" in message) == resumable
    assert not output.exists()
    assert load_file(kept).keys() == Done().student.state_dict().keys()


def test_where_there_is_no_room_at_all_the_first_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_after(monkeypatch, 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"^cannot write .*/a.bin .*another disk$"):
        outputs.keep(tmp_path / "a.bin", b"content")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ the student's file

FACTS = {name: name.upper() for name in ("model", "activation", "recipe", "seed", "images")}
WRITE = """
import sys
from geluless.distillation.student_file import student_file
from tests.support.networks import awkward_swin
sys.stdout.buffer.write(b"".join(student_file(awkward_swin(relu=True), {facts})))
"""


def test_the_same_student_and_facts_are_the_same_bytes_in_every_process() -> None:
    scripts = [WRITE.format(facts=dict(order)) for order in (FACTS.items(), reversed(FACTS.items()))]
    command = (sys.executable, "-c")
    written = {subprocess.run([*command, script], cwd=ROOT, capture_output=True, check=True).stdout for script in scripts}
    assert len(written) == 1


def test_a_student_s_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    student, path = awkward_swin(relu=True), tmp_path / "student.safetensors"
    path.write_bytes(b"".join(student_file(student, FACTS)))
    with safe_open(path, framework="pt") as stream:
        assert stream.metadata() == FACTS
    loaded = load_file(path)
    assert loaded.keys() == student.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in student.state_dict().items())
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert size % 8 == 0
    assert list(json.loads(raw[8 : 8 + size])["__metadata__"]) == sorted(FACTS)


@pytest.mark.slow
def test_a_run_that_goes_on_with_fewer_processors_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Two processes with two threads; one is killed after a step and continued where it is bound to one processor."""
    script = """
import os, signal, sys
from pathlib import Path
import torch
from geluless.distillation import distill
from geluless.distillation.checkpoints import threads_begun_with
from geluless.distillation.student_file import student_file
from tests.distillation.test_distillation import LOCAL
from tests.support.networks import MemoryImages, awkward_swin

folder, what = Path(sys.argv[1]), sys.argv[2]
if what == "continue":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(threads_begun_with(folder) or 2)
die = (lambda record: os.kill(os.getpid(), signal.SIGKILL)) if what == "die" else None
done = distill(awkward_swin(), MemoryImages(120), recipe=LOCAL, checkpoint_dir=folder, on_block=die)
(folder / "student.safetensors").write_bytes(b"".join(student_file(done.student, {"recipe": "local"})))
"""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_script(script, whole, "whole", timeout=600)
    with pytest.raises(AssertionError, match="exit code -9"):
        run_script(script, killed, "die", timeout=600)
    assert sorted(entry.name for entry in killed.iterdir()) == [f"{NAME}.lock", FILE]
    run_script(script, killed, "continue", timeout=600)
    assert sorted(entry.name for entry in killed.iterdir()) == [FILE, "student.safetensors"]
    assert (whole / "student.safetensors").read_bytes() == (killed / "student.safetensors").read_bytes()
