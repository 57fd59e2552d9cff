"""Whether other processes were running while something was timed: the kernel's own account, before and after."""

from __future__ import annotations

import os
import time
from pathlib import Path

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


class ForeignLoad:
    """Cores that others kept busy between two looks. The kernel counts in hundredths of a second: look no more often."""

    def __init__(self) -> None:
        self._busy, self._own, self._wall = busy_seconds(), time.process_time(), time.perf_counter()

    def look(self) -> float:
        """Cores, on average since the last look; 0 where the kernel does not say."""
        busy, own, wall = busy_seconds(), time.process_time(), time.perf_counter()
        foreign = 0.0
        if busy is not None and self._busy is not None:
            foreign = max(0.0, (busy - self._busy) - (own - self._own)) / max(wall - self._wall, 1e-9)
        self._busy, self._own, self._wall = busy, own, wall
        return foreign
