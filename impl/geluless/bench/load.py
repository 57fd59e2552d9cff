"""Whether other processes were running while something was timed: the kernel's own account, before and after."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

STAT = Path("/proc/stat")
TOO_MUCH = 0.25  # cores busy with other work during one block, above which its samples do not count


def busy_seconds() -> float | None:
    """CPU seconds of all processes since boot, without idling; None where the kernel does not say (not Linux)."""
    try:
        fields = [int(field) for field in STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _wait, irq, softirq = fields[:7]
    stolen = fields[7] if len(fields) > 7 else 0  # by other virtual machines: as foreign as it gets
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    """What a process has used of all cores together; 0 where the kernel does not say, or it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]  # after the name, which may hold anything
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Counted(Protocol):
    """A process that knows what it has used: `process_seconds` of it, mostly."""

    def cpu_seconds(self) -> float: ...


class ForeignLoad:
    """Cores that others kept busy between two looks: what the kernel counts, less what this process and `processes` used. It
    counts in hundredths of a second: look no more often."""

    def __init__(self, processes: Iterable[Counted] = ()) -> None:
        self._processes = tuple(processes)
        self._foreign, self._wall = self._foreign_seconds(), time.perf_counter()

    def look(self) -> float | None:
        """Cores, on average since the last look; None where the kernel does not say."""
        before, begun = self._foreign, self._wall
        self._foreign, self._wall = self._foreign_seconds(), time.perf_counter()
        if before is None or self._foreign is None:
            return None
        return max(0.0, self._foreign - before) / max(self._wall - begun, 1e-9)

    def _foreign_seconds(self) -> float | None:
        busy = busy_seconds()
        if busy is None:
            return None
        mine = sum(os.times()[:4])  # with that of children that have ended
        return busy - mine - sum(process.cpu_seconds() for process in self._processes)
