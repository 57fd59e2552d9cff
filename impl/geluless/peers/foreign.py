"""Whether anyone else was at work while peers were timed: what the kernel counts, less what the peers and this process took."""

from __future__ import annotations

import time
from collections.abc import Sequence

from geluless.bench.load import busy_seconds
from geluless.peers.process import PeerProcess


class ForeignCores:
    """From its making to the question."""

    def __init__(self, processes: Sequence[PeerProcess]) -> None:
        self._processes = tuple(processes)
        self._begun, self._before = time.perf_counter(), self._foreign_seconds()

    def average(self) -> float | None:
        """Cores that others kept busy; None where the kernel does not say."""
        now = self._foreign_seconds()
        if now is None or self._before is None:
            return None
        return max(0.0, (now - self._before) / max(time.perf_counter() - self._begun, 1e-9))

    def _foreign_seconds(self) -> float | None:
        busy = busy_seconds()
        if busy is None:
            return None
        return busy - time.process_time() - sum(process.cpu_seconds() for process in self._processes)
