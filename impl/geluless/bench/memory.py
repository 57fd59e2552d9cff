"""How much memory this process holds, by the kernel's own account."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Bytes of resident memory: now, and the most there ever was. Zero where the kernel does not say (not Linux)."""

    resident: int
    peak: int


def memory_now(path: Path = STATUS) -> Memory:
    found = {"VmRSS": 0, "VmHWM": 0}
    if path.is_file():
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key in found:
                found[key] = int(value.split()[0]) * 1024
    return Memory(found["VmRSS"], max(found.values()))
