"""The variants: every way to run the activation between fc1 and fc2, each from the same int32 accumulator.

Integer variants (relu, relu-separate, relu-nobias, gelu-lut, gelu-ibert, gelu-shift) are bit-exact on every engine. The float
variants compute in the precision named here. ReLU's are exact too (fp32 products and sums in a fixed order), the others may
differ between engines by one step of the hidden tensor, where a value lies on a tie.

Pairs that differ in exactly one thing; weights, norms and geometry are always the same:

    relu-float          gelu-fused-tanh       the function, ReLU or tanh-GELU, of the same fp32 number in fc1's epilogue
    relu-separate-int8  gelu-separate         the function, ReLU or tanh-GELU, of the same int8 in a pass that writes 8 bits
    relu-float          relu-separate-int8    the pass: from fp32 to 8 bits at once, or by way of an int8 in memory
    gelu-fused-tanh     gelu-separate         the pass, likewise
    gelu-fused          gelu-fused-tanh       how GELU is computed: erf or tanh
    relu                relu-float            the requantization: in integers, or by one fp32 multiplication

The first four are a factorial, {ReLU, GELU} x {fused, separate}. relu-separate and gelu-separate are no such pair, for what they
store between fc1 and the pass is not the same: requantized int16, and FasterTransformer's int8. How a pass is scheduled
(`blocked` of engine.Engine) is no variant: the bits stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import VariantError
from geluless.integer.gelu import gelu_erf, gelu_i_bert, gelu_shift, gelu_tanh, i_bert_table
from geluless.integer.plan import Activation, Mlp, Plan, Rounding
from geluless.integer.requantization import (
    INT16_MAX,
    INT16_MIN,
    Int32,
    TwoStageRequant,
    requant_of,
    requantize,
    requantize_two_stage,
    round_clip,
    two_stage_requant_of,
)


class Variant(StrEnum):
    RELU = "relu"  # fused: the lower clamp of the fixed-point requantization
    RELU_FLOAT = "relu-float"  # fused: one fp32 multiplication instead of the fixed-point one
    RELU_SEPARATE = "relu-separate"  # a pass of its own over fc1's stored output: int16, or int8 where fc1 rounds twice
    RELU_SEPARATE_INT8 = "relu-separate-int8"  # ReLU where gelu-separate has GELU: int8 to memory, then bias and requantization
    RELU_NOBIAS = "relu-nobias"  # fused, fc1 trained without bias
    GELU_LUT = "gelu-lut"  # requantize to 8 bit, then an exact table of 256 entries
    GELU_FUSED = "gelu-fused"  # erf on the dequantized accumulator
    GELU_FUSED_TANH = "gelu-fused-tanh"  # gelu-separate's tanh on the dequantized accumulator
    GELU_POLY = "gelu-poly"  # I-BERT's polynomial on the dequantized accumulator
    GELU_IBERT = "gelu-ibert"  # the same in I-BERT's integers, on the 8-bit pre-activation
    GELU_SHIFT = "gelu-shift"  # I-ViT's ShiftGELU on the 8-bit pre-activation
    GELU_SEPARATE = "gelu-separate"  # FasterTransformer: int8 to memory, then bias, tanh-GELU and requantization


# The activation is a pass of its own over what fc1 has stored.
SEPARATE = frozenset({Variant.RELU_SEPARATE, Variant.RELU_SEPARATE_INT8, Variant.GELU_SEPARATE})


def available_variants(plan: Plan) -> tuple[Variant, ...]:
    """The variants this artifact can run, its own fused variant first."""
    mlps = [block.mlp for stage in plan.stages for block in stage.blocks]
    two_stage = mlps[0].fc1.rounding is Rounding.TWO_STAGE
    if plan.activation is Activation.RELU:
        if two_stage:
            return (Variant.RELU_SEPARATE,)
        fused = Variant.RELU if all(mlp.has_bias for mlp in mlps) else Variant.RELU_NOBIAS
        return (fused, Variant.RELU_FLOAT, Variant.RELU_SEPARATE, Variant.RELU_SEPARATE_INT8)
    if two_stage:
        return (Variant.GELU_SEPARATE,)
    fp32 = (Variant.GELU_FUSED, Variant.GELU_FUSED_TANH, Variant.GELU_POLY)
    return (Variant.GELU_LUT, *fp32, Variant.GELU_IBERT, Variant.GELU_SHIFT, Variant.GELU_SEPARATE)


def choose_variant(plan: Plan, variant: str | None) -> Variant:
    """The requested variant, or the artifact's own fused variant for None. Raises VariantError when the artifact cannot run
    it."""
    available = available_variants(plan)
    if variant is None:
        return available[0]
    names = ", ".join(a.value for a in available)
    try:
        chosen = Variant(variant)
    except ValueError:
        raise VariantError(f"no variant is called {variant!r}; this {plan.activation.value} artifact runs {names}") from None
    if chosen not in available:
        kind = f"{plan.activation.value} artifact (profile {plan.profile})"
        raise VariantError(f"variant {chosen.value} does not fit this {kind}; it runs {names}")
    return chosen


def hidden_activation(acc: Int32, name: str, mlp: Mlp, tensors: Mapping[str, NDArray[Any]], variant: str) -> Int32:
    """fc1's int32 accumulator [..., hidden] -> the 8-bit hidden tensor [..., hidden] of fc2."""
    fc1, chosen, two_stage = f"{name}.fc1", Variant(variant), mlp.fc1.rounding is Rounding.TWO_STAGE
    low, high, zero_point = mlp.fc2.input_low, mlp.fc2.input_high, mlp.hidden_zero_point
    if two_stage and chosen not in (Variant.RELU_SEPARATE, Variant.GELU_SEPARATE):
        raise VariantError(f"variant {variant} needs an fc1 that rounds once: this artifact rounds twice")

    def get(part: str) -> NDArray[Any]:
        """One tensor of fc1 by its last name."""
        return tensors[f"{fc1}.{part}"]

    def requantized(low: int, high: int) -> Int32:
        return requantize(acc, requant_of(fc1, mlp.fc1, tensors), low=low, high=high)

    match chosen:
        case Variant.RELU | Variant.RELU_NOBIAS:
            return requantized(0, high)
        case Variant.RELU_SEPARATE if not two_stage:
            return np.minimum(np.maximum(requantized(INT16_MIN, INT16_MAX), 0), high)
        case Variant.RELU_SEPARATE | Variant.RELU_SEPARATE_INT8:  # the gain leads to the hidden scale: ReLU is the clamp at zero
            return requantize_two_stage(acc, requant_after_gemm(fc1, mlp, tensors), low=0, high=high)
        case Variant.RELU_FLOAT:
            factor = get("accumulator_scale") / np.float32(mlp.hidden_scale)
            return round_clip((acc + get("bias")).astype(np.float32) * factor, 0, high)
        case Variant.GELU_LUT:
            return tensors[f"{name}.table"][requantized(0, 255)].astype(np.int32)
        case Variant.GELU_SHIFT:
            steps = np.arange(256, dtype=np.int64) - mlp.pre_zero_point
            table = round_clip(gelu_shift(steps, mlp.pre_scale) / mlp.hidden_scale, low, high, zero_point)
            return table[requantized(0, 255)]
        case Variant.GELU_IBERT:
            scales = (mlp.pre_scale, mlp.pre_zero_point, mlp.hidden_scale, zero_point)
            return i_bert_table(*scales, low=low, high=high)[requantized(0, 255)]
        case Variant.GELU_FUSED | Variant.GELU_FUSED_TANH | Variant.GELU_POLY:
            functions = {Variant.GELU_FUSED: gelu_erf, Variant.GELU_FUSED_TANH: gelu_tanh, Variant.GELU_POLY: gelu_i_bert}
            x = (acc + get("bias")).astype(np.float32) * get("accumulator_scale")
            return round_clip(functions[chosen](x) / np.float32(mlp.hidden_scale), low, high, zero_point)
        case Variant.GELU_SEPARATE:
            first = requant_after_gemm(fc1, mlp, tensors)
            after_gemm = round_clip((acc + first.bias).astype(np.float32) * first.alpha, -128, 127).astype(np.float32)
            x = after_gemm * np.float32(mlp.after_gemm_scale) + get("real_bias")
            return round_clip(gelu_tanh(x) / np.float32(mlp.hidden_scale), low, high, zero_point)


def requant_after_gemm(fc1: str, mlp: Mlp, tensors: Mapping[str, NDArray[Any]]) -> TwoStageRequant:
    """What FasterTransformer's structure does with fc1: rounds to the int8 that is stored, and in its add_bias_relu kernel to the
    hidden tensor. The artifact's own, or, of an fc1 that rounds once, by way of the scale that the int8 would have."""
    if mlp.fc1.rounding is Rounding.TWO_STAGE:
        return two_stage_requant_of(fc1, mlp.fc1, tensors)
    outputs, stored, hidden = mlp.fc1.outputs, np.float32(mlp.after_gemm_scale), np.float32(mlp.hidden_scale)
    alpha: NDArray[Any] = tensors[f"{fc1}.accumulator_scale"] / stored
    offset: NDArray[Any] = tensors[f"{fc1}.real_bias"] / hidden
    return TwoStageRequant(np.zeros(outputs, np.int32), alpha, np.full(outputs, stored / hidden, np.float32), offset)
