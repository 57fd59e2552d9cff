"""A worker answers, tells how it failed, ends at its deadline, and stands still when it is told to."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geluless.baselines.baseline import Shape
from geluless.baselines.comparison import cores_for
from geluless.baselines.host import BaselineHost
from geluless.bench.load import ForeignLoad
from geluless.bench.memory import Memory, memory_now
from geluless.bench.process import CandidateFailure, Status, TimingProcess
from tests.support.fake_baselines import FakeBaseline, fake_subject


@pytest.fixture
def process(tmp_path: Path) -> Iterator[TimingProcess]:
    started = TimingProcess(BaselineHost, tmp_path / "log", cores=cores_for(1), threads=1)
    yield started
    started.close()


def meet(process: TimingProcess, folder: Path, baseline: FakeBaseline) -> Memory:
    memory: Memory = process.ask("meet", baseline, fake_subject(folder / "subject"), folder, timeout=60)
    return memory


def state(process: TimingProcess) -> str:
    text = Path(f"/proc/{process._process.pid}/stat").read_text(encoding="ascii")
    return text.rpartition(")")[2].split()[0]


def test_a_worker_loads_and_gives_the_logits_of_its_baseline(process: TimingProcess, tmp_path: Path):
    memory = meet(process, tmp_path, FakeBaseline("geluless"))
    assert 0 < memory.resident <= memory.peak
    took, first = process.ask("load", Shape(5, 1), "only", timeout=60)
    expected = fake_subject(tmp_path / "subject").array("logits")
    assert took >= 0
    assert np.array_equal(first, expected[:5])
    logits = process.ask("logits", "inputs", timeout=60)  # 12 images in batches of 5: the last one is filled up
    assert np.allclose(logits, expected, atol=1e-5)
    assert process.ask("versions", timeout=60) == {"numpy": np.__version__}


def test_what_a_worker_works_is_not_foreign_and_what_others_work_is(process: TimingProcess, tmp_path: Path):
    meet(process, tmp_path, FakeBaseline("geluless", "works"))
    process.ask("load", Shape(1, 1), "only", timeout=60)
    before, known, unknown = process.cpu_seconds(), ForeignLoad([process]), ForeignLoad([])
    process.ask("sample", 5, 0, False, timeout=60)
    assert process.cpu_seconds() - before > 0.3
    mine, everyones = known.look(), unknown.look()
    assert mine is not None
    assert everyones is not None
    assert everyones > mine
    process.close()
    assert process.cpu_seconds() == 0


@pytest.mark.serial
def test_samples_are_seconds_per_call(process: TimingProcess, tmp_path: Path):
    meet(process, tmp_path, FakeBaseline("geluless", seconds=0.02))
    process.ask("load", Shape(1, 1), "only", timeout=60)
    assert 0.02 <= process.ask("sample", 3, 1, False, timeout=60)[0] < 0.2


def test_the_pilot_tells_slow_variants_from_fast_ones(process: TimingProcess, tmp_path: Path):
    meet(process, tmp_path, FakeBaseline("geluless", seconds=0.01, configurations=("slow", "fast")))
    process.ask("load", Shape(1, 1), "slow", timeout=60)
    pilot = process.ask("pilot", Shape(1, 1), timeout=60)
    assert 0.02 <= pilot["slow"] < 0.2
    assert 0.01 <= pilot["fast"] < pilot["slow"]


@pytest.mark.parametrize(
    ("behaviour", "status", "words"),
    [
        ("missing", Status.MISSING, "a_package_that_nobody_has"),
        ("needs a GPU", Status.NEEDS_GPU, "its build"),
    ],
)
def test_what_is_not_there_is_told_as_such(process: TimingProcess, tmp_path: Path, behaviour: str, status: Status, words: str):
    with pytest.raises(CandidateFailure) as caught:
        meet(process, tmp_path, FakeBaseline("geluless", behaviour))
    assert caught.value.status is status
    assert words in caught.value.reason


def test_a_crash_is_told_with_the_last_line_that_was_printed(process: TimingProcess, tmp_path: Path):
    meet(process, tmp_path, FakeBaseline("geluless", "crashes"))
    with pytest.raises(CandidateFailure) as caught:
        process.ask("load", Shape(1, 1), "only", timeout=60)
    assert caught.value.status is Status.ENDED
    assert "SIGABRT" in caught.value.reason
    assert "about to crash" in caught.value.reason


def test_an_error_in_a_baseline_leaves_its_process_alive(process: TimingProcess, tmp_path: Path):
    meet(process, tmp_path, FakeBaseline("geluless"))
    with pytest.raises(CandidateFailure, match="nothing is loaded"):
        process.ask("sample", 1, 0, False, timeout=60)
    process.ask("load", Shape(1, 1), "only", timeout=60)


def test_a_hanging_worker_ends_at_its_deadline(process: TimingProcess, tmp_path: Path):
    meet(process, tmp_path, FakeBaseline("geluless", "hangs"))
    with pytest.raises(CandidateFailure) as caught:
        process.ask("load", Shape(1, 1), "only", timeout=0.3)
    assert caught.value.status is Status.TIMEOUT
    assert process._process.poll() is not None


def test_a_paused_worker_stands_still_until_it_is_asked(process: TimingProcess, tmp_path: Path):
    meet(process, tmp_path, FakeBaseline("geluless"))
    process.pause()
    deadline = time.monotonic() + 10
    while state(process) != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state(process) == "T"
    process.ask("memory", timeout=60)
    assert state(process) != "T"
    process.pause()
    process.close()  # also ends a stopped one
    assert process._process.poll() is not None


PARENT = """
import os, sys
from pathlib import Path
from geluless.baselines.comparison import cores_for
from geluless.baselines.host import BaselineHost
from geluless.bench.process import TimingProcess
process = TimingProcess(BaselineHost, Path(sys.argv[1]), cores=cores_for(1), threads=1)
process.ask("memory", timeout=60)
process.pause()
print(process._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_stopped_worker_ends_with_its_parent(tmp_path: Path):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    child = int(subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_memory_is_read_from_the_kernels_own_account(tmp_path: Path):
    here = memory_now()
    assert 10**6 < here.resident <= here.peak
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t 300 kB\nVmRSS:\t 200 kB\n")
    assert memory_now(tmp_path / "status") == Memory(200 * 1024, 300 * 1024)
    assert memory_now(tmp_path / "absent") == Memory(0, 0)


def test_a_failure_says_one_line_and_survives_the_pipe():
    import pickle

    failure = pickle.loads(pickle.dumps(CandidateFailure(Status.WRONG, "two\nlines " + 500 * "x")))
    assert failure.status is Status.WRONG
    assert failure.reason.startswith("two lines xxx")
    assert len(failure.reason) == 400
