"""GELU six ways: exact, and as each approximation that the claims compare with ReLU defines it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SQRT_HALF = 0.5**0.5


def erf(x: NDArray[Any]) -> NDArray[Any]:
    """The error function, float -> the same type: scipy's, which is fast, or where that is not installed the C library's."""
    try:
        from scipy import special
    except ImportError:
        return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)
    return special.erf(x)


def gelu_erf(x: NDArray[Any]) -> NDArray[Any]:
    """GELU(x) = x/2 (1 + erf(x / sqrt 2)): the activation Swin was trained with."""
    return 0.5 * x * (1.0 + erf(x * SQRT_HALF))


def gelu_tanh(x: NDArray[Any]) -> NDArray[Any]:
    """The tanh form that FasterTransformer's kernel computes instead of erf."""
    return 0.5 * x * (1.0 + np.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


I_BERT_A, I_BERT_B = -0.2888, -1.769  # erf(z) = a (min(z, -b) + b)^2 + 1 for z >= 0


def gelu_i_bert(x: NDArray[Any]) -> NDArray[Any]:
    """I-BERT's i-GELU (arXiv 2101.01321, eq. 8): erf by a clipped second-order polynomial."""
    z = np.abs(x) * SQRT_HALF
    polynomial = I_BERT_A * (np.minimum(z, -I_BERT_B) + I_BERT_B) ** 2 + 1.0
    return 0.5 * x * (1.0 + np.sign(x) * polynomial)


@dataclass(frozen=True)
class IBertConstants:
    """What I-BERT's integers need of the scales: worked out beforehand, as the paper does, and never while the network runs."""

    knee: int  # -q_b: from here on erf is one
    one: int  # -q_1 = -q_c: one, in steps of erf (whose scale, a S^2, is negative)
    multiplier: int  # with `shift` the dyadic number M = multiplier * 2^-15 * 2^-shift, from the product's scale to the result's
    shift: int

    @property
    def half(self) -> int:
        return 1 << self.shift >> 1 if self.shift > 0 else 0


def i_bert_constants(scale: float, result_scale: float) -> IBertConstants:
    """For an input in steps of `scale` and a result in steps of `result_scale`; a multiplier of 12 bits, as 8-bit results get."""
    erf_scale = scale * SQRT_HALF
    step = -I_BERT_A * erf_scale * erf_scale
    mantissa, exponent = math.frexp(scale * step / 2 / result_scale)
    return IBertConstants(
        knee=-math.floor(I_BERT_B / erf_scale),
        one=-math.floor(-1 / step),
        multiplier=round(mantissa * 2**12),
        shift=-3 - exponent,
    )


def gelu_i_bert_integer(q: NDArray[Any], constants: IBertConstants) -> NDArray[Any]:
    """I-BERT's i-GELU in its integer-only form (arXiv 2101.01321, algorithms 1 and 2), and the requantization behind it.

    q: integers -255..255, whose scale is in the constants. Returns unclamped steps of the result, of the dtype given: `object`
    has room for the constants of any scale, int64 for those from 2^-20 to 1.
    """
    distance = np.minimum(np.abs(q), constants.knee) - constants.knee
    erf = np.sign(q) * (distance * distance - constants.one)  # times a S^2, which is negative
    product = q * (constants.one - erf)
    shifted = product + constants.half >> constants.shift if constants.shift >= 0 else product << -constants.shift
    return np.clip(shifted, -(2**15), 2**15 - 1) * constants.multiplier + 2**14 >> 15


def i_bert_table(
    pre_scale: float, pre_zero_point: int, hidden_scale: float, hidden_zero_point: int, *, low: int, high: int
) -> NDArray[np.int32]:
    """The hidden value of each of the 256 pre-activations: int32 [256]."""
    q = np.arange(256).astype(object) - pre_zero_point
    steps = gelu_i_bert_integer(q, i_bert_constants(pre_scale, hidden_scale))
    return np.clip(steps + hidden_zero_point, low, high).astype(np.int32)


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


def gelu_shift_constants(q: NDArray[np.int64], scale: float) -> tuple[int, int, int]:
    """What is the same for all elements of `gelu_shift`: (the largest 1.702 q; one, in steps of `scale`; exp(-largest))."""
    top = max(int((q + (q >> 1) + (q >> 3) + (q >> 4)).max()), 0)
    unit = min(max(round(1.0 / scale), 1), 2**32)
    exponent = max(-top + (-top >> 1) - (-top >> 4), -EXPONENT_BITS * unit)
    whole, rest = -exponent // unit, -(-exponent % unit)
    return top, unit, (((rest >> 1) + unit) << EXPONENT_BITS) >> whole


def gelu_table(
    pre_scale: float,
    pre_zero_point: int,
    hidden_scale: float,
    hidden_zero_point: int,
    *,
    function: Callable[[NDArray[Any]], NDArray[Any]] = gelu_erf,
) -> NDArray[np.uint8]:
    """All 256 values of an 8-bit GELU, rounded half to even: uint8 [256], index = quantized pre-activation."""
    x = pre_scale * (np.arange(256, dtype=np.float64) - pre_zero_point)
    return np.clip(np.rint(function(x) / hidden_scale) + hidden_zero_point, 0, 255).astype(np.uint8)
