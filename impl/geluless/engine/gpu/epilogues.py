"""The epilogue of every linear layer, as a value: which formula of kernels/linear.py, with which constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.program import Float
from geluless.errors import VariantError
from geluless.integer import plan as p
from geluless.integer.gelu import gelu_shift_constants
from geluless.integer.requantization import Requant
from geluless.integer.variants import Variant, available_variants, requant_after_gemm

Tensors = Mapping[str, NDArray[Any]]
OFFSET = 128  # an unsigned 8-bit tensor is stored minus this, as int8
HALF = 1 << 14  # of the last shift of a requantization
NO_KERNEL = frozenset({Variant.GELU_IBERT})


@dataclass(frozen=True)
class Epilogue:
    """`bias` and `factor` per channel (int32 multipliers or float32 scales); the others where the formula has them.

    zero, lowest and highest are stored values; rounding is the last shift's half and, for 8-bit results, zero << 15.
    """

    formula: str
    bias: NDArray[np.int64]
    factor: NDArray[Any]
    shift: NDArray[Any] | None = None
    gain: NDArray[Any] | None = None
    offset: NDArray[Any] | None = None
    table: NDArray[np.int8] | None = None
    rounding: int = HALF
    zero: int = 0
    lowest: int = -128
    highest: int = 127
    inverse_scale: float = 1.0
    top: int = 0
    unit: int = 1
    negative: int = 0


@dataclass(frozen=True)
class SeparateKernel:
    """A kernel of its own behind fc1, by its name in kernels/activation.py. `from_s16`: fc1 leaves int16 for it, not int8."""

    kernel: str
    arrays: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, int | Float]
    from_s16: bool = False


def gpu_variants(plan: p.Plan) -> tuple[Variant, ...]:
    """Those of an artifact's variants that the GPU engine has kernels for."""
    return tuple(variant for variant in available_variants(plan) if variant not in NO_KERNEL)


def linear_epilogue(name: str, spec: p.Linear, tensors: Tensors, *, output_stage: str) -> Epilogue:
    """Of a layer without activation, by what becomes of its result: s8, s16, or residual (added to the int16 stream)."""
    zero = spec.zero_point - (OFFSET if output_stage == "s8" and spec.low == 0 else 0)
    if spec.rounding is p.Rounding.SINGLE:
        rounding = HALF + (zero << 15) if output_stage == "s8" else HALF
        return _fixed(output_stage, name, tensors, zero=zero, rounding=rounding)
    bias, alpha, gain, offset = (tensors[f"{name}.{part}"] for part in ("bias", "alpha", "gain", "offset"))
    return Epilogue(f"two-stage-{output_stage}", bias.astype(np.int64), alpha, gain=gain, offset=offset, zero=zero)


def variant_epilogue(name: str, mlp: p.Mlp, tensors: Tensors, variant: Variant) -> tuple[Epilogue, SeparateKernel | None]:
    """fc1 of the MLP `name` with the variant's activation, or with a kernel behind it. Raises VariantError for a variant that
    cannot be."""
    fc1 = f"{name}.fc1"

    def get(part: str) -> NDArray[Any]:
        """One tensor of fc1 by its last name."""
        return tensors[f"{fc1}.{part}"]

    stored = OFFSET if mlp.fc2.input_low == 0 else 0
    highest = mlp.fc2.input_high - stored
    hidden: dict[str, Any] = {"zero": mlp.hidden_zero_point - stored, "lowest": mlp.fc2.input_low - stored, "highest": highest}
    inverse_scale = float(np.float32(1.0) / np.float32(mlp.hidden_scale))
    bias = get("bias").astype(np.int64)
    two_stage = mlp.fc1.rounding is p.Rounding.TWO_STAGE
    match variant:
        case Variant.RELU | Variant.RELU_NOBIAS:
            return _fixed("relu", fc1, tensors, rounding=HALF - (stored << 15), highest=highest), None
        case Variant.RELU_FLOAT:
            scale = get("accumulator_scale") / np.float32(mlp.hidden_scale)
            return Epilogue("relu-float", bias, scale, zero=-stored, highest=highest), None
        case Variant.RELU_SEPARATE if not two_stage:
            scalars = {"zero": -stored, "highest": highest}
            return _fixed("s16", fc1, tensors), SeparateKernel("relu_s16", {}, scalars, from_s16=True)
        case Variant.RELU_SEPARATE | Variant.RELU_SEPARATE_INT8:
            twice = requant_after_gemm(fc1, mlp, tensors)
            arrays = {"gain": twice.gain, "offset": twice.offset}
            scalars = {"zero": twice.zero_point - stored, "lowest": -stored, "highest": highest}
            return _after_gemm(fc1, mlp, tensors), SeparateKernel("relu_after_gemm", arrays, scalars)
        case Variant.GELU_SEPARATE:
            steps = {"scale": Float(float(np.float32(mlp.after_gemm_scale))), "inverse_scale": Float(inverse_scale)}
            separate = SeparateKernel("gelu_after_gemm", {"bias": get("real_bias")}, {**steps, **hidden})
            return _after_gemm(fc1, mlp, tensors), separate
        case Variant.GELU_FUSED:
            return Epilogue("gelu-erf", bias, get("accumulator_scale"), inverse_scale=inverse_scale, **hidden), None
        case Variant.GELU_FUSED_TANH:
            return Epilogue("gelu-tanh", bias, get("accumulator_scale"), inverse_scale=inverse_scale, **hidden), None
        case Variant.GELU_POLY:
            return Epilogue("gelu-polynomial", bias, get("accumulator_scale"), inverse_scale=inverse_scale, **hidden), None
        case Variant.GELU_IBERT:
            raise VariantError(f"variant {variant} has no GPU kernel: use backend='cpu'")
        case Variant.GELU_LUT | Variant.GELU_SHIFT:
            if not stored:
                raise VariantError(f"{name}: variant {variant} needs an unsigned hidden tensor; quantize with unsigned_hidden")
            if variant is Variant.GELU_SHIFT:
                return _shift_gelu(name, mlp, tensors), None
            table = (tensors[f"{name}.table"].astype(np.int16) - OFFSET).astype(np.int8)
            return _fixed("lut", fc1, tensors, rounding=HALF + (mlp.fc1.zero_point << 15), table=table), None


def _fixed(formula: str, name: str, tensors: Tensors, **constants: Any) -> Epilogue:
    """A requantization in integers; the first shift's half goes into the bias."""
    bias, multiplier, shift = (tensors[f"{name}.{part}"] for part in ("bias", "multiplier", "shift"))
    half = Requant(bias, multiplier.astype(np.int32), shift).half
    return Epilogue(formula, bias.astype(np.int64) + half, multiplier, shift, **constants)


def _after_gemm(fc1: str, mlp: p.Mlp, tensors: Tensors) -> Epilogue:
    """fc1 as FasterTransformer's GEMM leaves it: int8."""
    first = requant_after_gemm(fc1, mlp, tensors)
    return Epilogue("after-gemm", first.bias.astype(np.int64), first.alpha)


def _shift_gelu(name: str, mlp: p.Mlp, tensors: Tensors) -> Epilogue:
    """ShiftGELU's constants; see integer.gelu.gelu_shift. Units above 255 would leave 32 bits."""
    zero = mlp.pre_zero_point
    top, unit, negative = gelu_shift_constants(np.arange(256, dtype=np.int64) - zero, mlp.pre_scale)
    if unit > 255:
        raise VariantError(f"{name}: variant gelu-shift needs a pre-activation scale above 1/256 on the GPU: use backend='cpu'")
    return _fixed(
        "gelu-shift",
        f"{name}.fc1",
        tensors,
        zero=mlp.hidden_zero_point - OFFSET,
        lowest=-zero,
        highest=255 - zero,
        inverse_scale=mlp.pre_scale / 2.0**7 / mlp.hidden_scale,
        top=top,
        unit=unit,
        negative=min(negative, 2**31 - 1),
    )


def saturates(epilogue: Epilogue, spec: p.Linear, weight: NDArray[np.int8]) -> bool:
    """Whether sat16 of v = (acc + bias) >> shift can change a result; False lets a kernel leave it out.

    It cannot where v fits 16 bits whatever the input. Nor can it before an 8-bit clamp: with multiplier >= 512 a saturated v
    gives at least 32767 * 512 / 2^15 > 511 steps, beyond every clamp, and so does a larger one as long as the product fits int32.
    """
    if epilogue.shift is None:  # a float formula
        return False
    reach = np.abs(weight, dtype=np.int16).sum(1, dtype=np.int64) * max(-spec.input_low, spec.input_high)
    largest = (reach + np.abs(epilogue.bias) >> epilogue.shift.astype(np.int64)) + 1
    multiplier = epilogue.factor.astype(np.int64)
    product_fits = largest * multiplier + abs(epilogue.rounding) < 2**31
    beyond_clamps = (multiplier >= 512) & (epilogue.formula not in ("s16", "residual"))
    return bool(((largest > 2**15 - 1) & ~(beyond_clamps & product_fits)).any())
