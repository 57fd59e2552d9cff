"""From an int32 accumulator to the next tensor: the one integer law, its double-rounding rival, and every MLP arm.

    real value = scale * (q - zero_point)

The law (`requantize`): with a per-channel shift s and multiplier m (m < 2^15, so every product fits int32)

    v = sat16((acc + bias + half) >> s)          half = 2^(s-1), or 0 when s = 0
    y = clamp(((v * m + 2^14) >> 15) + zero_point, low, high)

which is y = acc * M + zero_point with M = m * 2^-15 * 2^-s, rounded once at the end and once, 8 to 16 times finer, in v.
Because v saturates at 16 bits, |y - zero_point| never exceeds m: no limit for an 8-bit tensor (m >= 2048), and for a 16-bit
one (m >= 16384) at worst half of its range.
On AVX-512 it is vpsravd, vpackssdw, vpmulhrsw: three instructions and not one of them in floating point. ReLU is the
lower clamp at the zero point and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1
MULTIPLIER_BITS = 15


@dataclass(frozen=True)
class Requant:
    """Bias in accumulator units, then the multiplier M = multiplier * 2^-15 * 2^-shift, per output channel."""

    bias: Int32  # [N]
    multiplier: Int32  # [N], 0..32767
    shift: NDArray[np.uint8]  # [N], 0..30
    zero_point: int = 0

    @property
    def half(self) -> Int32:
        """What turns the arithmetic shift (a floor) into rounding; engines fold it into the bias when they pack."""
        return np.where(self.shift > 0, np.int32(1) << (np.maximum(self.shift, 1) - 1).astype(np.int32), 0).astype(np.int32)


def requantize(acc: Int32, requant: Requant, *, low: int, high: int) -> Int32:
    """int32 [..., N] -> int32 [..., N] in [low, high] by the law above. `acc + bias + half` must fit int32."""
    shifted = (acc + (requant.bias + requant.half)) >> requant.shift.astype(np.int32)
    narrow = np.clip(shifted, INT16_MIN, INT16_MAX)
    scaled = (narrow * requant.multiplier.astype(np.int32) + (1 << 14)) >> MULTIPLIER_BITS
    return np.clip(scaled + np.int32(requant.zero_point), low, high)


def encode_multiplier(real: NDArray[np.float64], *, bits: int) -> tuple[Int32, NDArray[np.uint8]]:
    """Split M > 0 [N] into (multiplier, shift).

    `bits` = 12 for 8-bit outputs: m in [2048, 4096) balances the rounding of m (2^-12 relative) against that of v, which
    then has 12 significant bits. `bits` = 15 for 16-bit outputs, which need every bit of v. M >= 1 cannot be expressed
    (the output would be finer than the accumulator itself): callers choose output scales so that it does not occur.
    """
    real = np.asarray(real, np.float64)
    if not (np.isfinite(real).all() and (real > 0).all() and (real < 1).all()):
        raise ValueError("a requantization multiplier must lie in (0, 1)")
    _, exponent = np.frexp(real)  # real = mantissa * 2^exponent, mantissa in [0.5, 1)
    shift = np.clip(bits - MULTIPLIER_BITS - exponent, 0, 30)
    multiplier = np.rint(np.ldexp(real, MULTIPLIER_BITS + shift))
    carried = multiplier >= 2**bits  # the mantissa rounded up to 1
    shift = np.where(carried & (shift > 0), shift - 1, shift)
    multiplier = np.rint(np.ldexp(real, MULTIPLIER_BITS + shift))
    return np.clip(multiplier, 0, 32767).astype(np.int32), shift.astype(np.uint8)


@dataclass(frozen=True)
class DoubleRequant:
    """FasterTransformer's way: int8 after the GEMM, then dequantize, add the bias, requantize.

    bias holds only the correction of the input's zero point; alpha and gain are float32 [N] (FasterTransformer keeps one
    scale per tensor), offset is the real bias in units of the output.
    """

    bias: Int32
    alpha: Float32
    gain: Float32
    offset: Float32
    zero_point: int = 0


def requantize_twice(acc: Int32, requant: DoubleRequant, *, low: int, high: int) -> Int32:
    """int32 [..., N] -> int32 [..., N]; fp32 operations in this order, round half to even, no contraction."""
    after_gemm = round_clip((acc + requant.bias).astype(np.float32) * requant.alpha, -128, 127)
    return round_clip(after_gemm.astype(np.float32) * requant.gain + requant.offset, low, high, requant.zero_point)


def round_clip(values: NDArray[np.floating], low: int, high: int, zero_point: int = 0) -> Int32:
    """rint (half to even), plus the zero point, clamped: float -> int32. Clamps first so that the cast cannot overflow."""
    return np.clip(np.rint(values), low - zero_point, high - zero_point).astype(np.int32) + np.int32(zero_point)


# --------------------------------------------------------------------------------------------------- GELU, five ways


SQRT_HALF = 0.5**0.5


def gelu_erf(x: NDArray) -> NDArray:
    """GELU(x) = x/2 (1 + erf(x / sqrt 2)): the activation Swin was trained with."""
    return 0.5 * x * (1.0 + erf(x * SQRT_HALF))


def gelu_tanh(x: NDArray) -> NDArray:
    """The tanh form that FasterTransformer's kernel computes instead of erf."""
    return 0.5 * x * (1.0 + np.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


def gelu_i_bert(x: NDArray) -> NDArray:
    """I-BERT's i-GELU (arXiv 2101.01321, eq. 8): erf by a clipped second-order polynomial."""
    z = np.abs(x) * SQRT_HALF
    polynomial = -0.2888 * (np.minimum(z, 1.769) - 1.769) ** 2 + 1.0
    return 0.5 * x * (1.0 + np.sign(x) * polynomial)


EXPONENT_BITS = 23  # I-ViT's n for IntGELU


def gelu_shift(q: NDArray[np.int64], scale: float) -> NDArray[np.float64]:
    """I-ViT's ShiftGELU (arXiv 2207.01405, section 3.3): x * sigmoid(1.702 x) with shifts for the exponentials.

    q: integers, real x = scale * q. 1.702 x is taken as x + x/2 + x/8 + x/16 by shifts; exp(d), d <= 0, as 2^(d log2 e)
    with log2 e = 1 + 1/2 - 1/16 and a linear 2^f on (-1, 0]. Returns real values.
    """
    q = np.asarray(q, np.int64)
    scaled = q + (q >> 1) + (q >> 3) + (q >> 4)
    top = np.maximum(scaled.max(initial=0), 0)
    unit = min(max(round(1.0 / scale), 1), 2**32)  # one, in steps of `scale`; beyond 2^32 every sigmoid is a step anyway

    def exponential(d: NDArray[np.int64]) -> NDArray[np.int64]:
        d = d + (d >> 1) - (d >> 4)
        d = np.maximum(d, -EXPONENT_BITS * unit)
        whole, rest = -d // unit, -(-d % unit)
        return (((rest >> 1) + unit) << EXPONENT_BITS) >> whole

    positive = exponential(scaled - top)
    total = np.clip(positive + exponential(np.full_like(q, -top)), 1, 2**31 - 1)
    factor = (2**31 - 1) // total
    sigmoid = (positive * factor) >> 24  # 7 fractional bits
    return q * scale * sigmoid / 2.0**7


def gelu_table(
    pre_scale: float,
    pre_zero_point: int,
    hidden_scale: float,
    hidden_zero_point: int,
    *,
    function: Callable[[NDArray], NDArray] = gelu_erf,
) -> NDArray[np.uint8]:
    """All 256 values of an 8-bit GELU, rounded half to even: uint8 [256], index = quantized pre-activation."""
    x = pre_scale * (np.arange(256, dtype=np.float64) - pre_zero_point)
    return np.clip(np.rint(function(x) / hidden_scale) + hidden_zero_point, 0, 255).astype(np.uint8)
