"""The arms: every way to run the activation between fc1 and fc2, each from the same int32 accumulator.

Integer arms (relu, relu-separate, relu-nobias, gelu-lut, gelu-shift) are bit-exact on every engine. The float arms
compute in the precision named here; relu-float is exact too (one fp32 multiplication and one rounding), the others may
differ between engines by one step of the hidden tensor, where a value lies on a tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from geluless.engine.epilogue import (
    INT16_MAX,
    INT16_MIN,
    DoubleRequant,
    Int32,
    Requant,
    gelu_erf,
    gelu_i_bert,
    gelu_shift,
    gelu_tanh,
    requantize,
    requantize_twice,
    round_clip,
)
from geluless.engine.plan import Activation, Mlp, Plan, Rounding
from geluless.errors import ArmError


class Arm(StrEnum):
    RELU = "relu"  # fused: the lower clamp of the fixed-point requantization
    RELU_FLOAT = "relu-float"  # fused: one fp32 multiplication instead of the fixed-point one
    RELU_SEPARATE = "relu-separate"  # a pass of its own over fc1's stored output
    RELU_NOBIAS = "relu-nobias"  # fused, fc1 trained without bias
    GELU_LUT = "gelu-lut"  # requantize to 8 bit, then an exact table of 256 entries
    GELU_FUSED = "gelu-fused"  # erf on the dequantized accumulator
    GELU_POLY = "gelu-poly"  # I-BERT's polynomial on the dequantized accumulator
    GELU_SHIFT = "gelu-shift"  # I-ViT's ShiftGELU on the 8-bit pre-activation
    GELU_SEPARATE = "gelu-separate"  # FasterTransformer: int8 to memory, then bias, tanh-GELU and requantization


def available_arms(plan: Plan) -> tuple[Arm, ...]:
    """The arms this artifact can run, its own fused arm first."""
    mlps = [block.mlp for stage in plan.stages for block in stage.blocks]
    double = mlps[0].fc1.rounding is Rounding.DOUBLE
    if plan.activation is Activation.RELU:
        if double:
            return (Arm.RELU_SEPARATE,)
        fused = Arm.RELU if all(mlp.has_bias for mlp in mlps) else Arm.RELU_NOBIAS
        return (fused, Arm.RELU_FLOAT, Arm.RELU_SEPARATE)
    if double:
        return (Arm.GELU_SEPARATE,)
    return (Arm.GELU_LUT, Arm.GELU_FUSED, Arm.GELU_POLY, Arm.GELU_SHIFT, Arm.GELU_SEPARATE)


def choose_arm(plan: Plan, arm: str | None) -> Arm:
    """The requested arm, or the artifact's own fused arm for None. Raises ArmError when the artifact cannot run it."""
    available = available_arms(plan)
    if arm is None:
        return available[0]
    names = ", ".join(a.value for a in available)
    try:
        chosen = Arm(arm)
    except ValueError:
        raise ArmError(f"no arm is called {arm!r}; this {plan.activation.value} artifact runs {names}") from None
    if chosen not in available:
        kind = f"{plan.activation.value} artifact (profile {plan.profile})"
        raise ArmError(f"arm {chosen.value} does not fit this {kind}; it runs {names}")
    return chosen


def hidden_activation(acc: Int32, name: str, mlp: Mlp, tensors: Mapping[str, NDArray], arm: str) -> Int32:
    """fc1's int32 accumulator [..., hidden] -> the 8-bit hidden tensor [..., hidden] of fc2."""
    low, high = mlp.fc2.input_low, mlp.fc2.input_high
    get = lambda part: tensors[f"{name}.fc1.{part}"]  # noqa: E731 - one tensor of fc1 by its last name
    if mlp.fc1.rounding is Rounding.DOUBLE:
        twice = DoubleRequant(get("bias"), get("alpha"), get("gain"), get("offset"), mlp.fc1.zero_point)
        if arm == Arm.RELU_SEPARATE:  # gain and offset already lead to the hidden scale: ReLU is the clamp at zero
            return requantize_twice(acc, twice, low=max(low, 0), high=high)
        if arm != Arm.GELU_SEPARATE:
            raise ArmError(f"arm {arm} needs an fc1 that rounds once: this artifact rounds twice")
        return _gelu_after_gemm(acc, get("bias"), get("alpha"), get("real_bias"), mlp)
    fixed = Requant(get("bias"), get("multiplier").astype(np.int32), get("shift"), mlp.fc1.zero_point)
    match Arm(arm):
        case Arm.RELU | Arm.RELU_NOBIAS:
            return requantize(acc, fixed, low=0, high=high)
        case Arm.RELU_SEPARATE:
            unclamped = requantize(acc, fixed, low=INT16_MIN, high=INT16_MAX)
            return np.minimum(np.maximum(unclamped, 0), high)
        case Arm.RELU_FLOAT:
            factor = get("accumulator_scale") / np.float32(mlp.hidden_scale)
            return round_clip((acc + get("bias")).astype(np.float32) * factor, 0, high)
        case Arm.GELU_LUT:
            return tensors[f"{name}.table"][requantize(acc, fixed, low=0, high=255)].astype(np.int32)
        case Arm.GELU_SHIFT:
            pre = requantize(acc, fixed, low=0, high=255)
            steps = np.arange(256, dtype=np.int64) - mlp.pre_zero_point
            table = round_clip(gelu_shift(steps, mlp.pre_scale) / mlp.hidden_scale, low, high, mlp.hidden_zero_point)
            return table[pre]
        case Arm.GELU_FUSED | Arm.GELU_POLY:
            gelu = gelu_erf if arm == Arm.GELU_FUSED else gelu_i_bert
            x = (acc + get("bias")).astype(np.float32) * get("accumulator_scale")
            return round_clip(gelu(x) / np.float32(mlp.hidden_scale), low, high, mlp.hidden_zero_point)
        case Arm.GELU_SEPARATE:
            alpha = get("accumulator_scale") / np.float32(mlp.after_gemm_scale)
            return _gelu_after_gemm(acc, np.zeros(1, np.int32), alpha, get("real_bias"), mlp)


def _gelu_after_gemm(acc: Int32, correction: NDArray, alpha: NDArray, real_bias: NDArray, mlp: Mlp) -> Int32:
    """FasterTransformer's add_bias_gelu kernel: the GEMM's int8, dequantized, biased, tanh-GELU, requantized."""
    after_gemm = round_clip((acc + correction).astype(np.float32) * alpha, -128, 127).astype(np.float32)
    x = after_gemm * np.float32(mlp.after_gemm_scale) + real_bias
    low, high = mlp.fc2.input_low, mlp.fc2.input_high
    return round_clip(gelu_tanh(x) / np.float32(mlp.hidden_scale), low, high, mlp.hidden_zero_point)
