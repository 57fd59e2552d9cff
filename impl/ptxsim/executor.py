"""Run a kernel over a grid: thread blocks in waves, a wave in lock-step, divergence by the least address.

While all threads of a wave are at the same block of instructions, its steps run without masks. When a branch parts them, those
at the least address run until they meet the others: min-PC, which reconverges behind every structured branch and loop. Threads
at a barrier wait until their thread block is complete.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ptxsim.decoding import Block, Kernel
from ptxsim.errors import PtxError
from ptxsim.memory import GlobalMemory
from ptxsim.scalars import Row
from ptxsim.steps import Mask
from ptxsim.syntax import Parameter
from ptxsim.wave import WARP, Wave

WAVE_THREADS = 4096  # NumPy's cost per operation is then small against its cost per element, and registers stay in the cache
MOST_BLOCKS = 1_000_000  # executed by one wave: a loop that never ends is found out
LARGEST_BLOCK = 32  # warps of a thread block
HIDDEN_PARAMETERS = 2  # that Triton adds: pointers to global and profiling scratch memory


def execute(
    kernel: Kernel,
    memory: GlobalMemory,
    arguments: Sequence[int | float],
    *,
    grid: tuple[int, int, int] = (1, 1, 1),
    warps: int = 4,
    shared_bytes: int = 0,
    check_races: bool = True,
    wave_threads: int = WAVE_THREADS,
) -> Counter[str]:
    """Run `kernel`; it changes `memory`. Returns how often each opcode was executed, summed over warps.

    An instruction counts for every warp of which at least one thread reaches it, whatever its guard says. `shared_bytes` is the
    size of the dynamic shared array. Raises PtxError for illegal accesses, races (unless `check_races` is false), reads of
    registers never written, divergent barriers, and endless loops.
    """
    threads = WARP * warps
    if not 1 <= warps <= LARGEST_BLOCK or kernel.listing.threads not in (None, threads):
        raise PtxError(f"{kernel.name} runs with {kernel.listing.threads or 'up to 1024'} threads per block, not with {threads}")
    if min(grid) < 1:
        raise PtxError(f"a grid of {grid} has no thread blocks")
    parameters = {
        parameter.name: _argument(parameter, value)
        for parameter, value in zip(kernel.listing.parameters, _completed(kernel, arguments), strict=True)
    }
    visits = np.zeros(len(kernel.blocks), np.int64)
    blocks = np.array([(x, y, z) for z, y, x in itertools.product(*map(range, reversed(grid)))], np.int64)
    together = max(1, wave_threads // threads)
    with np.errstate(all="ignore"):  # overflow, division by zero and NaN are results, here
        for start in range(0, len(blocks), together):
            wave = Wave(
                kernel.cells,
                parameters,
                memory,
                blocks=blocks[start : start + together],
                grid=grid,
                block_threads=threads,
                shared_bytes=kernel.static_bytes + shared_bytes,
                check_races=check_races,
            )
            _Lockstep(kernel.blocks, wave, visits).run()
    executed: Counter[str] = Counter()
    for block, number in zip(kernel.blocks, visits.tolist(), strict=True):
        for opcode, occurrences in block.counts.items():
            executed[opcode] += occurrences * number
    return +executed


def _completed(kernel: Kernel, arguments: Sequence[int | float]) -> list[int | float]:
    """The arguments, and zeros for the pointers that Triton adds to every kernel."""
    parameters = kernel.listing.parameters
    missing = parameters[len(arguments) :]
    hidden = len(missing) <= HIDDEN_PARAMETERS and all(parameter.type.name == "u64" for parameter in missing)
    if len(arguments) > len(parameters) or not hidden:
        raise PtxError(f"{kernel.name} takes {len(parameters)} arguments, {len(arguments)} were given")
    return [*arguments, *(0 for _ in missing)]


def _argument(parameter: Parameter, value: int | float) -> Row:
    """Unsigned bits, shape [1]. Raises PtxError for a value that the type cannot hold."""
    kind = parameter.type
    if kind.kind == "f":
        return np.array([value], kind.dtype).view(f"u{kind.bytes}")
    if isinstance(value, float | np.floating):
        raise PtxError(f"{parameter.name} is an integer, {value!r} is not")
    if not -(1 << kind.bits - 1) <= value < 1 << kind.bits:
        raise PtxError(f"{parameter.name} has {kind.bits} bits: too few for {value}")
    return np.array([int(value) % (1 << kind.bits)], f"u{kind.bytes}")


class _Lockstep:
    """One wave's way through the blocks. A position is the number of a block, or END."""

    def __init__(self, blocks: Sequence[Block], wave: Wave, visits: NDArray[np.int64]) -> None:
        self._blocks, self._wave, self._visits = blocks, wave, visits
        self._left = MOST_BLOCKS
        self._end = len(blocks)
        self._at = np.zeros(wave.threads, np.int64)
        self._waiting = np.zeros(wave.threads, np.bool_)
        self._barrier = np.zeros(wave.threads, np.int64)  # the number of the barrier a thread waits at

    def run(self) -> None:
        position = 0
        while position != self._end:
            position = self._together(position)
        if self._wave.races:
            self._wave.races.block_barrier(None)

    def _together(self, position: int) -> int:
        """From `position`, where all threads are, to where they are all together again after parting, or to the end."""
        wave = self._wave
        while position != self._end:
            block = self._blocks[position]
            self._visits[position] += wave.warps
            taken = self._steps(block, None)
            number = wave.threads if taken is None else int(np.count_nonzero(taken))
            if not block.ending or number == 0:
                position += 1
            elif number < wave.threads:
                assert taken is not None
                return self._apart(position, taken)
            elif block.ending == "barrier":
                if wave.races:
                    wave.races.block_barrier(None)
                position += 1
            else:
                position = self._goal(block, 0)
        return position

    def _apart(self, position: int, taken: NDArray[np.bool_]) -> int:
        """`taken` threads follow the ending of the block at `position`, the others do not. Returns where all meet again."""
        everyone = np.ones(self._wave.threads, np.bool_)
        self._waiting[:] = False
        self._leave(position, everyone, taken)
        while True:
            able = ~self._waiting & (self._at < self._end)
            if not able.any():
                if self._waiting.any():
                    thread = int(np.flatnonzero(self._waiting)[0])
                    raise PtxError(f"{self._wave.name(thread)} waits forever: its block has parted over different barriers")
                return self._end
            position = int(self._at[able].min())
            mask = able & (self._at == position)
            if mask.all():
                return position
            self._visits[position] += int(np.count_nonzero(mask.reshape(-1, WARP).any(1)))
            taken_here = self._steps(self._blocks[position], mask)
            self._leave(position, mask, mask if taken_here is None else taken_here)

    def _steps(self, block: Block, mask: Mask) -> Mask:
        """Run a block; the threads that follow its ending, None for all that took part."""
        self._left -= 1
        if self._left < 0:
            raise PtxError(f"{block.last}: still running after {MOST_BLOCKS} blocks of instructions: an endless loop?")
        wave = self._wave
        for step in block.steps:
            step(wave, mask)
        if block.guard is None:
            return None
        for check in block.checks:
            check(wave, mask)
        holds = ~wave.rows[block.guard] if block.negated else wave.rows[block.guard]
        taken: NDArray[np.bool_] = holds if mask is None else holds & mask
        return taken

    def _goal(self, block: Block, thread: int) -> int:
        """Where a branch or an exit leads."""
        if block.ending == "trap":
            raise self._wave.fault(block.last, thread, "the kernel gave up")
        return block.target if block.ending == "branch" else self._end

    def _leave(self, position: int, mask: NDArray[np.bool_], taken: NDArray[np.bool_]) -> None:
        """Move the threads of the mask on, those taken by way of the block's ending."""
        block = self._blocks[position]
        self._at[mask] = position + 1
        if not block.ending or not taken.any():
            return
        if block.ending == "barrier":
            self._arrive(block, taken)
        else:
            self._at[taken] = self._goal(block, int(np.flatnonzero(taken)[0]))
        self._release()

    def _arrive(self, block: Block, taken: NDArray[np.bool_]) -> None:
        by_warp, alive = taken.reshape(-1, WARP), (self._at < self._end).reshape(-1, WARP)
        torn = np.logical_or.reduce(by_warp, 1) & np.logical_or.reduce(alive & ~by_warp, 1)
        if torn.any():
            thread = int(np.flatnonzero(by_warp & torn[:, None])[0])
            raise self._wave.fault(block.last, thread, "only a part of its warp comes to the barrier")
        self._waiting |= taken
        self._barrier[taken] = block.target

    def _release(self) -> None:
        """Let the thread blocks go of which every living thread waits at the same barrier."""
        size = self._wave.block_threads
        waiting = self._waiting.reshape(-1, size)
        complete = (waiting | (self._at >= self._end).reshape(-1, size)).all(1) & waiting.any(1)
        numbers = self._barrier.reshape(-1, size)
        highest, lowest = np.where(waiting, numbers, -1).max(1), np.where(waiting, numbers, self._end + 16).min(1)
        complete &= highest == lowest
        if complete.any():
            threads = np.repeat(complete, size)
            if self._wave.races:
                self._wave.races.block_barrier(threads)
            self._waiting &= ~threads
