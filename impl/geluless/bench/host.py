"""In a timing process: holds loaded entries, and times one call of one of them at a time. See `process` for the protocol."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from geluless.bench.entries import Loaded, TimingEntry, Verified
from geluless.bench.harness import Row
from geluless.bench.paired import Stopwatch, WallClock, both

PROTOCOL = 2  # of the gate: both revisions must speak it
LOOKS = 3  # calls for a rough idea of the time


class Host:
    """Every public method is a request."""

    def __init__(self) -> None:
        self._loaded: dict[str, Loaded] = {}
        self._verified = Verified()

    def hello(self) -> dict[str, Any]:
        """{"protocol", "isa", "workloads": their names}: plain values, as all that the gate asks a revision for."""
        from geluless.bench.workloads import workloads
        from geluless.engine.cpu import choose_isa

        return {"protocol": PROTOCOL, "isa": choose_isa(None), "workloads": list(workloads())}

    def load_workload(self, name: str, expected: str | None) -> str:
        """sha256 of its output. Raises CandidateFailure where that is wrong, or other than `expected`."""
        from geluless.bench.workloads import WorkloadEntry

        return str(self.load(WorkloadEntry(name), expected).output)

    def load(self, entry: TimingEntry, expected: str | None) -> Row:
        """Raises CandidateFailure as TimingEntry.load does."""
        self._loaded[entry.name] = loaded = entry.load(expected, self._verified)
        return loaded.row

    def roughly(self, name: str) -> float:
        """Seconds of one call."""
        took = []
        for _ in range(LOOKS):
            started = time.perf_counter()
            self._loaded[name].call()
            took.append(time.perf_counter() - started)
        return min(took)

    def warm_up(self, seconds: float) -> None:
        """All calls in turns."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for loaded in self._loaded.values():
                loaded.call()

    def sample(self, name: str, calls: int, warm_up: int) -> tuple[float, float]:
        """(seconds per call, rate of the peak loop around them or 0): `calls` in a row, after `warm_up` that are not timed."""
        loaded = self._loaded[name]
        return several(loaded.call, loaded.stopwatch, calls=calls, warm_up=warm_up)


def several(call: Callable[[], object], stopwatch: Stopwatch, *, calls: int, warm_up: int) -> tuple[float, float]:
    """`Host.sample` of any call."""

    def in_a_row(count: int) -> None:
        for _ in range(count):
            call()

    timed = call if calls == 1 else partial(in_a_row, calls)
    gc.disable()  # a collection in the middle of a sample would count
    try:
        if isinstance(stopwatch, WallClock):
            seconds, peak = stopwatch(timed, partial(in_a_row, warm_up))
        else:
            in_a_row(warm_up)
            seconds, peak = both(stopwatch(timed))
    finally:
        gc.enable()
    return seconds / calls, peak
