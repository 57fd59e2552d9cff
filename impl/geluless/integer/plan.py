"""The integer plan: what an artifact computes, as plain values.

A plan holds the shape of the network and every scalar of its arithmetic; the tensors (weights, multipliers, tables) lie
beside it under the names that `tensor_schema` lists. Engines execute plans and never see a torch module.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

FORMAT = 1  # of the plan and its tensors; a reader refuses any other


class PlanError(ValueError):
    """The plan contradicts itself or its schema."""


class Activation(StrEnum):
    GELU = "gelu"
    RELU = "relu"


class Rounding(StrEnum):
    """How an accumulator becomes the next tensor."""

    SINGLE = "single"  # int32 bias in the accumulator, one rounding to the next scale
    TWO_STAGE = "double"  # FasterTransformer: round to int8, then add the bias and round again. In files of format 1: "double"


@dataclass(frozen=True)
class Norm:
    """LayerNorm from exact integer sums; see `reference.layer_norm` for the order of its fp32 operations."""

    channels: int
    epsilon_term: int  # epsilon * channels^2 / scale^2 of the input, at least 1
    factor: float  # 1 / output scale when the affine part is folded into the next weights, else 1
    affine: bool  # tensors gain, offset: float32 [channels], already divided by the output scale
    low: int
    high: int


@dataclass(frozen=True)
class Linear:
    """int8 weights [outputs, inputs] times 8-bit inputs, accumulated in int32."""

    inputs: int
    outputs: int
    input_low: int
    input_high: int
    rounding: Rounding
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class Attention:
    """Window attention; a shift of (0, 0) means the plain windows."""

    heads: int
    head_dim: int
    window: tuple[int, int]
    shift: tuple[int, int]


@dataclass(frozen=True)
class Mlp:
    """fc1, activation, fc2. Scales in real units per step; `pre` is the 8-bit pre-activation of the table variants."""

    fc1: Linear
    fc2: Linear
    has_bias: bool  # False: fc1 was trained without its own bias
    hidden_scale: float
    hidden_zero_point: int
    pre_scale: float
    pre_zero_point: int
    after_gemm_scale: float  # int8, symmetric: what FasterTransformer stores between fc1 and its GELU kernel


@dataclass(frozen=True)
class Block:
    norm1: Norm
    qkv: Linear
    attention: Attention
    proj: Linear
    norm2: Norm
    mlp: Mlp


@dataclass(frozen=True)
class Merge:
    """Patch merging: 2x2 neighbours (zero-padded to even size), LayerNorm, linear."""

    norm: Norm
    reduction: Linear


@dataclass(frozen=True)
class Stage:
    height: int
    width: int
    channels: int
    residual_scale: float  # int16 residual stream, one scale per stage
    merge: Merge | None
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Stem:
    """Quantized image -> patches -> linear (int16) -> LayerNorm into the first residual stream."""

    channels: int
    height: int
    width: int
    patch: tuple[int, int]
    input_scale: float
    input_zero_point: int
    proj: Linear
    norm: Norm


@dataclass(frozen=True)
class Head:
    """Final LayerNorm (int16), mean over tokens (exact sum, one rounding to 12 bits), classifier with float32 logits.

    Eight bits for the pooled features would be the largest error of the whole network: pooling averages the noise of
    hundreds of tokens away and puts that of a single rounding in its place.
    """

    norm: Norm
    tokens: int
    pool_multiplier: int
    pool_shift: int
    fc: Linear


@dataclass(frozen=True)
class Plan:
    format: int
    model: str
    profile: str
    activation: Activation
    stem: Stem
    stages: tuple[Stage, ...]
    head: Head
    parents: dict[str, str]  # what it was made from: sha256 of weights and images, and how many images


# ------------------------------------------------------------------------------------------------ to and from JSON


def encode(value: Any) -> Any:
    """A plan as JSON-ready values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return dict(value) if isinstance(value, dict) else value


def decode(kind: Any, value: Any, where: str = "plan") -> Any:
    """The inverse of `encode`; strict about names, types and finiteness. Raises PlanError naming the place."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise PlanError(f"{where} must have exactly the fields {', '.join(hints)}")
        return kind(**{name: decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})
    if origin is types.UnionType:  # only `X | None` occurs
        return None if value is None else decode(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise PlanError(f"{where} must be a list")
        items = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(items) != len(value):
            raise PlanError(f"{where} must have {len(items)} entries")
        return tuple(decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(items, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
            raise PlanError(f"{where} must map strings to strings")
        return value
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise PlanError(f"{where} is {value!r}, not one of {', '.join(m.value for m in kind)}") from None
    if kind is float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise PlanError(f"{where} must be a finite number")
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise PlanError(f"{where} must be of type {kind.__name__}")
    return value


def is_padded(stage: Stage, block: Block) -> bool:
    """Whether the token grid is padded to whole windows; padded tokens take part in attention with the bias alone."""
    return bool(stage.height % block.attention.window[0] or stage.width % block.attention.window[1])
