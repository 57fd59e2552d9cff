"""The GPU engine: Triton kernels for the INT8 Swin, verified on computers that have no GPU.

A plan is lowered to a program of launches (`lowering`), and an executor runs it: a CUDA device, Triton's interpreter, or ptxsim,
which runs the compiled PTX on the CPU. All three give the reference's bits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.lowering import largest_batch, lower
from geluless.engine.gpu.program import Program, Tap
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles
from geluless.errors import DataError
from geluless.integer.plan import Plan
from geluless.integer.variants import Variant

EXECUTORS = ("cuda", "interpreter", "ptx")
LARGEST_BATCH = 64  # beyond it throughput does not grow and scratch does
KEPT_PROGRAMS = 4  # batch sizes whose program stays ready


class Executor(Protocol):
    """Runs programs made for its architecture, for several threads at a time or in turn."""

    architecture: str

    def run(self, program: Program, images: NDArray[np.float32], tap: Tap | None = None) -> tuple[NDArray[Any], NDArray[Any]]: ...


def make_executor(name: str) -> Executor:
    """One of EXECUTORS. Raises MissingResource for what this computer lacks, ValueError for an unknown name."""
    from geluless.engine.gpu.compiler import require_triton

    if name not in EXECUTORS:
        raise ValueError(f"no executor is called {name!r}; there are {', '.join(EXECUTORS)}")
    require_triton()
    if name == "cuda":
        from geluless.engine.gpu.executors.cuda import CudaExecutor

        return CudaExecutor()
    if name == "interpreter":
        from geluless.engine.gpu.executors.interpreter import InterpreterExecutor

        return InterpreterExecutor()
    from geluless.engine.gpu.executors.ptx import PtxExecutor

    return PtxExecutor()


class GpuNetwork:
    """A network for one variant on one executor; batches above LARGEST_BATCH are cut into pieces. Safe for several threads."""

    def __init__(
        self, plan: Plan, tensors: Mapping[str, NDArray[Any]], variant: Variant, *, executor: str | Executor = "cuda"
    ) -> None:
        self.executor = make_executor(executor) if isinstance(executor, str) else executor
        self.tiles = Tiles(ARCHITECTURES[self.executor.architecture], getattr(self.executor, "tuned", {}))
        self._plan, self._tensors, self._variant = plan, tensors, variant
        self._largest = min(LARGEST_BATCH, largest_batch(plan))
        self._programs: OrderedDict[int, Program] = OrderedDict()
        self._lock = threading.Lock()

    def program(self, batch: int) -> Program:
        """The launches for one batch size. The last few sizes are kept; the others go, and with them what an executor loaded."""
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

    def run(self, images: NDArray[np.float32], tap: Tap | None = None) -> NDArray[np.float32]:
        """float32 [B, C, H, W] -> float32 logits [B, classes]. Raises DataError for NaN or infinite pixels."""
        logits: list[NDArray[Any]] = []
        for program, piece in self.pieces(images):
            values, unusable = self.executor.run(program, piece, tap)
            if unusable.any():
                first = sum(map(len, logits)) + int(np.argmin(np.isfinite(piece).all((1, 2, 3))))
                raise DataError(f"image {first} of the batch holds NaN or infinite pixels")
            logits.append(values)
        return np.concatenate(logits)

    def trace(self, images: NDArray[np.float32], tap: Tap) -> NDArray[np.float32]:
        """`run`, launch by launch; `tap` gets every intermediate tensor that the reference names, int32 [rows, channels]."""
        return self.run(images, tap)
