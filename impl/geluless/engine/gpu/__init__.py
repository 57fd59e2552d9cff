"""The GPU engine: Triton kernels for the INT8 Swin, verified on machines that have no GPU.

A plan is lowered to a program of launches (`lowering`), and a machine runs it: a CUDA device, Triton's interpreter, or an
executor of the compiled PTX on the CPU. All three give the reference's bits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.lowering import largest_batch, lower
from geluless.engine.gpu.program import Program, See
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles
from geluless.errors import DataError
from geluless.integer.plan import Plan
from geluless.integer.variants import Variant

MACHINES = ("cuda", "interpreter", "ptx")
LARGEST_BATCH = 64  # beyond it throughput does not grow and scratch does
KEPT_PROGRAMS = 4  # batch sizes whose program stays ready


class Machine(Protocol):
    """Runs programs made for its architecture, for several threads at a time or in turn."""

    architecture: str

    def run(self, program: Program, images: NDArray[np.float32], see: See | None = None) -> tuple[NDArray, NDArray]: ...


def make_machine(name: str) -> Machine:
    """One of MACHINES. Raises MissingResource for what this computer lacks, ValueError for an unknown name."""
    from geluless.engine.gpu.compiler import require_triton

    if name not in MACHINES:
        raise ValueError(f"no machine is called {name!r}; there are {', '.join(MACHINES)}")
    require_triton()
    if name == "cuda":
        from geluless.engine.gpu.executors.cuda import CudaMachine

        return CudaMachine()
    if name == "interpreter":
        from geluless.engine.gpu.executors.interpreter import InterpreterMachine

        return InterpreterMachine()
    from geluless.engine.gpu.executors.ptx import PtxMachine

    return PtxMachine()


class GpuNetwork:
    """A network for one variant on one machine; batches above LARGEST_BATCH are cut into pieces. Safe for several threads."""

    def __init__(self, plan: Plan, tensors: Mapping[str, NDArray], variant: Variant, *, machine: str | Machine = "cuda") -> None:
        self.machine = make_machine(machine) if isinstance(machine, str) else machine
        self.tiles = Tiles(ARCHITECTURES[self.machine.architecture], getattr(self.machine, "tuned", {}))
        self._plan, self._tensors, self._variant = plan, tensors, variant
        self._largest = min(LARGEST_BATCH, largest_batch(plan))
        self._programs: OrderedDict[int, Program] = OrderedDict()
        self._lock = threading.Lock()

    def program(self, batch: int) -> Program:
        """The launches for one batch size. The last few sizes are kept; the others go, and with them what a machine loaded."""
        with self._lock:
            if batch not in self._programs:
                self._programs[batch] = lower(self._plan, self._tensors, self._variant, batch=batch, tiles=self.tiles)
            self._programs.move_to_end(batch)
            if len(self._programs) > KEPT_PROGRAMS:
                self._programs.popitem(last=False)
            return self._programs[batch]

    def pieces(self, images: NDArray[np.float32]) -> list[tuple[Program, NDArray[np.float32]]]:
        """What `run` runs: a batch in pieces that a program takes, each with its program."""
        cut = [images[start : start + self._largest] for start in range(0, len(images), self._largest)]
        return [(self.program(len(piece)), piece) for piece in cut]

    def run(self, images: NDArray[np.float32], see: See | None = None) -> NDArray[np.float32]:
        """float32 [B, C, H, W] -> float32 logits [B, classes]. Raises DataError for NaN or infinite pixels."""
        logits: list[NDArray] = []
        for program, piece in self.pieces(images):
            values, unusable = self.machine.run(program, piece, see)
            if unusable.any():
                first = sum(map(len, logits)) + int(np.argmin(np.isfinite(piece).all((1, 2, 3))))
                raise DataError(f"image {first} of the batch holds NaN or infinite pixels")
            logits.append(values)
        return np.concatenate(logits)

    def trace(self, images: NDArray[np.float32], see: See) -> NDArray[np.float32]:
        """`run`, launch by launch; `see` gets every intermediate tensor that the reference names, int32 [rows, channels]."""
        return self.run(images, see)
