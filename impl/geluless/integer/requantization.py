"""From an int32 accumulator to the next tensor: one bit-exact specification, and its two-stage rival.

    real value = scale * (q - zero_point)

`requantize`: with a per-channel shift s and multiplier m (m < 2^15, so every product fits int32)

    v = sat16((acc + bias + half) >> s)          half = 2^(s-1), or 0 when s = 0
    y = clamp(((v * m + 2^14) >> 15) + zero_point, low, high)

which is y = acc * M + zero_point with M = m * 2^-15 * 2^-s, rounded once at the end and once, 8 to 16 times finer, in v.
Because v saturates at 16 bits, |y - zero_point| never exceeds m: no limit for an 8-bit tensor (m >= 2048), and for a 16-bit
one (m >= 16384) at worst half of its range.
On AVX-512 it is vpsravd, vpackssdw, vpmulhrsw: three instructions and not one of them in floating point. ReLU is the
lower clamp at the zero point and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.integer.plan import Linear

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
    """int32 [..., N] -> int32 [..., N] in [low, high] as specified above. `acc + bias + half` must fit int32."""
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
class TwoStageRequant:
    """FasterTransformer's way: int8 after the GEMM, then dequantize, add the bias, requantize.

    bias holds only the correction of the input's zero point; alpha and gain are float32 [N] (FasterTransformer keeps one
    scale per tensor), offset is the real bias in units of the output.
    """

    bias: Int32
    alpha: Float32
    gain: Float32
    offset: Float32
    zero_point: int = 0


def requantize_two_stage(acc: Int32, requant: TwoStageRequant, *, low: int, high: int) -> Int32:
    """int32 [..., N] -> int32 [..., N]; fp32 operations in this order, round half to even, no contraction."""
    after_gemm = round_clip((acc + requant.bias).astype(np.float32) * requant.alpha, -128, 127)
    return round_clip(after_gemm.astype(np.float32) * requant.gain + requant.offset, low, high, requant.zero_point)


def round_clip(values: NDArray[np.floating], low: int, high: int, zero_point: int = 0) -> Int32:
    """rint (half to even), plus the zero point, clamped: float -> int32. Clamps first so that the cast cannot overflow."""
    return np.clip(np.rint(values), low - zero_point, high - zero_point).astype(np.int32) + np.int32(zero_point)


def requant_of(name: str, spec: Linear, tensors: Mapping[str, NDArray[Any]]) -> Requant:
    """Of one linear layer that rounds once, from an artifact's tensors."""
    bias, multiplier, shift = (tensors[f"{name}.{part}"] for part in ("bias", "multiplier", "shift"))
    return Requant(bias, multiplier.astype(np.int32), shift, spec.zero_point)


def two_stage_requant_of(name: str, spec: Linear, tensors: Mapping[str, NDArray[Any]]) -> TwoStageRequant:
    """Of one linear layer that rounds twice."""
    bias, alpha, gain, offset = (tensors[f"{name}.{part}"] for part in ("bias", "alpha", "gain", "offset"))
    return TwoStageRequant(bias, alpha, gain, offset, spec.zero_point)
