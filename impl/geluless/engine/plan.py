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
    DOUBLE = "double"  # FasterTransformer: round to int8, then add the bias and round again


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
    """fc1, activation, fc2. Scales in real units per step; `pre` is the 8-bit pre-activation of the table arms."""

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


# ---------------------------------------------------------------------------------------------- tensors beside the plan


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor must be; values outside [low, high] and non-finite floats are refused."""

    dtype: str
    shape: tuple[int, ...]
    low: int | None = None
    high: int | None = None


MAX_SHIFT = 30
INT32_MAX = 2**31 - 1


MAX_OUTPUT_MULTIPLIER = 2**20  # |sum weight v / sum weight| <= 128: the context fits int32 before it is clamped
MAX_FACTOR = 2.0**16  # |n| / sqrt(V) <= 182 for 32767 channels: a normalised value fits int32 before it is clamped
SCALES = (2.0**-40, 2.0**40)  # of every real step a plan names
FLOAT_LIMIT = 2**32  # no product of two such floats and an int32 leaves the range of fp32


def _floats(count: int, limit: int = FLOAT_LIMIT) -> TensorSpec:
    return TensorSpec("float32", (count,), -limit, limit)


def linear_schema(name: str, linear: Linear) -> dict[str, TensorSpec]:
    schema = {
        f"{name}.weight": TensorSpec("int8", (linear.outputs, linear.inputs), -127, 127),
        f"{name}.bias": TensorSpec("int32", (linear.outputs,)),
    }
    if linear.rounding is Rounding.SINGLE:
        schema[f"{name}.multiplier"] = TensorSpec("int16", (linear.outputs,), 0, 32767)
        schema[f"{name}.shift"] = TensorSpec("uint8", (linear.outputs,), 0, MAX_SHIFT)
    else:
        schema[f"{name}.alpha"] = _floats(linear.outputs)
        schema[f"{name}.gain"] = _floats(linear.outputs)
        schema[f"{name}.offset"] = _floats(linear.outputs)
    return schema


def norm_schema(name: str, norm: Norm) -> dict[str, TensorSpec]:
    if not norm.affine:
        return {}
    return {f"{name}.{part}": _floats(norm.channels) for part in ("gain", "offset")}


def block_schema(name: str, block: Block, activation: Activation, *, padded: bool) -> dict[str, TensorSpec]:
    heads, (window_h, window_w) = block.attention.heads, block.attention.window
    schema = {
        **norm_schema(f"{name}.norm1", block.norm1),
        **linear_schema(f"{name}.attn.qkv", block.qkv),
        f"{name}.attn.bias_table": TensorSpec("int16", ((2 * window_h - 1) * (2 * window_w - 1), heads)),
        f"{name}.attn.score_shift": TensorSpec("uint8", (heads,), 0, MAX_SHIFT),
        f"{name}.attn.score_multiplier": TensorSpec("int16", (heads,), 0, 32767),
        f"{name}.attn.output_multiplier": _floats(heads, MAX_OUTPUT_MULTIPLIER),
        **linear_schema(f"{name}.attn.proj", block.proj),
        **norm_schema(f"{name}.norm2", block.norm2),
        **linear_schema(f"{name}.mlp.fc1", block.mlp.fc1),
        f"{name}.mlp.fc1.accumulator_scale": _floats(block.mlp.fc1.outputs),
        f"{name}.mlp.fc1.real_bias": _floats(block.mlp.fc1.outputs),
        **linear_schema(f"{name}.mlp.fc2", block.mlp.fc2),
    }
    if padded:
        schema[f"{name}.attn.qkv.pad"] = TensorSpec("int8", (block.qkv.outputs,))
    if activation is Activation.GELU and block.mlp.fc1.rounding is Rounding.SINGLE:
        schema[f"{name}.mlp.table"] = TensorSpec("uint8", (256,))
    return schema


def tensor_schema(plan: Plan) -> dict[str, TensorSpec]:
    """Every tensor an artifact of this plan must hold, and no other."""
    schema = {
        "softmax_table": TensorSpec("uint8", (SOFTMAX_STEPS,)),
        **linear_schema("patch_embed.proj", plan.stem.proj),
        **norm_schema("patch_embed.norm", plan.stem.norm),
    }
    for i, stage in enumerate(plan.stages):
        if stage.merge:
            schema |= norm_schema(f"layers.{i}.downsample.norm", stage.merge.norm)
            schema |= linear_schema(f"layers.{i}.downsample.reduction", stage.merge.reduction)
        for j, block in enumerate(stage.blocks):
            schema |= block_schema(f"layers.{i}.blocks.{j}", block, plan.activation, padded=is_padded(stage, block))
    schema |= norm_schema("norm", plan.head.norm)
    schema |= {
        "head.fc.weight": TensorSpec("int8", (plan.head.fc.outputs, plan.head.fc.inputs), -127, 127),
        "head.fc.bias": TensorSpec("int32", (plan.head.fc.outputs,)),
        "head.fc.logit_scale": _floats(plan.head.fc.outputs),
    }
    return schema


SOFTMAX_STEPS = 128
MAX_TOKENS = 1 << 22  # of one stage: engines count tokens and stream rows in int32
MAX_ELEMENTS = 1 << 28  # of one intermediate tensor per image: a forged plan must not ask for all memory (Swin-L at 384: 2^23)
MAX_POOLED = (INT32_MAX - 2**29) // 2**15  # the sum over int16 tokens and the rounding half fit int32
POOLED = (-2048, 2047)  # 12 bits: 6192 features times an int8 weight fit the int32 accumulator with room for the bias


def is_padded(stage: Stage, block: Block) -> bool:
    """Whether the token grid is padded to whole windows; padded tokens take part in attention with the bias alone."""
    return bool(stage.height % block.attention.window[0] or stage.width % block.attention.window[1])


# ------------------------------------------------------------------------------------------------------ consistency


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)


def _is_scale(value: float) -> bool:
    return SCALES[0] <= value <= SCALES[1]


def check_plan(plan: Plan) -> None:
    """Raise PlanError unless all shapes fit together and no integer of the arithmetic can overflow.

    The bounds on single tensors (weights against the accumulator) need the weights and are checked with them.
    """
    _require(plan.format == FORMAT, f"format {plan.format} is not {FORMAT}: make the artifact again with this version")
    stem = plan.stem
    limit = 1 << 16
    sizes = (stem.channels, stem.height, stem.width, *stem.patch, plan.head.fc.outputs, len(plan.stages))
    _require(all(0 < size <= limit for size in sizes), "a size of the stem or head is not in 1..65536")
    _require(stem.height % stem.patch[0] == 0 and stem.width % stem.patch[1] == 0, "the image is no whole number of patches")
    _require(_is_scale(stem.input_scale) and 0 <= stem.input_zero_point <= 255, "the input's scale or zero point is out of range")
    grid = (stem.height // stem.patch[0], stem.width // stem.patch[1])
    channels = stem.proj.outputs
    _check_linear("patch_embed.proj", stem.proj, inputs=stem.channels * stem.patch[0] * stem.patch[1], bits=16)
    _require((stem.proj.input_low, stem.proj.input_high) == (0, 255), "patch_embed.proj: its input is uint8")
    _check_norm("patch_embed.norm", stem.norm, channels=channels, bits=16)
    for i, stage in enumerate(plan.stages):
        name = f"layers.{i}"
        if stage.merge:
            _check_norm(f"{name}.downsample.norm", stage.merge.norm, channels=4 * channels, bits=8)
            norm, reduction = stage.merge.norm, stage.merge.reduction
            _check_linear(f"{name}.downsample.reduction", reduction, inputs=4 * channels, bits=16, source=norm)
            channels = stage.merge.reduction.outputs
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        _require((stage.height, stage.width) == grid, f"{name}: the token grid is {grid}, the plan says otherwise")
        _require(stage.channels == channels, f"{name}: {channels} channels arrive, the plan says {stage.channels}")
        _require(_is_scale(stage.residual_scale) and len(stage.blocks) > 0, f"{name}: residual scale and depth must be positive")
        _require(grid[0] * grid[1] <= MAX_TOKENS, f"{name}: more than {MAX_TOKENS:,} tokens")
        for j, block in enumerate(stage.blocks):
            _check_block(f"{name}.blocks.{j}", block, stage, plan.activation)
            _check_memory(f"{name}.blocks.{j}", block, stage)
    roundings = {block.mlp.fc1.rounding for stage in plan.stages for block in stage.blocks}
    _require(len(roundings) == 1, "mlp.fc1 rounds once in one block and twice in another: an arm is one for the whole network")
    _check_norm("norm", plan.head.norm, channels=channels, bits=16)
    _require(
        plan.head.tokens == grid[0] * grid[1] <= MAX_POOLED, f"head: the pooled tokens are miscounted or above {MAX_POOLED:,}"
    )
    pooling_fits = 0 <= plan.head.pool_multiplier <= 32767 and 0 <= plan.head.pool_shift <= MAX_SHIFT
    _require(pooling_fits, "head: pooling out of range")
    _check_linear("head.fc", plan.head.fc, inputs=channels, bits=32)


def _check_norm(name: str, norm: Norm, *, channels: int, bits: int) -> None:
    _require(norm.channels == channels, f"{name}: {channels} channels arrive, the plan says {norm.channels}")
    _require(channels <= 32767, f"{name}: more than 32767 channels overflow the centred int32 sum")
    _require(1 <= norm.epsilon_term < 2**52 and SCALES[0] <= norm.factor <= MAX_FACTOR, f"{name}: epsilon or factor out of range")
    _require((norm.low, norm.high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), f"{name}: its output is int{bits}")


def _check_linear(name: str, linear: Linear, *, inputs: int, bits: int, source: Norm | None = None) -> None:
    _require(linear.inputs == inputs, f"{name}: {inputs} inputs arrive, the plan says {linear.inputs}")
    _require(0 < linear.outputs <= 1 << 16, f"{name}: the number of outputs is not in 1..65536")
    allowed = {POOLED} if bits == 32 else {(-128, 127), (0, 255)}
    _require((linear.input_low, linear.input_high) in allowed, f"{name}: the range of its input is not one the engines know")
    ranges = {(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)} | ({(0, 255)} if bits == 8 else set())
    _require((linear.low, linear.high) in ranges, f"{name}: its output is no {bits}-bit integer")
    _require(linear.low <= linear.zero_point <= linear.high, f"{name}: the zero point lies outside the output's range")
    if source:
        matching = (linear.input_low, linear.input_high) == (source.low, source.high)
        _require(matching, f"{name}: its input is not its norm's output")


def _check_memory(name: str, block: Block, stage: Stage) -> None:
    """No intermediate tensor of a block may be absurdly large: scores, qkv and hidden are the largest."""
    window = block.attention.window
    windows = -(-stage.height // window[0]) * -(-stage.width // window[1])
    tokens = window[0] * window[1]
    widest = max(stage.channels, block.qkv.outputs, block.mlp.fc1.outputs, block.attention.heads * tokens)
    _require(windows * tokens * widest <= MAX_ELEMENTS, f"{name}: a tensor of more than {MAX_ELEMENTS:,} elements per image")


def _check_block(name: str, block: Block, stage: Stage, activation: Activation) -> None:
    attention, mlp = block.attention, block.mlp
    width = attention.heads * attention.head_dim
    _require(attention.heads > 0 and attention.head_dim > 0, f"{name}: heads and head_dim must be positive")
    for size, window, shift in zip((stage.height, stage.width), attention.window, attention.shift, strict=True):
        _require(0 <= shift < window <= 128, f"{name}: window and shift must satisfy 0 <= shift < window <= 128")
        _require(shift == 0 or window < size, f"{name}: a window as large as the token grid is not shifted")
    tokens = attention.window[0] * attention.window[1]
    _require(tokens * 255 * 128 < 2**24, f"{name}: windows above 513 tokens leave the exact range of fp32 in softmax times V")
    _require(attention.head_dim <= 1024, f"{name}: a head_dim above 1024 leaves the exact range of fp32 in the scores")
    _check_norm(f"{name}.norm1", block.norm1, channels=stage.channels, bits=8)
    _check_linear(f"{name}.attn.qkv", block.qkv, inputs=stage.channels, bits=8, source=block.norm1)
    _require(block.qkv.outputs == 3 * width, f"{name}.attn.qkv: 3 x heads x head_dim outputs expected")
    _require(block.qkv.low == -128, f"{name}.attn.qkv: its output is int8")
    _check_linear(f"{name}.attn.proj", block.proj, inputs=width, bits=16)
    _require(block.proj.input_low == -128, f"{name}.attn.proj: its input is int8")
    _check_norm(f"{name}.norm2", block.norm2, channels=stage.channels, bits=8)
    _check_linear(f"{name}.mlp.fc1", mlp.fc1, inputs=stage.channels, bits=8, source=block.norm2)
    _check_linear(f"{name}.mlp.fc2", mlp.fc2, inputs=mlp.fc1.outputs, bits=16)
    _require(block.proj.outputs == mlp.fc2.outputs == stage.channels, f"{name}: a branch does not fit the residual stream")
    _require(block.proj.zero_point == mlp.fc2.zero_point == block.qkv.zero_point == 0, f"{name}: this tensor has no zero point")
    scales = (mlp.hidden_scale, mlp.pre_scale, mlp.after_gemm_scale)
    _require(all(_is_scale(scale) for scale in scales), f"{name}.mlp: a scale is not positive or out of all proportion")
    low, high = mlp.fc2.input_low, mlp.fc2.input_high
    _require(low <= mlp.hidden_zero_point <= high, f"{name}.mlp: the hidden zero point is out of range")
    _require(0 <= mlp.pre_zero_point <= 255, f"{name}.mlp: the pre-activation's zero point is out of range")
    fused = mlp.fc1.rounding is Rounding.SINGLE
    if activation is Activation.RELU:
        _require(mlp.hidden_zero_point == mlp.pre_zero_point == 0, f"{name}.mlp: ReLU clamps at zero, which is the zero point")
        _require(mlp.fc1.zero_point == 0, f"{name}.mlp.fc1: ReLU clamps at zero, which is the zero point")
        _require((mlp.fc1.low, mlp.fc1.high) == (low, high), f"{name}.mlp.fc1: its output is not fc2's input")
    elif fused:
        _require((mlp.fc1.low, mlp.fc1.high) == (0, 255), f"{name}.mlp.fc1: the pre-activation of a GELU table is uint8")
        _require(mlp.fc1.zero_point == mlp.pre_zero_point, f"{name}.mlp.fc1: its zero point is not the pre-activation's")
    table_fits = activation is Activation.RELU or not fused or low == 0
    _require(table_fits, f"{name}.mlp: a GELU table gives uint8, but fc2 reads int8: quantize with unsigned_hidden")
