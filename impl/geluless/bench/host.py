"""In a timing process: holds loaded entries, and times one call of one of them at a time. See `process` for the protocol."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

from geluless.bench.entries import Loaded, TimingEntry, Verified
from geluless.bench.paired import Stopwatch, both

PROTOCOL = 2  # of the gate: both revisions must speak it
LOOKS = 3  # calls for a rough idea of the time


@dataclass(frozen=True)
class Greeting:
    protocol: int
    isa: str
    workloads: tuple[str, ...]


class Host:
    """Every public method is a request."""

    def __init__(self) -> None:
        self._loaded: dict[str, Loaded] = {}
        self._verified = Verified()

    def hello(self) -> Greeting:
        from geluless.bench.workloads import workloads
        from geluless.engine.cpu import choose_isa

        return Greeting(PROTOCOL, choose_isa(None), tuple(workloads()))

    def load(self, entry: TimingEntry, expected: str | None) -> object:
        """The entry's Row. Raises CandidateFailure as TimingEntry.load does."""
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
    for _ in range(warm_up):
        call()

    def in_a_row() -> None:
        for _ in range(calls):
            call()

    gc.disable()  # a collection in the middle of a sample would count
    try:
        seconds, peak = both(stopwatch(call if calls == 1 else in_a_row))
    finally:
        gc.enable()
    return seconds / calls, peak
