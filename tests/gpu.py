"""What the GPU engine's tests share: machines that live as long as the session, and single launches from plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from geluless.engine import plan as p
from geluless.engine.gpu import make_machine
from geluless.engine.gpu.builder import Builder
from geluless.engine.gpu.program import Program
from geluless.engine.gpu.tiles import Architecture, Tiles

# Ragged on purpose: no property test has as many rows or channels as these blocks for long.
SMALL_BLOCKS = Architecture("interpreter", None, 1, block_m=(32, 16), block_n=(64, 32), elementwise=256, norm_elements=512)
PTX_BLOCKS = Architecture("sm_89", 89, 1, block_m=(64, 32), block_n=(64, 32), elementwise=256, norm_elements=512)


@cache
def machine(name: str) -> Any:
    """One machine per session: the interpreter's process takes two seconds to start, a kernel half a second to compile."""
    pytest.importorskip("triton", reason="the GPU engine needs triton: pip install 'geluless[gpu]'")
    return make_machine(name)


def builder(
    tensors: dict[str, np.ndarray], *, batch: int = 1, architecture: Architecture | None = None, on: str = "interpreter"
) -> Builder:
    """For launches of one's own; small blocks unless told otherwise."""
    return Builder(tensors, batch, Tiles(architecture or (SMALL_BLOCKS if on == "interpreter" else PTX_BLOCKS)))


def run_launches(on: str, program: Program, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All launches of a program in order on given arrays; constants come from the program, the arrays return as they end."""
    state = {name: buffer.data for name, buffer in program.buffers.items() if buffer.data is not None} | arrays
    for launch in program.launches:
        state |= machine(on).launch(launch, state)
    return {name: state[name] for name in arrays}


def traced(engine_run: Callable[..., np.ndarray], images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(logits, intermediate tensors by name) of a GpuNetwork.run."""
    seen: dict[str, np.ndarray] = {}
    return engine_run(images, lambda name, tensor: seen.__setitem__(name, tensor)), seen


def linear_spec(
    inputs: int, outputs: int, *, unsigned_input: bool, bits: int = 8, unsigned: bool = False, zero_point: int = 0
) -> p.Linear:
    """A linear layer of a plan with the integer law."""
    low, high = (0, 255) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    below = 0 if unsigned_input else -128
    return p.Linear(inputs, outputs, below, below + 255, p.Rounding.SINGLE, zero_point, low, high)
