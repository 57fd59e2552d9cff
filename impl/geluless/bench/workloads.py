"""What can be timed by name: every CPU kernel at Swin-T's shapes with each epilogue, and whole networks.

A workload's call returns its output, so that whoever times it can verify it first. Input and output of a kernel lie in a
mapping of their own at fixed distances: a buffer at another place takes up to 7 % more or less time, in every process alike.
Weights and inputs are random and the same everywhere: an integer kernel takes the same time whatever it multiplies.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.bench.entries import Loaded, Verified
from geluless.bench.harness import Row
from geluless.bench.kernels import MULTIPLIER, SHIFT, STAGES
from geluless.bench.networks import SIZES, random_artifact, random_images
from geluless.bench.paired import WallClock
from geluless.bench.process import CandidateFailure, Status
from geluless.bench.verification import verify_call
from geluless.engine.cpu import choose_isa, native
from geluless.engine.cpu.lowering import Attention, Layer, Norm, shift_gelu_constants
from geluless.engine.engine import Engine
from geluless.integer.plan import Linear, Mlp, Rounding

Call = Callable[[], NDArray[Any]]

LAYERS = {
    "qkv": (1, 3, "fixed_u8"),
    "proj": (1, 1, "fixed_residual"),
    "fc1": (1, 4, "fixed_relu"),
    "fc2": (4, 1, "fixed_residual"),
}
EPILOGUES = (
    *("fixed_relu", "fixed_u8", "fixed_s16", "fixed_residual", "fixed_lut", "fixed_shift_gelu"),
    *("fp32_relu", "fp32_gelu_erf", "fp32_gelu_poly", "fp32_u8", "two_stage_u8"),
)
# fc1 of the first stage (rows, outputs, inputs), where the inner dimension is shortest and an epilogue weighs most.
FC1 = (784, 384, 96)
HEADS, HEAD_DIM, TOKENS = 3, 32, 49  # of one window
NETWORK_VARIANTS = ("relu", "gelu-separate", "gelu-lut")
LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Workload:
    """`build(isa)` makes the call. `problem(isa, output)` says what is wrong with its first output, or None. `macs`:
    multiplications of one call, 0 where they are not the point."""

    name: str
    macs: int
    build: Callable[[str], Call]
    problem: Callable[[str, NDArray[Any]], str | None]


@dataclass(frozen=True)
class WorkloadEntry:
    """One of `workloads`, on the best instruction set of the process that times it."""

    name: str

    @property
    def shared(self) -> object:
        return self.name

    def load(self, expected: str | None, verified: Verified) -> Loaded:
        """Raises CandidateFailure where the output is wrong, or other than `expected`."""
        workload, isa = workloads()[self.name], choose_isa(None)
        call = workload.build(isa)
        output = call().copy()
        digest = hashlib.sha256(output.tobytes()).hexdigest()
        problem = workload.problem(isa, output) if expected is None else None
        if expected not in (None, digest):
            problem = "other output than in the first process"
        if problem:
            raise CandidateFailure(Status.WRONG, problem)
        row = Row(self.name, "", "workload", "", correctness="verified", isa=isa, output=digest, verified=True)
        return Loaded(call, row, WallClock())


def workloads() -> dict[str, Workload]:
    """All of them by name. The names are kept: to the gate a benchmark that was renamed is one that vanished."""
    found = [*_gemms(), *_epilogues(), *_norms(), *_attentions(), *_networks()]
    return {workload.name: workload for workload in found}


def _gemms() -> list[Workload]:
    return [
        _gemm(f"gemm/stage{stage}-{layer}", rows, up * channels, down * channels, epilogue)
        for stage, (rows, channels) in enumerate(STAGES, start=1)
        for layer, (down, up, epilogue) in LAYERS.items()
    ]


def _epilogues() -> list[Workload]:
    return [_gemm(f"epilogue/{epilogue}", *FC1, epilogue) for epilogue in EPILOGUES]


def _norms() -> list[Workload]:
    return [
        _kernel(f"norm/stage{stage}", 0, partial(layer_norm, tokens=tokens, channels=channels))
        for stage, (tokens, channels) in enumerate(STAGES, start=1)
    ]


def _attentions() -> list[Workload]:
    macs = 2 * HEADS * TOKENS * TOKENS * HEAD_DIM
    masks = {"plain": False, "masked": True}
    return [_kernel(f"attention/{name}", macs, partial(attention, masked=masked)) for name, masked in masks.items()]


def _gemm(name: str, rows: int, outputs: int, inputs: int, epilogue: str) -> Workload:
    build = partial(gemm, rows=rows, outputs=outputs, inputs=inputs, epilogue=epilogue)
    return _kernel(name, rows * outputs * inputs, build)


def _kernel(name: str, macs: int, build: Callable[[str], Call]) -> Workload:
    """Verified against the same kernel in portable C++, which the tests compare with the reference, bit for bit."""

    def problem(isa: str, output: NDArray[Any]) -> str | None:
        if "portable" not in native().available():
            return "this build has no portable kernels to verify against"
        expected = build("portable")()
        moved = np.count_nonzero(output != expected)
        return f"{moved} of {expected.size} values are not the portable kernel's" if moved else None

    return Workload(name, macs, build, problem)


def _networks() -> list[Workload]:
    return [_network(f"network/tiny-{variant}", SIZES["tiny"], variant) for variant in NETWORK_VARIANTS]


def _network(name: str, model: str, variant: str) -> Workload:
    """One image through a network with random weights, on one thread -> float32 [1, classes]."""

    def engine_for(isa: str) -> tuple[Engine, NDArray[np.float32]]:
        artifact = random_artifact(model, relu=variant.startswith("relu"))
        return Engine(artifact, "cpu", variant=variant, threads=1, isa=isa), random_images(artifact, 1)

    def build(isa: str) -> Call:
        engine, images = engine_for(isa)
        return lambda: engine(images)

    def problem(isa: str, output: NDArray[Any]) -> str | None:
        engine, images = engine_for(isa)
        correctness, good = verify_call(engine, images, lambda: output)
        return None if good else correctness

    return Workload(name, 0, build, problem)


def gemm(isa: str, *, rows: int, outputs: int, inputs: int, epilogue: str) -> Call:
    """uint8 [rows, inputs] times int8 [outputs, inputs] -> uint8 or int16 [rows, outputs]."""
    kernel = native().KernelLayer(isa, _layer(epilogue, outputs, inputs))
    wide = epilogue in ("fixed_s16", "fixed_residual")
    buffers = Buffers(rows * inputs + 2 * rows * outputs)
    x = buffers.take((rows, inputs), np.uint8)
    out = buffers.take((rows, outputs), np.int16 if wide else np.uint8)
    x[:] = np.random.default_rng(1).integers(0, 256, x.shape)
    index = np.arange(rows, dtype=np.int32) if epilogue == "fixed_residual" else None

    def call() -> NDArray[Any]:
        kernel.run(x, out, 0, kernel.panels, index)
        return out

    return call


def layer_norm(isa: str, *, tokens: int, channels: int) -> Call:
    """int16 [tokens, channels] -> uint8 [tokens, channels]."""
    kernel = native().KernelNorm(isa, Norm(channels * channels, 40.0, None, None), 1, channels)
    buffers = Buffers(3 * tokens * channels)
    stream, out = buffers.take((tokens, channels), np.int16), buffers.take((tokens, channels), np.uint8)
    stream[:] = np.random.default_rng(2).integers(-3000, 3000, stream.shape)
    index = np.arange(tokens, dtype=np.int32)[:, None]

    def call() -> NDArray[Any]:
        kernel.run(stream, index, out)
        return out

    return call


def attention(isa: str, *, masked: bool) -> Call:
    """One window of three heads: uint8 [tokens, 3 x heads x dim] -> uint8 [tokens, heads x dim]."""
    rng = np.random.default_rng(3)
    spec = Attention(
        HEADS,
        HEAD_DIM,
        (7, 7),
        (0, 0),
        rng.integers(-300, 300, (169, HEADS)).astype(np.int16),
        np.full(HEADS, 3, np.int32),
        np.full(HEADS, MULTIPLIER, np.int16),
        np.full(HEADS, 1.0, np.float32),
        None,
    )
    hidden = np.zeros((TOKENS, TOKENS), np.uint8)
    hidden[:28, 28:] = hidden[28:, :28] = masked
    table = np.rint(255 * np.exp(-np.arange(128) / 20)).astype(np.uint8)
    kernel = native().KernelAttention(isa, spec, hidden, table)
    buffers = Buffers(4 * TOKENS * HEADS * HEAD_DIM)
    qkv = buffers.take((TOKENS, 3 * HEADS * HEAD_DIM), np.uint8)
    out = buffers.take((TOKENS, HEADS * HEAD_DIM), np.uint8)
    qkv[:] = rng.integers(0, 256, qkv.shape)

    def call() -> NDArray[Any]:
        kernel.run(qkv, out)
        return out

    return call


class Buffers:
    """Arrays one behind the other in pages of their own, each at the start of a cache line."""

    def __init__(self, size: int) -> None:
        self._memory = np.frombuffer(mmap.mmap(-1, size + 8 * LINE), np.uint8)
        self._used = 0

    def take(self, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        taken = self._memory[self._used : self._used + size].view(kind).reshape(shape)
        self._used += -(-size // LINE) * LINE
        return taken


def _layer(epilogue: str, outputs: int, inputs: int) -> Layer:
    rng = np.random.default_rng(0)
    ones = np.full(outputs, 1e-3, np.float32)
    linear = Linear(inputs, outputs, 0, 255, Rounding.SINGLE, 40, 0, 255)
    mlp = Mlp(linear, linear, True, 0.0213, 9, 0.0317, 40, 0.05)
    lut, gelu = shift_gelu_constants(mlp)
    return Layer(
        epilogue,
        inputs,
        outputs,
        True,
        rng.integers(-127, 128, (outputs, inputs)).astype(np.int8),
        np.zeros(outputs, np.int32),
        shift=np.full(outputs, SHIFT, np.int32),
        multiplier=np.full(outputs, MULTIPLIER, np.int16),
        scale=ones,
        gain=ones,
        offset=ones,
        lut=lut,
        shift_gelu=gelu,
    )
