"""cp.async: what it copies stays invisible until the thread that issued it waits for it. PTX ISA 8.8, section 9.7.9.25.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptxsim.memory import Offsets, SharedMemory
from ptxsim.syntax import Instruction


@dataclass(frozen=True)
class Copy:
    """One cp.async of several threads."""

    instruction: Instruction
    threads: NDArray[np.intp]  # [n]
    offsets: Offsets  # [n], into shared memory
    data: NDArray[np.uint32]  # [n, words]
    groups: NDArray[np.int64]  # [n]: the number of the group that each thread's next commit closes

    def only(self, chosen: NDArray[np.bool_]) -> Copy:
        return Copy(self.instruction, self.threads[chosen], self.offsets[chosen], self.data[chosen], self.groups[chosen])


class Copies:
    """What is under way, in order of issue, and how many groups each thread has committed."""

    def __init__(self, threads: int) -> None:
        self.under_way: list[Copy] = []
        self._committed = np.zeros(threads, np.int64)

    def issue(self, instruction: Instruction, threads: NDArray[np.intp], offsets: Offsets, data: NDArray[np.uint32]) -> None:
        self.under_way.append(Copy(instruction, threads, offsets, data, self._committed[threads]))

    def commit(self, threads: Any) -> None:
        """`threads` is an index of the wave's threads: numbers, or a slice for all."""
        self._committed[threads] += 1

    def wait(self, shared: SharedMemory, mask: NDArray[np.bool_] | None, most: int | None) -> None:
        """Complete all but the latest `most` groups of each waiting thread; None: everything, committed or not."""
        remaining = []
        for copy in self.under_way:
            done = np.ones(len(copy.threads), np.bool_) if mask is None else mask[copy.threads]
            if most is not None:
                done &= copy.groups < self._committed[copy.threads] - most
            if done.all():
                shared.scatter(copy.offsets, copy.data)
            elif not done.any():
                remaining.append(copy)
            else:
                finished = copy.only(done)
                shared.scatter(finished.offsets, finished.data)
                remaining.append(copy.only(~done))
        self.under_way = remaining
