"""GELU five ways: exact, and as each approximation that the claims compare with ReLU defines it."""

from __future__ import annotations

import math
from collections.abc import Callable
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


def gelu_i_bert(x: NDArray[Any]) -> NDArray[Any]:
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
