"""`python -m tests.support.guard_pages ISA`: every kernel on buffers that end, or begin, where a page begins that may not be
touched.

A read or write of a single byte beyond a buffer ends the process by a signal, so tests run this as a process of its own.
`python -m tests.support.guard_pages ISA --fault` gives a kernel a buffer whose last byte lies behind that border: the control.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.cpu import native
from geluless.engine.cpu.lowering import Attention, Elementwise, Layer, Norm

_kept: list[mmap.mmap] = []  # numpy arrays point into them


def _protect(address: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def at_the_border(array: NDArray, *, end: bool, beyond: int = 0) -> NDArray:
    """A copy of `array` directly before (or behind) a forbidden page; its last `beyond` bytes are already forbidden."""
    page = mmap.PAGESIZE
    size = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, size + 2 * page)
    _kept.append(memory)
    everything = np.frombuffer(memory, np.uint8)
    start = page + (size - array.nbytes + beyond if end else 0)
    copy = everything[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    address = everything.ctypes.data
    _protect(address, page)
    _protect(address + page + size, page)
    return copy


Place = Callable[[NDArray], NDArray]


def _layers(rng: np.random.Generator, inputs: int, outputs: int) -> list[Layer]:
    real = rng.uniform(0.001, 0.01, outputs).astype(np.float32)
    layer = Layer(
        epilogue="fixed_relu",
        inputs=inputs,
        outputs=outputs,
        signed_input=False,
        weight=rng.integers(-127, 128, (outputs, inputs), np.int8),
        bias=rng.integers(-1000, 1000, outputs, np.int32),
        shift=rng.integers(0, 9, outputs, np.int32),
        multiplier=rng.integers(0, 32767, outputs, np.int16),
        scale=real,
        gain=real,
        offset=real,
        lut=rng.integers(0, 256, 256, np.uint8),
    )
    names = [f"fixed_{output}" for output in ("relu", "u8", "s16", "residual", "lut", "ibert_gelu", "shift_gelu")]
    names += [f"two_stage_{output}" for output in ("u8", "s16", "residual")]
    names += [f"fp32_{output}" for output in ("relu", "gelu_erf", "gelu_tanh", "gelu_poly", "u8")]
    return [replace(layer, epilogue=name) for name in names]


def run_gemms(isa: str, place: Place) -> int:
    rng, calls = np.random.default_rng(0), 0
    for rows, inputs, outputs in ((1, 1, 1), (5, 3, 15), (7, 64, 64), (13, 66, 97), (6, 31, 33), (3, 100, 130)):
        x = place(rng.integers(0, 256, (rows, -(-inputs // 4) * 4), np.uint8))
        row_index = place(rng.permutation(rows).astype(np.int32))
        for layer in _layers(rng, inputs, outputs):
            residual, s16 = layer.epilogue.endswith("residual"), layer.epilogue.endswith("s16")
            output = place(np.zeros((rows, outputs), np.int16 if residual or s16 else np.uint8))
            kernel = native().KernelLayer(isa, layer)
            kernel.run(x, output, 0, kernel.panels, row_index if residual else None)
            calls += 1
    return calls


def run_elementwise(isa: str, place: Place) -> int:
    rng, calls = np.random.default_rng(3), 0
    for rows, columns in ((1, 1), (5, 15), (3, 16), (2, 33), (4, 64), (2, 130)):
        gain, offset = rng.uniform(-2, 2, (2, columns)).astype(np.float32)
        for kernel, dtype in (("relu_s16", np.int16), ("relu_u8", np.uint8), ("gelu_tanh_u8", np.uint8)):
            x = place(rng.integers(0, 256, (rows, columns)).astype(dtype))
            spec = Elementwise(kernel, gain, offset, 3, 3, 250, 30.0, 0.05)
            native().KernelElementwise(isa, spec, columns).run(x, place(np.zeros((rows, columns), np.uint8)))
            calls += 1
    return calls


def run_norms(isa: str, place: Place) -> int:
    rng, calls = np.random.default_rng(1), 0
    for width in (1, 7, 15, 16, 17, 31, 33, 64, 65, 96, 127):
        for segments in (1, 4):
            stream = place(rng.integers(-32768, 32768, (9, width), np.int16))
            row_index = place(rng.integers(0, 9, (5, segments), np.int32))
            affine = rng.uniform(-9, 9, (2, segments * width)).astype(np.float32)
            for norm in (Norm(1, 40.0, None, None), Norm(1, 1.0, *affine)):
                for dtype in (np.uint8, np.int16):
                    kernel = native().KernelNorm(isa, norm, segments, width)
                    kernel.run(stream, row_index, place(np.zeros((5, segments * width), dtype)))
                    calls += 1
    return calls


def run_attentions(isa: str, place: Place) -> int:
    rng, calls = np.random.default_rng(2), 0
    for window in ((1, 1), (1, 3), (3, 3), (4, 4), (7, 7), (1, 17), (5, 13)):
        for head_dim in (1, 5, 31, 32, 33, 64, 70):
            tokens, heads = window[0] * window[1], 2
            bias = rng.integers(-99, 99, ((2 * window[0] - 1) * (2 * window[1] - 1), heads)).astype(np.int16)
            scores = (np.full(heads, 4, np.int32), np.full(heads, 900, np.int16), np.ones(heads, np.float32))
            spec = Attention(heads, head_dim, window, (0, 0), bias, *scores, pad=None)
            mask = (rng.random((tokens, tokens)) < 0.3).astype(np.uint8)
            kernel = native().KernelAttention(isa, spec, place(mask), place(rng.integers(0, 256, 128, np.uint8)))
            qkv = place(rng.integers(0, 256, (tokens, 3 * heads * head_dim), np.uint8))
            kernel.run(qkv, place(np.zeros((tokens, heads * head_dim), np.uint8)))
            calls += 1
    return calls


def main(isa: str, *options: Any) -> None:
    if "--fault" in options:
        output = np.zeros((1, 64), np.uint8)
        layer = _layers(np.random.default_rng(0), 8, 64)[0]
        native().KernelLayer(isa, layer).run(at_the_border(np.zeros((1, 8), np.uint8), end=True, beyond=1), output, 0, 1)
        return
    calls = 0
    for end in (True, False):
        for run in (run_gemms, run_elementwise, run_norms, run_attentions):
            calls += run(isa, lambda array, end=end: at_the_border(array, end=end))  # type: ignore[misc]
    print(f"{calls} calls")


if __name__ == "__main__":
    main(*sys.argv[1:])
