"""Single kernels as entries of a study: fc1's matrix product of one stage with one epilogue."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAGES = ((3136, 96), (784, 192), (196, 384), (49, 768))  # Swin-T at 224: tokens, channels
SHIFT, MULTIPLIER = 6, 3000
EPILOGUES = ("relu", "bare")  # saturated to 0..255, which is ReLU; and to -128..127, which is no activation


@dataclass(frozen=True)
class KernelEntry:
    """uint8 [rows, inputs] times int8 [outputs, inputs], requantized; `repeats` products make one call."""

    name: str
    epilogue: str
    rows: int
    outputs: int
    inputs: int
    repeats: int = 1

    @property
    def macs(self) -> int:
        return self.rows * self.outputs * self.inputs * self.repeats


@lru_cache(maxsize=1)
def _buffers(rows: int, inputs: int, outputs: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Input and output that all kernels of one shape share, if they come one after the other: a megabyte of output at another
    place takes up to 7 % more or less time, in every process alike."""
    stored = np.random.default_rng(seed).integers(0, 256, (rows, inputs)).astype(np.uint8)
    return stored, np.zeros((rows, outputs), np.uint8)


def kernel_call(entry: KernelEntry, *, seed: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """The call, and a row that says what it is. Ends the process when its output is not the law's."""
    from geluless.engine.cpu import choose_isa, native
    from geluless.engine.cpu.lowering import Layer

    if entry.epilogue not in EPILOGUES:
        raise ValueError(f"no kernel entry has the epilogue {entry.epilogue!r}: there are {', '.join(EPILOGUES)}")
    rng = np.random.default_rng(seed)
    isa = choose_isa(None)
    weight = rng.integers(-127, 128, (entry.outputs, entry.inputs)).astype(np.int8)
    stored, out = _buffers(entry.rows, entry.inputs, entry.outputs, seed)
    layer = Layer(
        entry.epilogue,
        entry.inputs,
        entry.outputs,
        True,
        weight,
        np.full(entry.outputs, 1 << SHIFT - 1, np.int32),
        shift=np.full(entry.outputs, SHIFT, np.int32),
        multiplier=np.full(entry.outputs, MULTIPLIER, np.int16),
    )
    kernel = native().KernelLayer(isa, layer)

    def call() -> None:
        for _ in range(entry.repeats):
            kernel.run(stored, out, 0, kernel.panels)

    call()
    acc = (stored.astype(np.float64) - 128) @ weight.T.astype(np.float64)  # exact: a signed byte is stored plus 128
    narrow = np.clip((acc.astype(np.int64) + (1 << SHIFT - 1)) >> SHIFT, -(2**15), 2**15 - 1)
    steps = (narrow * MULTIPLIER + (1 << 14)) >> 15
    law = np.clip(steps, 0, 255).astype(np.uint8) if entry.epilogue == "relu" else np.clip(steps, -128, 127).astype(np.int8)
    if not np.array_equal(out.view(law.dtype), law):
        wrong = f"{np.count_nonzero(out.view(law.dtype) != law)} of {law.size} values are not the law's"
        raise SystemExit(f"{entry.name} is not timed: WRONG: {wrong}")
    row = {
        "name": entry.name,
        "variant": entry.epilogue,
        "isa": isa,
        "threads": 1,
        "batch": 1,
        "artifact": f"{entry.rows}x{entry.outputs}x{entry.inputs}",
        "input": hashlib.sha256(stored.tobytes()).hexdigest(),
        "logits": hashlib.sha256(out.tobytes()).hexdigest(),
        "correctness": "equal to the law",
        "model": "fc1",
        "memory_bytes": weight.nbytes,
    }
    return call, row
