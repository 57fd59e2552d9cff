"""Missing barriers, found although a wave runs in lock-step and would never suffer from them.

Between two barriers nothing orders two threads, so any two accesses to the same byte of shared memory by different threads,
one of them a write, are a race, whichever happened first here. Accesses are therefore only noted when they occur, and compared
when a barrier closes the interval: bar.sync for all threads of a block, bar.warp.sync among those of a warp. A cp.async writes
during every interval from its issue to the wait for it. Several threads may store the same value in one instruction, as
Triton's replicated layouts do.

What this does not see: races through global memory, but for different values stored in one place by one instruction (`access`):
no kernel here reads what another thread of the same launch wrote; an order that only some schedules have, for one is executed
and the intervals are its own; and accesses that this launch's data do not lead to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptxsim.copies import Copies
from ptxsim.errors import PtxError
from ptxsim.memory import Offsets
from ptxsim.syntax import Instruction

NOBODY = -1
WARP_BITS = 5  # thread number -> warp number


@dataclass(frozen=True)
class Access:
    """`size` bytes at each offset. A collective one (ldmatrix) reads on behalf of its whole warp."""

    instruction: Instruction
    threads: NDArray[np.intp]  # [n]
    offsets: Offsets  # [n]
    size: int
    writes: bool
    collective: bool = False

    def only(self, chosen: NDArray[np.bool_]) -> Access:
        return Access(self.instruction, self.threads[chosen], self.offsets[chosen], self.size, self.writes, self.collective)


class RaceLog:
    """The accesses since the last barriers."""

    def __init__(self, shared_bytes: int, copies: Copies, fault: Callable[[Instruction, int, str], PtxError]) -> None:
        self._owner = np.full(shared_bytes, NOBODY, np.int32)
        self._copies, self._fault = copies, fault
        self._recent: list[Access] = []  # since the last barrier of either kind
        self._older: list[Access] = []  # before a bar.warp.sync, since the last bar.sync

    def note(self, access: Access) -> None:
        self._recent.append(access)

    def warp_barrier(self, mask: NDArray[np.bool_] | None) -> None:
        """bar.warp.sync by the threads of the mask, None meaning all."""
        closed, self._recent = _split(self._recent, mask)
        self._compare(closed, whole_warps=False)
        self._older += closed
        self._note_copies(mask)

    def block_barrier(self, mask: NDArray[np.bool_] | None) -> None:
        """bar.sync, or the end, of the blocks whose threads are in the mask. Raises PtxError for the first race found."""
        closed, self._recent = _split(self._recent, mask)
        self._compare(closed, whole_warps=False)
        older, self._older = _split(self._older, mask)
        if older:
            self._compare(older + closed, whole_warps=True)
        self._note_copies(mask)

    def _note_copies(self, mask: NDArray[np.bool_] | None) -> None:
        """Copies that are still under way write in the next interval, too."""
        ahead = [
            Access(copy.instruction, copy.threads, copy.offsets, 4 * copy.data.shape[1], writes=True)
            for copy in self._copies.under_way
        ]
        self._recent += _split(ahead, mask)[0]

    def _compare(self, accesses: list[Access], *, whole_warps: bool) -> None:
        """Writers leave their number wherever they write; whoever else comes there is in a race. The unit of bookkeeping is the
        smallest access: sizes are powers of two and accesses aligned, so that it divides them all."""
        shift = WARP_BITS if whole_warps else 0
        writes = [access for access in accesses if access.writes]
        if not writes:
            return
        unit = min(access.size for access in accesses).bit_length() - 1
        for access in writes:
            granules, who = _granules(access, unit), access.threads[:, None] >> shift
            found = self._owner[granules]
            self._judge(access, (found != NOBODY) & (found != who), granules, writes, unit)
            self._owner[granules] = who
        for access in accesses:
            if not access.writes:
                granules = _granules(access, unit)
                found = self._owner[granules]
                strange = found != NOBODY
                if whole_warps or not access.collective:
                    strange &= found != access.threads[:, None] >> shift
                self._judge(access, strange, granules, writes, unit)
        for access in writes:
            self._owner[_granules(access, unit)] = NOBODY

    def _judge(
        self, access: Access, strange: NDArray[np.bool_], granules: NDArray[np.int64], writes: list[Access], unit: int
    ) -> None:
        if not strange.any():
            return
        i, j = np.argwhere(strange)[0]
        granule, thread = granules[i, j], int(access.threads[i])
        verb = "writes" if access.writes else "reads"
        for other in writes:
            matches = (_granules(other, unit) == granule).any(1) & ((other.threads != thread) | access.collective)
            if matches.any():
                culprit = int(other.threads[np.flatnonzero(matches)[0]])
                meets = f"thread {culprit} of the wave, which writes there in '{other.instruction}', with no barrier between"
                raise self._fault(access.instruction, thread, f"{verb} shared memory and meets {meets}")
        raise AssertionError("a granule has an owner that nobody wrote")


def _granules(access: Access, unit: int) -> NDArray[np.int64]:
    """int64 [n, granules per access]: the places of 2^unit bytes that it touches."""
    first = access.offsets[:, None] >> unit
    return first if access.size == 1 << unit else first + np.arange(access.size >> unit)


def _split(accesses: list[Access], mask: NDArray[np.bool_] | None) -> tuple[list[Access], list[Access]]:
    """(those of the mask's threads, the others)."""
    if mask is None:
        return accesses, []
    inside, outside = [], []
    for access in accesses:
        chosen = mask[access.threads]
        if chosen.any():
            inside.append(access.only(chosen))
        if not chosen.all():
            outside.append(access.only(~chosen))
    return inside, outside
