"""Inputs for the laws: nasty values first, shapes ragged on purpose (nothing here is a multiple of a vector width)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geluless.engine.epilogue import Requant
from geluless.engine.reference import exact_matmul

INT8_POOL = (-128, -127, -1, 0, 1, 126, 127)
UINT8_POOL = (0, 1, 127, 128, 254, 255)

dimensions = st.integers(1, 130)
small_dimensions = st.integers(1, 24)


def int8_arrays(shape: tuple[int, ...], *, low: int = -128) -> st.SearchStrategy[np.ndarray]:
    """int8 range in int32; weights use low=-127."""
    nasty = [v for v in INT8_POOL if v >= low]
    return hnp.arrays(np.int32, shape, elements=st.one_of(st.sampled_from(nasty), st.integers(low, 127)))


def uint8_arrays(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.int32, shape, elements=st.one_of(st.sampled_from(UINT8_POOL), st.integers(0, 255)))


@st.composite
def requants(draw: st.DrawFn, channels: int, *, zero_point: int = 0) -> Requant:
    """Any parameters an artifact may hold, not only those that calibration would choose."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    return Requant(
        bias=rng.integers(-(2**28), 2**28, channels, dtype=np.int32),
        multiplier=rng.integers(0, 2**15, channels, dtype=np.int32),
        shift=rng.integers(0, 31, channels).astype(np.uint8),
        zero_point=zero_point,
    )


def accumulators(rows: int, channels: int) -> st.SearchStrategy[np.ndarray]:
    """int32 [rows, channels] as sums of products can produce them: up to 2^29 with room for bias and rounding."""
    elements = st.one_of(st.sampled_from((-(2**29), -1, 0, 1, 2**29)), st.integers(-(2**29), 2**29))
    return hnp.arrays(np.int32, (rows, channels), elements=elements)


def share(part: int) -> settings:
    """1/`part` of the profile's examples, for laws whose examples are expensive."""
    return settings(max_examples=max(1, settings().max_examples // part))


# ---------------------------------------------------------------------------------------- linear layers for the compiled GEMM

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT16_POOL = (-32768, -32767, -1, 0, 1, 32766, 32767)
MULTIPLIER_POOL = (0, 1, 2**14, 32766, 32767)

seeds = st.integers(0, 2**32 - 1)


def pick(rng: np.random.Generator, shape: int | tuple[int, ...], low: int, high: int, *, nasty: tuple[int, ...]) -> np.ndarray:
    """Integers from [low, high] in int32: all of them, only the nasty ones, or both; sometimes mostly zero."""
    uniform = rng.integers(low, high, shape, dtype=np.int32, endpoint=True)
    corner = rng.choice(np.array([v for v in nasty if low <= v <= high], np.int32), shape)
    match int(rng.integers(4)):
        case 0:
            return uniform
        case 1:
            return corner
        case 2:
            return np.where(rng.random(shape) < 0.5, uniform, corner)
        case _:
            return np.where(rng.random(shape) < 0.05, uniform, np.int32(min(max(0, low), high)))


@dataclass(frozen=True)
class LinearCase:
    """A linear layer that an artifact may hold, with inputs, whose `acc + bias + half` fits int32 but not much less."""

    x: np.ndarray  # int32 [rows, inputs], real values: 0..255, or -128..127 when signed
    signed: bool
    weight: np.ndarray  # int8 [outputs, inputs]
    requant: Requant

    @property
    def stored(self) -> np.ndarray:
        """uint8 [rows, inputs]: a signed tensor is stored with 128 added."""
        return (self.x + (128 if self.signed else 0)).astype(np.uint8)

    @property
    def acc(self) -> np.ndarray:
        return exact_matmul(self.x, self.weight)

    @property
    def biased(self) -> np.ndarray:
        return self.acc + self.requant.bias


def bias_at_the_bounds(rng: np.random.Generator, acc: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Per channel the bias that takes the largest accumulator to the highest int32, or the smallest one to the lowest."""
    top = INT32_MAX - half - np.maximum(acc.max(0), 0).astype(np.int64)
    bottom = INT32_MIN - np.minimum(acc.min(0), 0).astype(np.int64)
    return np.where(rng.random(len(half)) < 0.5, top, bottom).astype(np.int32)


def linear_case(rng: np.random.Generator, rows: int, inputs: int, outputs: int, *, signed: bool) -> LinearCase:
    low, high = (-128, 127) if signed else (0, 255)
    x = pick(rng, (rows, inputs), low, high, nasty=INT8_POOL if signed else UINT8_POOL)
    weight = pick(rng, (outputs, inputs), -127, 127, nasty=(-127, 127)).astype(np.int8)
    acc = exact_matmul(x, weight)
    if rng.random() < 0.5:  # parameters that leave the outputs alive
        shift = np.clip(int(np.abs(acc).max()).bit_length() - 15 + rng.integers(-3, 4, outputs), 0, 30)
        multiplier = 2 ** rng.integers(4, 15, outputs) + rng.integers(0, 16, outputs)
    else:
        shift = pick(rng, outputs, 0, 30, nasty=(0, 1, 15, 16, 29, 30))
        multiplier = pick(rng, outputs, 0, 32767, nasty=MULTIPLIER_POOL)
    requant = Requant(np.zeros(outputs, np.int32), multiplier.astype(np.int32), shift.astype(np.uint8))
    match int(rng.integers(3)):
        case 0:
            bias = rng.integers(-(2**10), 2**10, outputs, dtype=np.int32)
        case 1:
            bias = rng.integers(-(2**28), 2**28, outputs, dtype=np.int32)
        case _:
            bias = bias_at_the_bounds(rng, acc, requant.half)
    return LinearCase(x, signed, weight, replace(requant, bias=bias))


@st.composite
def linear_cases(draw: st.DrawFn, *, signed: bool | None = None) -> LinearCase:
    """Ragged shapes up to 130: neither rows, inputs nor outputs are whole tiles, dot products or registers."""
    rows, inputs, outputs = draw(dimensions), draw(dimensions), draw(dimensions)
    rng = np.random.default_rng(draw(seeds))
    return linear_case(rng, rows, inputs, outputs, signed=bool(rng.integers(2)) if signed is None else signed)


def real_factors(rng: np.random.Generator, count: int, typical: float) -> np.ndarray:
    """float32 [count] of both signs: around `typical`, or anything finite from 1e-38 to 1e38."""
    sign = np.where(rng.random(count) < 0.8, 1.0, -1.0)
    if rng.random() < 0.6:
        return (sign * typical * rng.uniform(0.2, 3.0, count)).astype(np.float32)
    return (sign * 10.0 ** rng.uniform(-38, 38, count)).astype(np.float32)
