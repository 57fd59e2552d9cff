"""Which registers might be read before they are written: definite assignment, decided once per kernel.

A forward analysis over the control flow of one thread: a register is assigned at an instruction if every path to it contains an
unguarded write. Reads that this proves safe need no check when executed, and almost all are; the others are checked thread by
thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What one instruction does: registers read and written, and where control goes (indices; none at the end)."""

    reads: frozenset[str]
    writes: frozenset[str]
    guarded: bool
    successors: tuple[int, ...]


def doubtful_reads(usages: Sequence[Usage]) -> Mapping[int, frozenset[str]]:
    """instruction index -> the registers it reads that some path leaves unwritten."""
    everything = frozenset[str]().union(*(usage.reads | usage.writes for usage in usages))
    starts = _block_starts(usages)
    assigned = dict.fromkeys(starts, everything)
    if not usages:
        return {}
    assigned[0] = frozenset()
    pending = list(starts)
    while pending:
        start = pending.pop()
        after, last = assigned[start], start
        for last in _block(start, starts, len(usages)):
            if not usages[last].guarded:
                after |= usages[last].writes
        for successor in usages[last].successors:
            if successor in assigned and not assigned[successor] <= after:
                assigned[successor] &= after
                pending.append(successor)
    found: dict[int, frozenset[str]] = {}
    for start in starts:
        present = set(assigned[start])
        for i in _block(start, starts, len(usages)):
            if missing := usages[i].reads - present:
                found[i] = missing
            if not usages[i].guarded:
                present |= usages[i].writes
    return found


def _block_starts(usages: Sequence[Usage]) -> frozenset[int]:
    starts = {0}
    for i, usage in enumerate(usages):
        if usage.successors != (i + 1,):
            starts |= {i + 1, *usage.successors}
    return frozenset(start for start in starts if start < len(usages))


def _block(start: int, starts: frozenset[int], end: int) -> Iterable[int]:
    yield start
    for i in range(start + 1, end):
        if i in starts:
            return
        yield i
