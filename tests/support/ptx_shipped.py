"""One launch of each kind of shipped kernel, from plain arrays: what the reference says it writes, and its PTX, executed.

Every case is ragged (rows, channels and inputs that are no whole number of tiles, a padded image, a shifted window) and few of
its results lie at the ends of their range, where a wrong value would look like a right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from geluless.engine.gpu.builder import Builder
from geluless.engine.gpu.compiler import Compiled, Target, compile_source, source_of
from geluless.engine.gpu.epilogues import HALF, OFFSET, Epilogue
from geluless.engine.gpu.executors.launch_args import argument_values
from geluless.engine.gpu.executors.ptx import order_of
from geluless.engine.gpu.program import Launch
from geluless.engine.gpu.tiles import Architecture, Tiles
from geluless.integer import plan as p
from geluless.integer import reference
from geluless.integer.requantization import Requant, requantize
from ptxsim import GlobalMemory, Kernel, execute, parse

FILLER = 99
BLOCKS = Architecture("sm_89", 89, 1, block_m=(64,), block_n=(64,), norm_elements=1024)


@dataclass(frozen=True)
class Case:
    """One launch, its arrays, and what `result` must then hold."""

    launch: Launch
    compiled: Compiled
    arrays: dict[str, np.ndarray]
    result: str
    want: np.ndarray

    @property
    def ptx(self) -> str:
        return self.compiled.assembly

    def run(self, kernel: Kernel | None = None, *, check_races: bool = True) -> np.ndarray:
        """What the launch writes, executed from its PTX or from another kernel in its place."""
        memory = GlobalMemory()
        addresses = {name: memory.put(array) for name, array in self.arrays.items()}
        values = argument_values(self.launch, addresses)
        execute(
            kernel or parse(self.ptx),
            memory,
            [values[name] for name in order_of(self.compiled.source)],
            grid=self.launch.grid,
            warps=self.compiled.warps,
            shared_bytes=self.compiled.shared_bytes,
            check_races=check_races,
        )
        return memory.get(addresses[self.result], self.want.shape, self.arrays[self.result].dtype)


def _case(build: Builder, want: np.ndarray, **arrays: np.ndarray) -> Case:
    program = build.finished()
    (launch,) = program.launches
    compiled = compile_source(source_of(launch, program.buffers), Target.parse("sm_89"))
    constants = {name: buffer.data for name, buffer in program.buffers.items() if buffer.data is not None}
    return Case(launch, compiled, constants | arrays, launch.writes, want)


def _builder(tensors: dict[str, np.ndarray], **scratch: np.ndarray) -> Builder:
    build = Builder(tensors, 1, Tiles(BLOCKS))
    for name, array in scratch.items():
        build.scratch(name, array.dtype.name, array.size)
    return build


@cache
def linear_case() -> Case:
    """fc1 with ReLU: 100 rows, 200 inputs (seven steps, the last not whole), 200 channels."""
    rng = np.random.default_rng(1)
    rows, inputs, outputs = 100, 200, 200
    x, weight = (rng.integers(-128, 128, (n, inputs)).astype(np.int8) for n in (rows, outputs))
    requant = Requant(
        rng.integers(-50_000, 100_000, outputs).astype(np.int32),
        rng.integers(700, 1000, outputs).astype(np.int32),
        rng.integers(5, 7, outputs).astype(np.uint8),
    )
    want = requantize(x.astype(np.int32) @ weight.T.astype(np.int32), requant, low=0, high=255) - OFFSET
    out = np.full(want.size, FILLER, np.int8)
    bias = requant.bias.astype(np.int64) + requant.half
    epilogue = Epilogue("relu", bias, requant.multiplier, requant.shift, rounding=HALF - (OFFSET << 15))
    build = _builder({"fc1.weight": weight}, x=x, out=out)
    spec = p.Linear(inputs, outputs, -128, 127, p.Rounding.SINGLE, 0, 0, 255)
    build.linear("fc1", spec, epilogue, "x", "out", rows)
    return _case(build, want, x=x, out=out)


@cache
def attention_case() -> Case:
    """Two heads of 32 over an image of 10 x 9 tokens: four windows of 49, padded and shifted."""
    rng = np.random.default_rng(2)
    heads, depth, window, shift, height, width = 2, 32, (7, 7), (3, 3), 10, 9
    channels = heads * depth
    qkv_spec = p.Linear(channels, 3 * channels, -128, 127, p.Rounding.SINGLE, 0, -128, 127)
    proj = p.Linear(channels, channels, -128, 127, p.Rounding.SINGLE, 0, -(2**15), 2**15 - 1)
    block = p.Block(None, qkv_spec, p.Attention(heads, depth, window, shift), proj, None, None)  # type: ignore[arg-type]
    stage = p.Stage(height, width, channels, 0.001, None, (block,))
    table = rng.integers(-900, 900, (169, heads)).astype(np.int16)
    extremes = rng.choice([-(2**15), 2**15 - 1], table.shape)  # sums with which must saturate
    table = np.where(rng.random(table.shape) < 0.2, extremes, table).astype(np.int16)
    tensors = {
        "attn.qkv.weight": rng.integers(-127, 128, (3 * channels, channels)).astype(np.int8),
        "attn.qkv.bias": rng.integers(-20_000, 20_000, 3 * channels).astype(np.int32),
        "attn.qkv.multiplier": rng.integers(700, 1000, 3 * channels).astype(np.int16),
        "attn.qkv.shift": np.full(3 * channels, 5, np.uint8),
        "attn.qkv.pad": rng.integers(-90, 90, 3 * channels).astype(np.int8),
        "attn.bias_table": table,
        "attn.score_shift": np.array([4, 5], np.uint8),
        "attn.score_multiplier": np.array([500, 800], np.int16),
        "attn.output_multiplier": np.array([0.9, 1.2], np.float32),
        "softmax_table": np.rint(255 * np.exp(-np.arange(128) / 20)).astype(np.uint8),
    }
    x = rng.integers(-128, 128, (1, height, width, channels)).astype(np.int32)
    qkv = reference.linear(x, "attn.qkv", qkv_spec, tensors).astype(np.int8)
    want = reference.attention(x, "attn", block, stage, tensors)[0]
    out = np.full(want.size, FILLER, np.int8)
    build = _builder(tensors, qkv=qkv, out=out)
    build.constant("softmax_table", tensors["softmax_table"], np.uint8)
    build.attention("attn", block, stage, "qkv", "out")
    return _case(build, want, qkv=qkv, out=out)


@cache
def norm_case() -> Case:
    """37 rows of 96 channels with gain and offset, to int8."""
    rng = np.random.default_rng(3)
    norm = p.Norm(96, 12345, 1.0, True, -128, 127)
    x = (rng.integers(-(2**15), 2**15, (37, 96)) * rng.uniform(0.05, 1.0, (37, 1))).astype(np.int16)
    tensors = {"n.gain": rng.uniform(10, 50, 96).astype(np.float32), "n.offset": rng.uniform(-30, 30, 96).astype(np.float32)}
    want = reference.layer_norm(x.astype(np.int32), "n", norm, tensors)
    out = np.full(want.size, FILLER, np.int8)
    build = _builder(tensors, x=x, out=out)
    build.norm("n", norm, "x", "out", len(x))
    return _case(build, want, x=x, out=out)


CASES: dict[str, Callable[[], Case]] = {"int8_linear": linear_case, "window_attention": attention_case, "layer_norm": norm_case}
