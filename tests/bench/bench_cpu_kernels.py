"""Micro-benchmarks of the CPU kernels: every GEMM shape of Swin-T, every epilogue, LayerNorm and attention.

`nox -s bench` runs them (the name keeps them out of `nox -s tests`: a test never measures time). Each sample has a run of the
peak loop right before it; `share_of_peak` in the extra information is the median of their quotients. Weights are random:
an integer kernel takes the same time whatever it multiplies.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from geluless.engine.cpu import native, peak_rate
from geluless.engine.cpu.lowering import Attention, Layer, Norm, shift_gelu_constants
from geluless.engine.plan import Linear, Mlp, Rounding

ROUNDS = 60
STAGES = ((3136, 96), (784, 192), (196, 384), (49, 768))  # Swin-T at 224: tokens, channels
LAYERS = {"qkv": (1, 3, "bytes"), "proj": (1, 1, "residual"), "fc1": (1, 4, "relu"), "fc2": (4, 1, "residual")}
GEMMS = [
    pytest.param(rows, up * c, down * c, epilogue, id=f"stage{stage}-{name}-{rows}x{up * c}x{down * c}")
    for stage, (rows, c) in enumerate(STAGES, start=1)
    for name, (down, up, epilogue) in LAYERS.items()
]
EPILOGUES = (
    "relu",
    "bytes",
    "words",
    "residual",
    "table",
    "shift-gelu",
    "relu-float",
    "gelu-erf",
    "gelu-polynomial",
    "after-gemm",
    "twice-bytes",
)


@pytest.fixture(params=native().available())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def timed(benchmark: BenchmarkFixture, isa: str, macs: int, call) -> None:
    """Rounds of one call each, the peak loop before every one."""
    peaks: list[float] = []
    call()
    benchmark.pedantic(call, setup=lambda: peaks.append(peak_rate(isa, repetitions=20_000)), rounds=ROUNDS, warmup_rounds=3)
    samples = np.array(benchmark.stats.stats.data)
    benchmark.extra_info["isa"] = isa
    benchmark.extra_info["macs"] = macs
    if macs:
        benchmark.extra_info["share_of_peak"] = round(float(np.median(macs / samples / np.array(peaks[-len(samples) :]))), 4)


def layer(epilogue: str, outputs: int, inputs: int) -> Layer:
    rng = np.random.default_rng(0)
    ones = np.full(outputs, 1e-3, np.float32)
    linear = Linear(inputs, outputs, 0, 255, Rounding.SINGLE, 40, 0, 255)
    mlp = Mlp(linear, linear, True, 0.0213, 9, 0.0317, 40, 0.05)
    table, gelu = shift_gelu_constants(mlp)
    return Layer(
        epilogue,
        inputs,
        outputs,
        True,
        rng.integers(-127, 128, (outputs, inputs)).astype(np.int8),
        np.zeros(outputs, np.int32),
        shift=np.full(outputs, 6, np.int32),
        multiplier=np.full(outputs, 3000, np.int16),
        scale=ones,
        gain=ones,
        offset=ones,
        table=table,
        shift_gelu=gelu,
    )


def gemm(benchmark: BenchmarkFixture, isa: str, rows: int, outputs: int, inputs: int, epilogue: str) -> None:
    kernel = native().KernelLayer(isa, layer(epilogue, outputs, inputs))
    x = np.random.default_rng(1).integers(0, 256, (rows, inputs)).astype(np.uint8)
    wide = epilogue in ("words", "residual")
    out = np.zeros((rows, outputs), np.int16 if wide else np.uint8)
    index = np.arange(rows, dtype=np.int32) if epilogue == "residual" else None
    timed(benchmark, isa, rows * outputs * inputs, lambda: kernel.run(x, out, 0, kernel.panels, index))


@pytest.mark.parametrize(("rows", "outputs", "inputs", "epilogue"), GEMMS)
def test_gemm(benchmark: BenchmarkFixture, isa: str, rows: int, outputs: int, inputs: int, epilogue: str) -> None:
    gemm(benchmark, isa, rows, outputs, inputs, epilogue)


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_fc1_epilogue(benchmark: BenchmarkFixture, isa: str, epilogue: str) -> None:
    """fc1 of the first stage, where the inner dimension is shortest and an epilogue weighs most."""
    gemm(benchmark, isa, *(784, 384, 96), epilogue)


@pytest.mark.parametrize(("tokens", "channels"), STAGES)
def test_layer_norm(benchmark: BenchmarkFixture, isa: str, tokens: int, channels: int) -> None:
    kernel = native().KernelNorm(isa, Norm(channels * channels, 40.0, None, None), 1, channels)
    stream = np.random.default_rng(2).integers(-3000, 3000, (tokens, channels)).astype(np.int16)
    index, out = np.arange(tokens, dtype=np.int32)[:, None], np.zeros((tokens, channels), np.uint8)
    timed(benchmark, isa, 0, lambda: kernel.run(stream, index, out))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_attention_of_three_heads(benchmark: BenchmarkFixture, isa: str, masked: bool) -> None:
    heads, dim, tokens = 3, 32, 49
    rng = np.random.default_rng(3)
    attention = Attention(
        heads,
        dim,
        (7, 7),
        (0, 0),
        rng.integers(-300, 300, (169, heads)).astype(np.int16),
        np.full(heads, 3, np.int32),
        np.full(heads, 3000, np.int16),
        np.full(heads, 1.0, np.float32),
        None,
    )
    hidden = np.zeros((tokens, tokens), np.uint8)
    hidden[:28, 28:] = hidden[28:, :28] = masked
    table = np.rint(255 * np.exp(-np.arange(128) / 20)).astype(np.uint8)
    kernel = native().KernelAttention(isa, attention, hidden, table)
    qkv, out = rng.integers(0, 256, (tokens, 3 * heads * dim)).astype(np.uint8), np.zeros((tokens, heads * dim), np.uint8)
    timed(benchmark, isa, 2 * heads * tokens * tokens * dim, lambda: kernel.run(qkv, out))
