"""The thread blocks that execute together: NumPy's cost per operation is shared by all their threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ptxsim.copies import Copies
from ptxsim.errors import PtxError
from ptxsim.memory import Fault, GlobalMemory, Offsets, SharedMemory
from ptxsim.operands import Cell
from ptxsim.races import RaceLog
from ptxsim.scalars import Row
from ptxsim.syntax import Instruction

WARP = 32


class Wave:
    """`rows[i]` is operand cell i: [threads], or [1] if all threads share it. Threads are numbered block after block."""

    def __init__(
        self,
        cells: Sequence[Cell],
        parameters: dict[str, Row],
        memory: GlobalMemory,
        *,
        blocks: NDArray[np.int64],  # [blocks, 3]: x, y, z of each
        grid: tuple[int, int, int],
        block_threads: int,
        shared_bytes: int,
        check_races: bool,
    ) -> None:
        self.blocks, self.block_threads = blocks, block_threads
        self.threads = len(blocks) * block_threads
        self.warps = self.threads // WARP
        self.memory = memory
        self.shared = SharedMemory(shared_bytes, len(blocks))
        self.thread_numbers = np.arange(self.threads)
        self.block_of = self.thread_numbers // block_threads
        self.copies = Copies(self.threads)
        self.races = RaceLog(self.shared.bytes.size, self.copies, self.fault) if check_races else None
        self.rows = self._rows(cells, parameters, grid)

    def fault(self, instruction: Instruction, thread: int, reason: str) -> PtxError:
        """The error to raise for what `thread` (of the wave) does wrong."""
        return PtxError(f"{instruction}: {self.name(thread)}: {reason}")

    def name(self, thread: int) -> str:
        x, y, z = self.blocks[thread // self.block_threads]
        return f"thread {thread % self.block_threads} of block ({x}, {y}, {z})"

    def spread(self, row: Row) -> Row:
        """[threads] of a row that may be [1]."""
        return row if len(row) == self.threads else np.broadcast_to(row, self.threads)

    def locate(
        self, instruction: Instruction, threads: NDArray[np.intp], addresses: Offsets, size: int, *, shared: bool
    ) -> Offsets:
        """Checked offsets into shared or global memory."""
        try:
            return self.shared.locate(addresses, size, self.block_of[threads]) if shared else self.memory.locate(addresses, size)
        except Fault as fault:
            address = int(addresses[fault.position]) % 2**64
            raise self.fault(instruction, int(threads[fault.position]), f"address {address:#x} {fault}") from None

    def _rows(self, cells: Sequence[Cell], parameters: dict[str, Row], grid: tuple[int, int, int]) -> list[Row]:
        """Views of different type of one register share its memory."""
        names = dict.fromkeys((cell.name, cell.dtype.itemsize) for cell in cells if cell.source == "register")
        # One piece of memory per width: a thousand small ones take longer to get than to use.
        registers: dict[str, Row] = {}
        for width in {width for _, width in names}:
            same = [name for name, own in names if own == width]
            registers |= zip(same, np.zeros((len(same), self.threads), f"u{width}"), strict=True)
        rows = []
        for cell in cells:
            if cell.source == "register":
                rows.append(registers[cell.name].view(cell.dtype))
            elif cell.source == "parameter":
                rows.append(parameters[cell.name].view(cell.dtype))
            elif cell.source == "special":
                rows.append(self._special(cell.name, grid).astype(np.uint32).view(cell.dtype))
            elif cell.source == "written":
                rows.append(np.zeros(self.threads, np.bool_))
            elif cell.source == "noise":
                noise = np.random.default_rng(len(rows)).integers(0, 256, self.threads * cell.dtype.itemsize, np.uint8)
                rows.append(noise.view(cell.dtype) if cell.dtype != np.bool_ else noise > 127)
            elif cell.source == "discard":
                rows.append(np.empty(self.threads, cell.dtype))
            else:
                assert cell.value is not None
                rows.append(cell.value)
        return rows

    def _special(self, name: str, grid: tuple[int, int, int]) -> NDArray[np.int64]:
        thread = self.thread_numbers % self.block_threads
        first, _, axis = name.partition(".")
        i = "xyz".index(axis) if axis else 0
        if first == "tid":
            return thread if i == 0 else np.zeros(1, np.int64)
        if first == "ctaid":
            return self.blocks[self.block_of, i]
        if first == "laneid":
            return thread % WARP
        if first == "warpid":
            return thread // WARP
        sizes = {"ntid": (self.block_threads, 1, 1), "nctaid": grid, "nwarpid": (self.block_threads // WARP,)}
        return np.array([sizes[first][i]], np.int64)
