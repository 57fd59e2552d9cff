"""From an artifact and a variant to layers with epilogues: everything the C++ engine needs to know, and nothing it must decide.

Variants, profiles and scales end here. The native side sees linear layers that finish with one of a few epilogues (epilogue.py
states their arithmetic), norms, index-free geometry, and plain constants.

Stored bytes: a signed 8-bit tensor is stored with 128 added, an unsigned one as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import VariantError
from geluless.integer import plan as p
from geluless.integer.gelu import EXPONENT_BITS, gelu_shift
from geluless.integer.requantization import Requant, round_clip
from geluless.integer.variants import Variant

Tensors = Mapping[str, NDArray]

SIGNED_OFFSET = 128


@dataclass(frozen=True)
class ShiftGelu:
    """Constants of I-ViT's ShiftGELU on a uint8 pre-activation (epilogue.gelu_shift), in 32-bit integers."""

    zero_point: int
    top: int
    unit: int
    floor: int
    reciprocal: int
    negative: int
    to_hidden: float
    hidden_zero: int


@dataclass(frozen=True)
class Layer:
    """One linear layer: int8 weights [outputs, inputs], int32 bias, an epilogue by name and its constants.

    Arrays an epilogue does not use are None. zero, lowest, highest refer to stored values.
    """

    epilogue: str
    inputs: int
    outputs: int
    signed_input: bool
    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    shift: NDArray[np.int32] | None = None
    multiplier: NDArray[np.int16] | None = None
    scale: NDArray[np.float32] | None = None
    gain: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None
    table: NDArray[np.uint8] | None = None
    shift_gelu: ShiftGelu | None = None
    zero: int = 0
    lowest: int = 0
    highest: int = 255
    per_step: float = 1.0


@dataclass(frozen=True)
class Norm:
    epsilon_term: int
    factor: float
    gain: NDArray[np.float32] | None
    offset: NDArray[np.float32] | None


@dataclass(frozen=True)
class Attention:
    heads: int
    head_dim: int
    window: tuple[int, int]
    shift: tuple[int, int]
    bias_table: NDArray[np.int16]
    score_shift: NDArray[np.int32]
    score_multiplier: NDArray[np.int16]
    output_multiplier: NDArray[np.float32]
    pad: NDArray[np.uint8] | None


@dataclass(frozen=True)
class SeparatePass:
    """The activation as a kernel of its own."""

    kernel: str
    gain: NDArray[np.float32] | None
    offset: NDArray[np.float32] | None
    zero: int
    lowest: int
    highest: int
    per_step: float = 1.0
    after_gemm_scale: float = 1.0


@dataclass(frozen=True)
class Block:
    name: str
    norm1: Norm
    norm2: Norm
    qkv: Layer
    proj: Layer
    fc1: Layer
    fc2: Layer
    attention: Attention
    separate: SeparatePass | None


@dataclass(frozen=True)
class Merge:
    name: str
    norm: Norm
    reduction: Layer


@dataclass(frozen=True)
class Stage:
    height: int
    width: int
    channels: int
    merge: Merge | None
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Network:
    image: tuple[int, int, int]
    patch: tuple[int, int]
    inverse_input_scale: float
    input_zero_point: int
    patch_layer: Layer
    patch_norm: Norm
    stages: tuple[Stage, ...]
    head_norm: Norm
    pool_multiplier: int
    pool_shift: int
    classes: int
    head_weight: NDArray[np.int8]
    head_bias: NDArray[np.int32]
    logit_scale: NDArray[np.float32]
    softmax_table: NDArray[np.uint8]


def lower(plan: p.Plan, tensors: Tensors, variant: Variant) -> Network:
    """The whole network for one variant. Raises VariantError when the plan's hidden tensor does not fit the variant."""
    stem, head = plan.stem, plan.head
    return Network(
        image=(stem.channels, stem.height, stem.width),
        patch=stem.patch,
        inverse_input_scale=float(np.float32(1.0) / np.float32(stem.input_scale)),
        input_zero_point=stem.input_zero_point,
        patch_layer=lower_linear("patch_embed.proj", stem.proj, tensors, sink="words"),
        patch_norm=lower_norm("patch_embed.norm", stem.norm, tensors),
        stages=tuple(_lower_stage(i, stage, tensors, variant) for i, stage in enumerate(plan.stages)),
        head_norm=lower_norm("norm", head.norm, tensors),
        pool_multiplier=head.pool_multiplier,
        pool_shift=head.pool_shift,
        classes=head.fc.outputs,
        head_weight=_as(tensors["head.fc.weight"], np.int8),
        head_bias=_as(tensors["head.fc.bias"], np.int32),
        logit_scale=_as(tensors["head.fc.logit_scale"], np.float32),
        softmax_table=_as(tensors["softmax_table"], np.uint8),
    )


def _lower_stage(index: int, stage: p.Stage, tensors: Tensors, variant: Variant) -> Stage:
    name, merge = f"layers.{index}", None
    if stage.merge:
        norm = lower_norm(f"{name}.downsample.norm", stage.merge.norm, tensors)
        reduction = lower_linear(f"{name}.downsample.reduction", stage.merge.reduction, tensors, sink="words")
        merge = Merge(f"{name}.downsample", norm, reduction)
    blocks = tuple(_lower_block(f"{name}.blocks.{j}", block, tensors, variant) for j, block in enumerate(stage.blocks))
    return Stage(stage.height, stage.width, stage.channels, merge, blocks)


def _lower_block(name: str, block: p.Block, tensors: Tensors, variant: Variant) -> Block:
    fc1, separate = lower_fc1(f"{name}.mlp", block.mlp, tensors, variant)
    return Block(
        name=name,
        norm1=lower_norm(f"{name}.norm1", block.norm1, tensors),
        norm2=lower_norm(f"{name}.norm2", block.norm2, tensors),
        qkv=lower_linear(f"{name}.attn.qkv", block.qkv, tensors, sink="bytes"),
        proj=lower_linear(f"{name}.attn.proj", block.proj, tensors, sink="residual"),
        fc1=fc1,
        fc2=lower_linear(f"{name}.mlp.fc2", block.mlp.fc2, tensors, sink="residual"),
        attention=lower_attention(f"{name}.attn", block.attention, tensors),
        separate=separate,
    )


def lower_norm(name: str, norm: p.Norm, tensors: Tensors) -> Norm:
    gain, offset = (_as(tensors[f"{name}.{part}"], np.float32) if norm.affine else None for part in ("gain", "offset"))
    return Norm(norm.epsilon_term, norm.factor, gain, offset)


def lower_attention(name: str, attention: p.Attention, tensors: Tensors) -> Attention:
    pad = tensors.get(f"{name}.qkv.pad")
    return Attention(
        heads=attention.heads,
        head_dim=attention.head_dim,
        window=attention.window,
        shift=attention.shift,
        bias_table=_as(tensors[f"{name}.bias_table"], np.int16),
        score_shift=_as(tensors[f"{name}.score_shift"], np.int32),
        score_multiplier=_as(tensors[f"{name}.score_multiplier"], np.int16),
        output_multiplier=_as(tensors[f"{name}.output_multiplier"], np.float32),
        pad=None if pad is None else (pad.astype(np.int16) + SIGNED_OFFSET).astype(np.uint8),
    )


def lower_linear(name: str, linear: p.Linear, tensors: Tensors, *, sink: str) -> Layer:
    """A layer with the integer law, or with FasterTransformer's two roundings; `sink` is bytes, words or residual."""
    stored = _offset(linear.low) if sink == "bytes" else 0
    # lowest and highest bound stored bytes; words saturate by themselves
    lowest, highest = (linear.low + stored, linear.high + stored) if sink == "bytes" else (0, 255)
    if linear.rounding is p.Rounding.SINGLE:
        return _fixed(name, linear, tensors, epilogue=sink, zero=linear.zero_point + stored, lowest=lowest, highest=highest)
    return _layer(
        name,
        linear,
        tensors,
        epilogue=f"twice-{sink}",
        scale=tensors[f"{name}.alpha"],
        gain=tensors[f"{name}.gain"],
        offset=tensors[f"{name}.offset"],
        zero=linear.zero_point + stored,
        lowest=lowest,
        highest=highest,
    )


def lower_fc1(name: str, mlp: p.Mlp, tensors: Tensors, variant: Variant) -> tuple[Layer, SeparatePass | None]:
    """fc1 with the variant's activation as its epilogue, or with a pass of its own behind it."""
    fc1 = f"{name}.fc1"
    low, high, stored = mlp.fc2.input_low, mlp.fc2.input_high, _offset(mlp.fc2.input_low)
    relu_range = {"lowest": stored, "highest": high + stored}
    gelu_range = {"zero": mlp.hidden_zero_point + stored, "lowest": low + stored, "highest": high + stored}
    get = lambda part: tensors[f"{fc1}.{part}"]  # noqa: E731 - one tensor of fc1 by its last name
    two_stage = mlp.fc1.rounding is p.Rounding.TWO_STAGE
    per_step = float(np.float32(1.0) / np.float32(mlp.hidden_scale))
    match variant:
        case Variant.RELU | Variant.RELU_NOBIAS:
            plain = stored == 0 and mlp.fc1.zero_point == 0 and high == 255
            epilogue = "relu" if plain else "bytes"
            return _fixed(fc1, mlp.fc1, tensors, epilogue=epilogue, zero=mlp.fc1.zero_point + stored, **relu_range), None
        case Variant.RELU_FLOAT:
            scale = get("accumulator_scale") / np.float32(mlp.hidden_scale)
            return _layer(fc1, mlp.fc1, tensors, epilogue="relu-float", scale=scale, zero=stored, **relu_range), None
        case Variant.RELU_SEPARATE if two_stage:
            zero = mlp.fc1.zero_point + stored
            gain, offset = _as(get("gain"), np.float32), _as(get("offset"), np.float32)
            second = SeparatePass("relu-after-gemm", gain, offset, zero, **relu_range)
            return _after_gemm(fc1, mlp.fc1, tensors, scale=get("alpha"), bias=get("bias")), second
        case Variant.RELU_SEPARATE:
            first = _fixed(fc1, mlp.fc1, tensors, epilogue="words", zero=mlp.fc1.zero_point)
            return first, SeparatePass("relu-words", None, None, stored, **relu_range)
        case Variant.GELU_SEPARATE:
            scale = get("alpha") if two_stage else get("accumulator_scale") / np.float32(mlp.after_gemm_scale)
            bias = get("bias") if two_stage else np.zeros(mlp.fc1.outputs, np.int32)
            after = float(np.float32(mlp.after_gemm_scale))
            offset = _as(get("real_bias"), np.float32)
            second = SeparatePass("gelu-after-gemm", None, offset, per_step=per_step, after_gemm_scale=after, **gelu_range)
            return _after_gemm(fc1, mlp.fc1, tensors, scale=scale, bias=bias), second
        case Variant.GELU_FUSED | Variant.GELU_POLY:
            epilogue = "gelu-erf" if variant is Variant.GELU_FUSED else "gelu-polynomial"
            scale = get("accumulator_scale")
            return _layer(fc1, mlp.fc1, tensors, epilogue=epilogue, scale=scale, per_step=per_step, **gelu_range), None
        case Variant.GELU_LUT | Variant.GELU_SHIFT:
            if stored:
                raise VariantError(
                    f"{name}: variant {variant.value} needs an unsigned hidden tensor; quantize with unsigned_hidden"
                )
            if variant is Variant.GELU_LUT:
                table = tensors[f"{name}.table"]
                return _fixed(fc1, mlp.fc1, tensors, epilogue="table", zero=mlp.fc1.zero_point, table=table), None
            table, constants = shift_gelu_constants(mlp)
            zero = mlp.fc1.zero_point
            return _fixed(fc1, mlp.fc1, tensors, epilogue="shift-gelu", zero=zero, table=table, shift_gelu=constants), None


def shift_gelu_constants(mlp: p.Mlp) -> tuple[NDArray[np.uint8], ShiftGelu]:
    """All 256 values, by which the native side checks its 32-bit integers before it trusts them, and the constants."""
    q = np.arange(256, dtype=np.int64) - mlp.pre_zero_point
    values = gelu_shift(q, mlp.pre_scale) / mlp.hidden_scale
    table = round_clip(values, mlp.fc2.input_low, mlp.fc2.input_high, mlp.hidden_zero_point).astype(np.uint8)
    scaled = q + (q >> 1) + (q >> 3) + (q >> 4)
    top, unit = max(int(scaled.max()), 0), min(max(round(1.0 / mlp.pre_scale), 1), 2**32)
    exponent = max(-top + (-top >> 1) - (-top >> 4), -EXPONENT_BITS * unit)
    whole, rest = -exponent // unit, -(-exponent % unit)
    negative = (((rest >> 1) + unit) << EXPONENT_BITS) >> whole
    constants = ShiftGelu(
        zero_point=mlp.pre_zero_point,
        top=top,
        unit=min(unit, 256),  # above 255 the native side takes the table
        floor=-EXPONENT_BITS * min(unit, 256),
        reciprocal=-(-(1 << 20) // unit),
        negative=min(negative, 2**32 - 1),
        to_hidden=mlp.pre_scale / 2.0**7 / mlp.hidden_scale,
        hidden_zero=mlp.hidden_zero_point,
    )
    return table, constants


def _fixed(name: str, linear: p.Linear, tensors: Tensors, *, epilogue: str, **constants: Any) -> Layer:
    """The integer law: the rounding half of the shift goes into the bias."""
    bias, multiplier, shift = (tensors[f"{name}.{part}"] for part in ("bias", "multiplier", "shift"))
    rounded = bias + Requant(bias, multiplier.astype(np.int32), shift).half
    return _layer(name, linear, tensors, epilogue=epilogue, bias=rounded, shift=shift, multiplier=multiplier, **constants)


def _after_gemm(name: str, linear: p.Linear, tensors: Tensors, *, scale: NDArray, bias: NDArray) -> Layer:
    return _layer(name, linear, tensors, epilogue="after-gemm", bias=bias, scale=scale, zero=SIGNED_OFFSET)


_DTYPES: dict[str, type] = {
    "shift": np.int32,
    "multiplier": np.int16,
    "scale": np.float32,
    "gain": np.float32,
    "offset": np.float32,
    "table": np.uint8,
}


def _layer(name: str, linear: p.Linear, tensors: Tensors, *, epilogue: str, **constants: Any) -> Layer:
    """A Layer from the plan's shapes and the artifact's weights; `bias` replaces the artifact's when given."""
    bias = constants.pop("bias", tensors[f"{name}.bias"])
    typed: dict[str, Any] = {key: _as(value, _DTYPES[key]) if key in _DTYPES else value for key, value in constants.items()}
    return Layer(
        epilogue,
        linear.inputs,
        linear.outputs,
        linear.input_low < 0,
        _as(tensors[f"{name}.weight"], np.int8),
        _as(bias, np.int32),
        **typed,
    )


def _offset(low: int) -> int:
    return SIGNED_OFFSET if low < 0 else 0


def _as(values: Any, dtype: type) -> NDArray:
    return np.ascontiguousarray(values, dtype=dtype)
