"""A timing study end to end on the micro network: real processes, real engines; no test looks at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geluless.bench import harness, load
from geluless.bench.entries import Entry, Verified
from geluless.bench.harness import Findings, StudyError
from geluless.bench.host import Host
from geluless.bench.kernels import KernelEntry
from geluless.bench.load import ForeignLoad, busy_seconds
from geluless.bench.paired import Samples, kept
from geluless.bench.process import CandidateFailure, Status, TimingProcess
from geluless.bench.study import Study, building_order, run_study
from geluless.errors import VariantError
from tests.support.compiled import requires_native

MODEL = "swin_micro_tiny"


@pytest.fixture
def any_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may run beside this one: here that is no reason to drop a block."""
    monkeypatch.setattr(harness, "TOO_MUCH", 1e9)


@pytest.mark.slow
@requires_native
@pytest.mark.usefixtures("any_load")
def test_every_process_times_every_entry_and_verifies_it() -> None:
    entries = (
        Entry("relu", MODEL, "relu"),
        Entry("separate", MODEL, "gelu-separate", batch=2),
        Entry("slower", MODEL, "relu", handicap=0.5),
        KernelEntry("kernel", "fixed_s8", 49, 64, 16),
    )
    lines: list[str] = []
    found = run_study(Study(entries, processes=2, blocks=3), announce=lines.append)
    assert isinstance(found, Findings)
    assert found.samples.processes == (3, 3)
    assert set(found.samples.seconds) == {"relu", "separate", "slower", "kernel"}
    assert found.row("relu").correctness == "equal to the reference"
    assert found.row("relu").output == found.row("slower").output
    assert found.row("relu").input != found.row("separate").input
    assert len(lines) == 2
    orders = [tuple(row) for row in found.samples.order.tolist()]
    assert len(set(orders)) > 1, "blocks in one fixed order"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[TimingProcess]:
    started = TimingProcess(Host, tmp_path / "log")
    yield started
    started.close()


@requires_native
def test_other_logits_than_the_verified_ones_have_no_time(process: TimingProcess) -> None:
    """Negative control: a process that computes something else is not timed."""
    with pytest.raises(CandidateFailure, match=r"relu on .* is not timed: WRONG") as caught:
        process.ask("load", Entry("relu", MODEL, "relu"), "0" * 64, timeout=120)
    assert caught.value.status is Status.WRONG
    with pytest.raises(CandidateFailure, match="relu"):
        process.ask("sample", "relu", 1, 0, timeout=60)


@requires_native
def test_a_row_says_whether_its_pass_was_blocked() -> None:
    whole, blocked = (Entry("a", MODEL, "gelu-separate", blocked=blocked).load(None, Verified()).row for blocked in (False, True))
    assert (whole.blocked, blocked.blocked) == (False, True)
    assert whole.output == blocked.output
    with pytest.raises(VariantError, match="variant relu is fused"):
        Entry("a", MODEL, "relu", blocked=True).load(None, Verified())


@requires_native
@pytest.mark.usefixtures("any_load")
def test_a_failing_process_is_one_line() -> None:
    with pytest.raises(StudyError, match="a timing process failed"):
        run_study(Study((Entry("a", MODEL, "no such variant"),), processes=3, blocks=1))


def test_disturbed_blocks_are_dropped_whole() -> None:
    samples = Samples({"a": np.arange(6.0), "b": np.arange(6.0)}, {}, np.zeros((6, 2), np.intp), (3, 3))
    left = kept(samples, np.array([True, False, True, False, False, False]))
    assert left.seconds["a"].tolist() == left.seconds["b"].tolist() == [0.0, 2.0]
    assert left.processes == (2,)


def test_foreign_load_sees_another_process() -> None:
    if busy_seconds() is None:
        pytest.fail("no /proc/stat: this test needs Linux, as the package does")
    code = "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]):
        foreign = ForeignLoad()
        time.sleep(1.0)
        assert foreign.look() > 0.2  # while it runs: once it has ended it counts as ours


def test_what_a_child_that_has_ended_used_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, used = iter((0.0, 5.0)), iter(((0.0, 0.0, 0.0, 0.0, 0.0), (1.0, 0.5, 3.0, 0.5, 9.0)))  # own, children's, elapsed
    monkeypatch.setattr(load, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(load.os, "times", lambda: next(used))
    assert ForeignLoad().look() == 0.0


def test_every_process_builds_in_an_order_of_its_own() -> None:
    """Or what is built first lies where it lies in every process, and that would count as a property of the variant."""
    kernels = [KernelEntry(f"{rows} {name}", "fixed_relu", rows, 32, 32) for rows in (7, 9) for name in ("relu", "again", "bare")]
    entries = [*kernels, *(Entry(f"network {number}", "tiny", "relu") for number in range(3))]
    orders = [[entry.name for entry in building_order(entries, seed=[0, number])] for number in range(40)]
    names = {entry.name for entry in entries}
    assert all(set(order) == names and len(order) == 9 for order in orders)
    assert {order[0] for order in orders} == names, "each is the first one at some time"
    assert orders[0] == [entry.name for entry in building_order(entries, seed=[0, 0])]
    for order in orders:  # kernels of one shape share their buffers: one after the other
        places = [order.index(kernel.name) for kernel in kernels[:3]]
        assert max(places) - min(places) == 2
