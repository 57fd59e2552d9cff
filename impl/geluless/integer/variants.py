"""The variants: every way to run the activation between fc1 and fc2, each from the same int32 accumulator.

Integer variants (relu, relu-separate, relu-nobias, gelu-lut, gelu-shift) are bit-exact on every engine. The float variants
compute in the precision named here; relu-float is exact too (one fp32 multiplication and one rounding), the others may
differ between engines by one step of the hidden tensor, where a value lies on a tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import VariantError
from geluless.integer.gelu import gelu_erf, gelu_i_bert, gelu_shift, gelu_tanh
from geluless.integer.plan import Activation, Mlp, Plan, Rounding
from geluless.integer.requantization import (
    INT16_MAX,
    INT16_MIN,
    Int32,
    requant_of,
    requantize,
    requantize_two_stage,
    round_clip,
    two_stage_requant_of,
)


class Variant(StrEnum):
    RELU = "relu"  # fused: the lower clamp of the fixed-point requantization
    RELU_FLOAT = "relu-float"  # fused: one fp32 multiplication instead of the fixed-point one
    RELU_SEPARATE = "relu-separate"  # a pass of its own over fc1's stored output
    RELU_NOBIAS = "relu-nobias"  # fused, fc1 trained without bias
    GELU_LUT = "gelu-lut"  # requantize to 8 bit, then an exact table of 256 entries
    GELU_FUSED = "gelu-fused"  # erf on the dequantized accumulator
    GELU_POLY = "gelu-poly"  # I-BERT's polynomial on the dequantized accumulator
    GELU_SHIFT = "gelu-shift"  # I-ViT's ShiftGELU on the 8-bit pre-activation
    GELU_SEPARATE = "gelu-separate"  # FasterTransformer: int8 to memory, then bias, tanh-GELU and requantization


def available_variants(plan: Plan) -> tuple[Variant, ...]:
    """The variants this artifact can run, its own fused variant first."""
    mlps = [block.mlp for stage in plan.stages for block in stage.blocks]
    two_stage = mlps[0].fc1.rounding is Rounding.TWO_STAGE
    if plan.activation is Activation.RELU:
        if two_stage:
            return (Variant.RELU_SEPARATE,)
        fused = Variant.RELU if all(mlp.has_bias for mlp in mlps) else Variant.RELU_NOBIAS
        return (fused, Variant.RELU_FLOAT, Variant.RELU_SEPARATE)
    if two_stage:
        return (Variant.GELU_SEPARATE,)
    return (Variant.GELU_LUT, Variant.GELU_FUSED, Variant.GELU_POLY, Variant.GELU_SHIFT, Variant.GELU_SEPARATE)


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
    low, high = mlp.fc2.input_low, mlp.fc2.input_high

    def get(part: str) -> NDArray[Any]:
        """One tensor of fc1 by its last name."""
        return tensors[f"{name}.fc1.{part}"]

    if mlp.fc1.rounding is Rounding.TWO_STAGE:
        twice = two_stage_requant_of(f"{name}.fc1", mlp.fc1, tensors)
        if variant == Variant.RELU_SEPARATE:  # gain and offset already lead to the hidden scale: ReLU is the clamp at zero
            return requantize_two_stage(acc, twice, low=max(low, 0), high=high)
        if variant != Variant.GELU_SEPARATE:
            raise VariantError(f"variant {variant} needs an fc1 that rounds once: this artifact rounds twice")
        return _gelu_after_gemm(acc, get("bias"), get("alpha"), get("real_bias"), mlp)
    fixed = requant_of(f"{name}.fc1", mlp.fc1, tensors)
    match Variant(variant):
        case Variant.RELU | Variant.RELU_NOBIAS:
            return requantize(acc, fixed, low=0, high=high)
        case Variant.RELU_SEPARATE:
            unclamped = requantize(acc, fixed, low=INT16_MIN, high=INT16_MAX)
            return np.minimum(np.maximum(unclamped, 0), high)
        case Variant.RELU_FLOAT:
            factor = get("accumulator_scale") / np.float32(mlp.hidden_scale)
            return round_clip((acc + get("bias")).astype(np.float32) * factor, 0, high)
        case Variant.GELU_LUT:
            return tensors[f"{name}.table"][requantize(acc, fixed, low=0, high=255)].astype(np.int32)
        case Variant.GELU_SHIFT:
            pre = requantize(acc, fixed, low=0, high=255)
            steps = np.arange(256, dtype=np.int64) - mlp.pre_zero_point
            table = round_clip(gelu_shift(steps, mlp.pre_scale) / mlp.hidden_scale, low, high, mlp.hidden_zero_point)
            return table[pre]
        case Variant.GELU_FUSED | Variant.GELU_POLY:
            gelu = gelu_erf if variant == Variant.GELU_FUSED else gelu_i_bert
            x = (acc + get("bias")).astype(np.float32) * get("accumulator_scale")
            return round_clip(gelu(x) / np.float32(mlp.hidden_scale), low, high, mlp.hidden_zero_point)
        case Variant.GELU_SEPARATE:
            alpha = get("accumulator_scale") / np.float32(mlp.after_gemm_scale)
            return _gelu_after_gemm(acc, np.zeros(1, np.int32), alpha, get("real_bias"), mlp)


def _gelu_after_gemm(acc: Int32, correction: NDArray[Any], alpha: NDArray[Any], real_bias: NDArray[Any], mlp: Mlp) -> Int32:
    """FasterTransformer's add_bias_gelu kernel: the GEMM's int8, dequantized, biased, tanh-GELU, requantized."""
    after_gemm = round_clip((acc + correction).astype(np.float32) * alpha, -128, 127).astype(np.float32)
    x = after_gemm * np.float32(mlp.after_gemm_scale) + real_bias
    low, high = mlp.fc2.input_low, mlp.fc2.input_high
    return round_clip(gelu_tanh(x) / np.float32(mlp.hidden_scale), low, high, mlp.hidden_zero_point)
