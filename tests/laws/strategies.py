"""Inputs for the laws: nasty values first, shapes ragged on purpose (nothing here is a multiple of a vector width)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geluless.integer import plan as p
from geluless.integer.artifact import Artifact
from geluless.integer.reference import exact_matmul
from geluless.integer.requantization import Requant, encode_multiplier
from geluless.integer.schema import FLOAT_LIMIT, POOLED, SOFTMAX_STEPS, TensorSpec, named_linears, tensor_schema
from tests.support.examples import seeds as seeds
from tests.support.examples import share as share

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


# ---------------------------------------------------------------------------------------- linear layers for the compiled GEMM

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT16_POOL = (-32768, -32767, -1, 0, 1, 32766, 32767)
MULTIPLIER_POOL = (0, 1, 2**14, 32766, 32767)


def any_of(rng: np.random.Generator, *values: Any) -> Any:
    """One of the values as it is; Generator.choice would make them all one numpy type."""
    return values[int(rng.integers(len(values)))]


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
    """float32 [count] of both signs: around `typical`, or anything up to the largest that a plan allows."""
    sign = np.where(rng.random(count) < 0.8, 1.0, -1.0)
    if rng.random() < 0.6:
        return (sign * typical * rng.uniform(0.2, 3.0, count)).astype(np.float32)
    return (sign * np.exp2(rng.uniform(-126, np.log2(FLOAT_LIMIT), count))).astype(np.float32)


# --------------------------------------------------------------------------------------- whole networks that nobody trained


def random_artifact(rng: np.random.Generator) -> Artifact:
    """Any geometry a plan allows, small, with parameters that keep most tensors alive; cheaper than quantizing a network.

    Windows are not square, grids no whole number of windows, widths odd; roundings, zero points and ranges are mixed freely.
    """
    plan = _random_plan(rng)
    return Artifact(plan, _living_tensors(rng, plan))


def _random_plan(rng: np.random.Generator) -> p.Plan:
    small = lambda high, low=1: int(rng.integers(low, high, endpoint=True))  # noqa: E731
    activation, fc1_rounding = rng.choice(list(p.Activation)), rng.choice(list(p.Rounding))

    def linear(inputs: int, outputs: int, bits: int, *, unsigned_input: bool = False, **fixed: Any) -> p.Linear:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        input_low, input_high = (0, 255) if unsigned_input else (-128, 127)
        options = {"rounding": p.Rounding(rng.choice(list(p.Rounding))), "zero_point": 0, "low": low, "high": high}
        return p.Linear(inputs, outputs, input_low, input_high, **(options | fixed))

    def norm(channels: int, bits: int) -> p.Norm:
        affine = bool(rng.integers(2))
        factor = 1.0 if affine else float(np.float32((2 ** (bits - 1)) / rng.uniform(3, 8)))
        epsilon_term = int(rng.choice([1, 1000, 2**40]))
        return p.Norm(channels, epsilon_term, factor, affine, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def block(height: int, width: int, channels: int, window: tuple[int, int]) -> p.Block:
        heads, head_dim, hidden = small(3), small(20), small(70)
        shift = tuple(small(w - 1, 0) if w < size else 0 for w, size in zip(window, (height, width), strict=True))
        relu = activation == p.Activation.RELU
        gelu_table = not relu and fc1_rounding == p.Rounding.SINGLE
        unsigned_hidden = gelu_table or bool(rng.integers(2))
        pre_zero = 0 if relu else int(rng.integers(60, 190))
        low, high = (0, 255) if gelu_table or (relu and unsigned_hidden) else (-128, 127)
        zero = pre_zero if gelu_table else 0 if relu else int(rng.choice([0, 0, 1, 100]))
        fc1 = linear(channels, hidden, 8, rounding=p.Rounding(fc1_rounding), zero_point=zero, low=low, high=high)
        fc2 = linear(hidden, channels, 16, unsigned_input=unsigned_hidden)
        mlp = p.Mlp(
            fc1=fc1,
            fc2=fc2,
            has_bias=True,
            hidden_scale=float(rng.uniform(0.01, 0.05)),
            hidden_zero_point=0 if relu else int(rng.choice([0, 3, 17])),
            pre_scale=float(rng.uniform(0.01, 0.1)),
            pre_zero_point=pre_zero,
            after_gemm_scale=float(rng.uniform(0.02, 0.08)),
        )
        attention = p.Attention(heads, head_dim, window, (shift[0], shift[1]))
        qkv, proj = linear(channels, 3 * heads * head_dim, 8), linear(heads * head_dim, channels, 16)
        return p.Block(norm(channels, 8), qkv, attention, proj, norm(channels, 8), mlp)

    height, width, channels = small(9), small(9), small(40)
    patch, planes = (small(4), small(4)), small(3)
    proj = linear(planes * patch[0] * patch[1], channels, 16, unsigned_input=True, zero_point=int(rng.choice([0, -700, 700])))
    stem = p.Stem(
        channels=planes,
        height=height * patch[0],
        width=width * patch[1],
        patch=patch,
        input_scale=float(np.float32(rng.uniform(0.01, 0.04))),
        input_zero_point=any_of(rng, 0, 255, int(rng.integers(0, 256))),
        proj=proj,
        norm=norm(channels, 16),
    )
    stages: list[p.Stage] = []
    for i in range(small(4)):
        merge = None
        if i:
            outputs = small(any_of(rng, 40, 40, 200))  # wide on small grids too: a later stage may need the larger buffer
            zero = int(rng.choice([0, 0, -300, 300]))
            merge = p.Merge(norm(4 * channels, 8), linear(4 * channels, outputs, 16, zero_point=zero))
            height, width, channels = (height + 1) // 2, (width + 1) // 2, outputs
        window = (small(5), small(5))  # of all blocks, which then differ in their shifts alone; or each has its own
        windows = [window if rng.random() < 0.6 else (small(5), small(5)) for _ in range(small(3))]
        blocks = tuple(block(height, width, channels, window) for window in windows)
        stages.append(p.Stage(height, width, channels, 0.001, merge, blocks))
    tokens, classes = height * width, small(13)
    pool, pool_shift = encode_multiplier(np.array([500 / (3000 * (tokens + 1) ** 0.5)]), bits=15)
    fc = linear(channels, classes, 32, rounding=p.Rounding.SINGLE)
    fc = replace(fc, input_low=POOLED[0], input_high=POOLED[1])
    head = p.Head(norm(channels, 16), tokens, int(pool[0]), int(pool_shift[0]), fc)
    return p.Plan(p.FORMAT, "random", "random", p.Activation(activation), stem, tuple(stages), head, {})


def _living_tensors(rng: np.random.Generator, plan: p.Plan) -> dict[str, np.ndarray]:
    tensors = {name: uniform_tensor(rng, spec) for name, spec in tensor_schema(plan).items()}
    for name, linear in named_linears(plan):
        count, wide = linear.outputs, linear.high > 255
        typical = 5000.0 * linear.inputs**0.5  # of |acc|, for weights and inputs spread over their ranges
        goal = 2500.0 if wide else 45.0
        tensors[f"{name}.bias"] = rng.normal(0, typical / 2, count).astype(np.int32)
        spread = rng.uniform(0.5, 2.0, count)
        if name == "head.fc":
            tensors["head.fc.logit_scale"] = (spread * 1e-5).astype(np.float32)
        elif linear.rounding is p.Rounding.SINGLE:
            multiplier, shift = encode_multiplier(np.minimum(spread * goal / typical, 0.9), bits=15 if wide else 12)
            tensors |= {f"{name}.multiplier": multiplier.astype(np.int16), f"{name}.shift": shift}
        else:
            gain, offset = goal / 45 * rng.choice([-1.0, 1.0], count) * spread, rng.normal(0, goal / 4, count)
            tensors[f"{name}.alpha"] = (45 / typical * spread).astype(np.float32)
            tensors |= {f"{name}.gain": gain.astype(np.float32), f"{name}.offset": offset.astype(np.float32)}
        if f"{name}.accumulator_scale" in tensors:
            tensors[f"{name}.accumulator_scale"] = (spread * 2.0 / typical).astype(np.float32)
            tensors[f"{name}.real_bias"] = rng.normal(0, 0.5, count).astype(np.float32)
    for i, stage in enumerate(plan.stages):
        for j, block in enumerate(stage.blocks):
            name, heads = f"layers.{i}.blocks.{j}.attn", block.attention.heads
            reach = block.attention.head_dim**0.5 * 3000
            shift = np.clip(int(reach).bit_length() - 11 + rng.integers(-1, 2, heads), 0, 30)
            tensors[f"{name}.score_shift"] = shift.astype(np.uint8)
            tensors[f"{name}.score_multiplier"] = rng.integers(500, 3000, heads).astype(np.int16)
            tensors[f"{name}.bias_table"] = (tensors[f"{name}.bias_table"] // 64).astype(np.int16)
            tensors[f"{name}.output_multiplier"] = rng.uniform(0.5, 3.0, heads).astype(np.float32)
    for name in tensors:
        if name.endswith((".gain", ".offset")) and name.rsplit(".", 1)[0] + ".weight" not in tensors:  # of a norm
            goal = 3000.0 if name.split(".")[0] in ("norm", "patch_embed") else 40.0
            tensors[name] = rng.normal(0, goal if name.endswith("gain") else goal / 4, tensors[name].shape).astype(np.float32)
    if rng.random() < 0.7:
        tensors["softmax_table"] = np.rint(255 * np.exp(-np.arange(SOFTMAX_STEPS) / 20)).astype(np.uint8)
    return tensors


def uniform_tensor(rng: np.random.Generator, spec: TensorSpec) -> np.ndarray:
    """Anything the schema allows."""
    if spec.dtype == "float32":
        assert spec.low is not None
        assert spec.high is not None
        return rng.uniform(spec.low, spec.high, spec.shape).astype(np.float32)
    info = np.iinfo(spec.dtype)
    low, high = (info.min if spec.low is None else spec.low), (info.max if spec.high is None else spec.high)
    return rng.integers(low, high, spec.shape, spec.dtype, endpoint=True)


def random_images(rng: np.random.Generator, plan: p.Plan, count: int) -> np.ndarray:
    """float32 [count, C, H, W] over the range of the input's quantization, with some pixels far outside."""
    stem = plan.stem
    shape = (count, stem.channels, stem.height, stem.width)
    images = rng.uniform(-stem.input_zero_point - 5, 260 - stem.input_zero_point, shape) * stem.input_scale
    return np.where(rng.random(shape) < 0.01, rng.choice([-3e38, 3e38, 0.0], shape), images).astype(np.float32)
