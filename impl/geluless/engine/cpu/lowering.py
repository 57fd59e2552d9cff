"""From an artifact and a variant to layers with epilogues: everything the C++ engine needs to know, and nothing it must decide.

Variants, profiles and scales end here. The native side sees linear layers that finish with one of a few epilogues (epilogue.h
names them, integer/requantization.py states their arithmetic), norms, index-free geometry, and plain constants.

An 8-bit tensor is stored as uint8 (u8): a signed one with 128 added, an unsigned one as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import VariantError
from geluless.integer import plan as p
from geluless.integer.gelu import EXPONENT_BITS, gelu_shift, gelu_shift_constants, i_bert_constants, i_bert_table
from geluless.integer.requantization import Requant, round_clip
from geluless.integer.variants import Variant, requant_after_gemm

Tensors = Mapping[str, NDArray[Any]]

SIGNED_OFFSET = 128
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class ShiftGelu:
    """Constants of I-ViT's ShiftGELU on a uint8 pre-activation (integer.gelu.gelu_shift), in 32-bit integers."""

    zero_point: int
    top: int
    unit: int
    floor: int
    reciprocal: int
    negative: int
    to_hidden: float
    hidden_zero: int


@dataclass(frozen=True)
class IBertGelu:
    """Constants of I-BERT's i-GELU on a uint8 pre-activation (integer.gelu.gelu_i_bert_integer), in 32-bit integers."""

    zero_point: int
    knee: int
    one: int
    shift: int
    multiplier: int
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
    lut: NDArray[np.uint8] | None = None
    shift_gelu: ShiftGelu | None = None
    ibert_gelu: IBertGelu | None = None
    zero: int = 0
    lowest: int = 0
    highest: int = 255
    inverse_scale: float = 1.0


@dataclass(frozen=True)
class Norm:
    epsilon_term: int
    factor: float
    gamma: NDArray[np.float32] | None
    beta: NDArray[np.float32] | None


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
class Elementwise:
    """The activation as a kernel of its own."""

    kernel: str
    gain: NDArray[np.float32] | None
    offset: NDArray[np.float32] | None
    zero: int
    lowest: int
    highest: int
    inverse_scale: float = 1.0
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
    elementwise: Elementwise | None


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
        patch_layer=lower_linear("patch_embed.proj", stem.proj, tensors, output="s16"),
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
        reduction = lower_linear(f"{name}.downsample.reduction", stage.merge.reduction, tensors, output="s16")
        merge = Merge(f"{name}.downsample", norm, reduction)
    blocks = tuple(_lower_block(f"{name}.blocks.{j}", block, tensors, variant) for j, block in enumerate(stage.blocks))
    return Stage(stage.height, stage.width, stage.channels, merge, blocks)


def _lower_block(name: str, block: p.Block, tensors: Tensors, variant: Variant) -> Block:
    fc1, elementwise = lower_fc1(f"{name}.mlp", block.mlp, tensors, variant)
    return Block(
        name=name,
        norm1=lower_norm(f"{name}.norm1", block.norm1, tensors),
        norm2=lower_norm(f"{name}.norm2", block.norm2, tensors),
        qkv=lower_linear(f"{name}.attn.qkv", block.qkv, tensors, output="u8"),
        proj=lower_linear(f"{name}.attn.proj", block.proj, tensors, output="residual"),
        fc1=fc1,
        fc2=lower_linear(f"{name}.mlp.fc2", block.mlp.fc2, tensors, output="residual"),
        attention=lower_attention(f"{name}.attn", block.attention, tensors),
        elementwise=elementwise,
    )


def lower_norm(name: str, norm: p.Norm, tensors: Tensors) -> Norm:
    gamma, beta = (_as(tensors[f"{name}.{part}"], np.float32) if norm.affine else None for part in ("gain", "offset"))
    return Norm(norm.epsilon_term, norm.factor, gamma, beta)


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


def lower_linear(name: str, linear: p.Linear, tensors: Tensors, *, output: str) -> Layer:
    """A layer with one of the plan's two requantizations; `output` is u8, s16, or residual: added to the int16 stream."""
    stored = _offset(linear.low) if output == "u8" else 0
    # lowest and highest bound stored bytes; int16 saturates by itself
    lowest, highest = (linear.low + stored, linear.high + stored) if output == "u8" else (0, 255)
    if linear.rounding is p.Rounding.SINGLE:
        return _fixed(name, linear, tensors, output=output, zero=linear.zero_point + stored, lowest=lowest, highest=highest)
    return _layer(
        name,
        linear,
        tensors,
        epilogue=f"two_stage_{output}",
        scale=tensors[f"{name}.alpha"],
        gain=tensors[f"{name}.gain"],
        offset=tensors[f"{name}.offset"],
        zero=linear.zero_point + stored,
        lowest=lowest,
        highest=highest,
    )


def lower_fc1(name: str, mlp: p.Mlp, tensors: Tensors, variant: Variant) -> tuple[Layer, Elementwise | None]:
    """fc1 with the variant's activation as its epilogue, or with an elementwise kernel behind it."""
    fc1 = f"{name}.fc1"
    low, high, stored = mlp.fc2.input_low, mlp.fc2.input_high, _offset(mlp.fc2.input_low)
    relu_range = {"lowest": stored, "highest": high + stored}
    gelu_range = {"zero": mlp.hidden_zero_point + stored, "lowest": low + stored, "highest": high + stored}

    def get(part: str) -> NDArray[Any]:
        """One tensor of fc1 by its last name."""
        return tensors[f"{fc1}.{part}"]

    two_stage = mlp.fc1.rounding is p.Rounding.TWO_STAGE
    inverse_scale = float(np.float32(1.0) / np.float32(mlp.hidden_scale))
    match variant:
        case Variant.RELU | Variant.RELU_NOBIAS:
            plain = stored == 0 and mlp.fc1.zero_point == 0 and high == 255
            output = "relu" if plain else "u8"
            return _fixed(fc1, mlp.fc1, tensors, output=output, zero=mlp.fc1.zero_point + stored, **relu_range), None
        case Variant.RELU_FLOAT:
            scale = get("accumulator_scale") / np.float32(mlp.hidden_scale)
            return _layer(fc1, mlp.fc1, tensors, epilogue="fp32_relu", scale=scale, zero=stored, **relu_range), None
        case Variant.RELU_SEPARATE if not two_stage:
            first = _fixed(fc1, mlp.fc1, tensors, output="s16", zero=mlp.fc1.zero_point)
            return first, Elementwise("relu_s16", None, None, stored, **relu_range)
        case Variant.RELU_SEPARATE | Variant.RELU_SEPARATE_INT8:
            twice = requant_after_gemm(fc1, mlp, tensors)
            gain, offset = _as(twice.gain, np.float32), _as(twice.offset, np.float32)
            second = Elementwise("relu_u8", gain, offset, twice.zero_point + stored, **relu_range)
            return _after_gemm(fc1, mlp, tensors), second
        case Variant.GELU_SEPARATE:
            after = float(np.float32(mlp.after_gemm_scale))
            offset = _as(get("real_bias"), np.float32)
            second = Elementwise("gelu_tanh_u8", None, offset, inverse_scale=inverse_scale, after_gemm_scale=after, **gelu_range)
            return _after_gemm(fc1, mlp, tensors), second
        case Variant.GELU_FUSED | Variant.GELU_FUSED_TANH | Variant.GELU_POLY:
            function = {Variant.GELU_FUSED: "erf", Variant.GELU_FUSED_TANH: "tanh", Variant.GELU_POLY: "poly"}[variant]
            constants: dict[str, Any] = {"scale": get("accumulator_scale"), "inverse_scale": inverse_scale, **gelu_range}
            return _layer(fc1, mlp.fc1, tensors, epilogue=f"fp32_gelu_{function}", **constants), None
        case Variant.GELU_LUT | Variant.GELU_SHIFT | Variant.GELU_IBERT:
            if stored:
                raise VariantError(
                    f"{name}: variant {variant.value} needs an unsigned hidden tensor; quantize with unsigned_hidden"
                )
            zero = mlp.fc1.zero_point
            if variant is Variant.GELU_LUT:
                return _fixed(fc1, mlp.fc1, tensors, output="lut", zero=zero, lut=tensors[f"{name}.table"]), None
            if variant is Variant.GELU_IBERT:
                lut, ibert = ibert_gelu_constants(mlp)
                return _fixed(fc1, mlp.fc1, tensors, output="ibert_gelu", zero=zero, lut=lut, ibert_gelu=ibert), None
            lut, shift = shift_gelu_constants(mlp)
            return _fixed(fc1, mlp.fc1, tensors, output="shift_gelu", zero=zero, lut=lut, shift_gelu=shift), None


def shift_gelu_constants(mlp: p.Mlp) -> tuple[NDArray[np.uint8], ShiftGelu]:
    """All 256 values, by which the native side checks its 32-bit integers before it trusts them, and the constants."""
    q = np.arange(256, dtype=np.int64) - mlp.pre_zero_point
    values = gelu_shift(q, mlp.pre_scale) / mlp.hidden_scale
    lut = round_clip(values, mlp.fc2.input_low, mlp.fc2.input_high, mlp.hidden_zero_point).astype(np.uint8)
    top, unit, negative = gelu_shift_constants(q, mlp.pre_scale)
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
    return lut, constants


def ibert_gelu_constants(mlp: p.Mlp) -> tuple[NDArray[np.uint8], IBertGelu | None]:
    """All 256 values, likewise, and the constants; None where a scale makes one leave 32 bits: the table stands in."""
    low, high = mlp.fc2.input_low, mlp.fc2.input_high
    scales = (mlp.pre_scale, mlp.pre_zero_point, mlp.hidden_scale, mlp.hidden_zero_point)
    lut = i_bert_table(*scales, low=low, high=high).astype(np.uint8)
    c = i_bert_constants(mlp.pre_scale, mlp.hidden_scale)
    if max(c.knee, c.one) > INT32_MAX:
        return lut, None
    return lut, IBertGelu(mlp.pre_zero_point, c.knee, c.one, c.shift, c.multiplier, mlp.hidden_zero_point)


def _fixed(name: str, linear: p.Linear, tensors: Tensors, *, output: str, **constants: Any) -> Layer:
    """Requantized in integers: the rounding half of the shift goes into the bias."""
    bias, multiplier, shift = (tensors[f"{name}.{part}"] for part in ("bias", "multiplier", "shift"))
    rounded = bias + Requant(bias, multiplier.astype(np.int32), shift).half
    return _layer(
        name, linear, tensors, epilogue=f"fixed_{output}", bias=rounded, shift=shift, multiplier=multiplier, **constants
    )


def _after_gemm(fc1: str, mlp: p.Mlp, tensors: Tensors) -> Layer:
    """fc1 as FasterTransformer's GEMM leaves it: int8."""
    first = requant_after_gemm(fc1, mlp, tensors)
    return _layer(fc1, mlp.fc1, tensors, epilogue="fp32_u8", bias=first.bias, scale=first.alpha, zero=SIGNED_OFFSET)


_DTYPES: dict[str, type] = {
    "shift": np.int32,
    "multiplier": np.int16,
    "scale": np.float32,
    "gain": np.float32,
    "offset": np.float32,
    "lut": np.uint8,
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


def _as(values: Any, dtype: type) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=dtype)
