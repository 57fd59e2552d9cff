"""A timing study end to end on the micro network: real processes, real engines; no test looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from geluless.bench import study as module
from geluless.bench.kernels import KernelEntry
from geluless.bench.load import ForeignLoad, busy_seconds
from geluless.bench.paired import Samples, kept
from geluless.bench.study import Entry, Findings, Study, StudyError, run_study
from geluless.bench.study_worker import building_order
from tests.support.compiled import requires_native

MODEL = "swin_micro_tiny"


@pytest.fixture
def any_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may run beside this one: here that is no reason to drop a block."""
    monkeypatch.setattr(module, "TOO_MUCH", 1e9)


@requires_native
@pytest.mark.usefixtures("any_load")
def test_every_process_times_every_entry_and_verifies_it() -> None:
    entries = (
        Entry("relu", MODEL, "relu"),
        Entry("separate", MODEL, "gelu-separate", batch=2),
        Entry("slower", MODEL, "relu", handicap=0.5),
        KernelEntry("kernel", "bare", 49, 64, 16),
    )
    lines: list[str] = []
    found = run_study(Study(entries, processes=2, blocks=3), announce=lines.append)
    assert isinstance(found, Findings)
    assert found.samples.processes == (3, 3)
    assert set(found.samples.seconds) == {"relu", "separate", "slower", "kernel"}
    assert found.row("relu")["correctness"] == "equal to the reference"
    assert found.row("relu")["logits"] == found.row("slower")["logits"]
    assert found.row("relu")["input"] != found.row("separate")["input"]
    assert len(lines) == 2
    orders = [tuple(row) for row in found.samples.order.tolist()]
    assert len(set(orders)) > 1, "blocks in one fixed order"


def ask(request: dict) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "geluless.bench.study_worker"]
    return subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)


@requires_native
def test_other_logits_than_the_verified_ones_have_no_time() -> None:
    """Negative control: a process that computes something else is not timed."""
    entry = {"kernel": False, "name": "relu", "model": MODEL, "variant": "relu"}
    done = ask({"entries": [entry], "blocks": 1, "seed": 0, "number": 1, "expected": {"relu": "0" * 64}})
    assert done.returncode == 1
    assert "relu is not timed: WRONG" in done.stderr
    assert not done.stdout


@requires_native
@pytest.mark.usefixtures("any_load")
def test_a_failing_process_is_one_line() -> None:
    with pytest.raises(StudyError, match="a timing process failed"):
        run_study(Study((Entry("a", MODEL, "no such variant"),), processes=3, blocks=1))


def test_a_busy_machine_times_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "rows": [{"name": "a", "logits": ""}],
        "times": {"a": [1.0] * 4},
        "peak": {"a": [1.0] * 4},
        "order": [[0]] * 4,
        "foreign": [0.0, 2.0, 2.0, 2.0],
        "seconds": 4.0,
    }
    monkeypatch.setattr(module, "_process", lambda *_: answer)
    with pytest.raises(StudyError, match="disturbed 9 of 12 blocks"):
        run_study(Study((Entry("a", MODEL, "relu"),), processes=3, blocks=4))


def test_disturbed_blocks_are_dropped_whole() -> None:
    samples = Samples({"a": np.arange(6.0), "b": np.arange(6.0)}, {}, np.zeros((6, 2), np.intp), (3, 3))
    left = kept(samples, np.array([True, False, True, False, False, False]))
    assert left.seconds["a"].tolist() == left.seconds["b"].tolist() == [0.0, 2.0]
    assert left.processes == (2,)


def test_foreign_load_sees_another_process() -> None:
    if busy_seconds() is None:
        pytest.fail("no /proc/stat: this test needs Linux, as the package does")
    code = "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        load = ForeignLoad()
        other.wait()
        assert load.look() > 0.2


def test_every_process_builds_in_an_order_of_its_own() -> None:
    """Or what is built first lies where it lies in every process, and that would count as a property of the variant."""
    kernels = [KernelEntry(f"{rows} {name}", "relu", rows, 32, 32) for rows in (7, 9) for name in ("relu", "again", "bare")]
    entries = [{"kernel": True, **asdict(kernel)} for kernel in kernels]
    entries += [{"kernel": False, **asdict(Entry(f"network {number}", "tiny", "relu"))} for number in range(3)]
    orders = [building_order(entries, seed=[0, number]) for number in range(40)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert {order[0] for order in orders} == set(range(9)), "each is the first one at some time"
    assert orders[0] == building_order(entries, seed=[0, 0])
    for order in orders:  # kernels of one shape share their buffers: one after the other
        places = [order.index(place) for place in range(3)]
        assert max(places) - min(places) == 2
