"""Single kernels as entries of a study: fc1's matrix product of one stage with one epilogue."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.bench.entries import Loaded, Verified, peak_loop, slowed
from geluless.bench.harness import Row
from geluless.bench.paired import WallClock
from geluless.bench.process import CandidateFailure, Status

STAGES = ((3136, 96), (784, 192), (196, 384), (49, 768))  # Swin-T at 224: tokens, channels
SHIFT, MULTIPLIER = 6, 3000
EPILOGUES = ("fixed_relu", "fixed_s8")  # saturated to 0..255, which is ReLU; and to -128..127, which is no activation


@dataclass(frozen=True)
class KernelEntry:
    """uint8 [rows, inputs] times int8 [outputs, inputs], requantized; `repeats` products make one call."""

    name: str
    epilogue: str
    rows: int
    outputs: int
    inputs: int
    repeats: int = 1
    handicap: float = 0.0  # time added to each call, as a fraction of it

    @property
    def shared(self) -> object:
        return (self.rows, self.outputs, self.inputs)  # the buffers

    @property
    def macs(self) -> int:
        return self.rows * self.outputs * self.inputs * self.repeats

    def load(self, expected: str | None, verified: Verified) -> Loaded:
        """Raises CandidateFailure when its output is not what the specification says."""
        from geluless.engine.cpu import choose_isa, native
        from geluless.engine.cpu.lowering import Layer

        if self.epilogue not in EPILOGUES:
            raise ValueError(f"no kernel entry has the epilogue {self.epilogue!r}: there are {', '.join(EPILOGUES)}")
        isa = choose_isa(None)
        weight = np.random.default_rng(0).integers(-127, 128, (self.outputs, self.inputs)).astype(np.int8)
        stored, out = _buffers(self.rows, self.inputs, self.outputs)
        layer = Layer(
            self.epilogue,
            self.inputs,
            self.outputs,
            True,
            weight,
            np.full(self.outputs, 1 << SHIFT - 1, np.int32),
            shift=np.full(self.outputs, SHIFT, np.int32),
            multiplier=np.full(self.outputs, MULTIPLIER, np.int16),
        )
        kernel = native().KernelLayer(isa, layer)

        def call() -> None:
            for _ in range(self.repeats):
                kernel.run(stored, out, 0, kernel.panels)

        call()
        wanted = self._specified(stored, weight)
        if wrong := np.count_nonzero(out.view(wanted.dtype) != wanted):
            reason = f"{self.name} is not timed: WRONG: {wrong} of {wanted.size} values are not as specified"
            raise CandidateFailure(Status.WRONG, reason)
        row = Row(
            name=self.name,
            variant=self.epilogue,
            model="fc1",
            artifact=(shape := f"{self.rows}x{self.outputs}x{self.inputs}"),
            correctness="equal to the specification",
            isa=isa,
            input=hashlib.sha256(stored.tobytes()).hexdigest(),
            output=hashlib.sha256(out.tobytes()).hexdigest(),
            verified=True,
            memory_bytes=weight.nbytes,
            macs=self.macs,
            group=shape,
        )
        return Loaded(slowed(call, self.handicap) if self.handicap else call, row, WallClock(peak=peak_loop(isa)))

    def _specified(self, stored: NDArray[np.uint8], weight: NDArray[np.int8]) -> NDArray[Any]:
        acc = (stored.astype(np.float64) - 128) @ weight.T.astype(np.float64)  # exact: a signed byte is stored plus 128
        narrow = np.clip((acc.astype(np.int64) + (1 << SHIFT - 1)) >> SHIFT, -(2**15), 2**15 - 1)
        steps = (narrow * MULTIPLIER + (1 << 14)) >> 15
        return (
            np.clip(steps, 0, 255).astype(np.uint8)
            if self.epilogue == "fixed_relu"
            else np.clip(steps, -128, 127).astype(np.int8)
        )


@lru_cache(maxsize=1)
def _buffers(rows: int, inputs: int, outputs: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Input and output that all kernels of one shape share, if they come one after the other: a megabyte of output at another
    place takes up to 7 % more or less time, in every process alike."""
    stored = np.random.default_rng(0).integers(0, 256, (rows, inputs)).astype(np.uint8)
    return stored, np.zeros((rows, outputs), np.uint8)
