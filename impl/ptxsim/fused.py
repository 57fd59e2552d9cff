"""a * b + c rounded once to float32, from float64 arithmetic."""

from __future__ import annotations

import numpy as np

from ptxsim.scalars import Row

TIE, BELOW_FLOAT32 = np.int64(1 << 28), np.int64((1 << 29) - 1)  # float64 has 29 bits of mantissa below float32's last
SMALLEST_NORMAL = 2.0**-126


def fused_multiply_add(a: Row, b: Row, c: Row) -> Row:
    """float32: round(a * b + c).

    The product of two 24-bit mantissas has at most 48 bits: exact in float64, and nowhere near its exponent limits. The sum s
    is rounded to 53 bits, and rounding that again to 24 goes wrong only if s lies exactly between two float32 values while the
    exact sum does not. That needs a look at s's low bits alone. Where it occurs, or where the result is subnormal and has fewer
    bits, s is first rounded to odd: if the sum was inexact, the neighbour of s with an odd last bit, on the exact sum's side,
    takes its place. With 53 >= 24 + 2 bits the second rounding is then correct (Boldo and Melquiond, IEEE Transactions on
    Computers 57(4), 2008).
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    bits = total.view(np.int64)
    magnitude = np.absolute(total)
    doubtful = (bits & BELOW_FLOAT32 == TIE) | (magnitude < SMALLEST_NORMAL)
    if doubtful.any():
        total = round_to_odd(product, c.astype(np.float64), total)
    result: Row = total.astype(np.float32)
    return result


def round_to_odd(x: Row, y: Row, total: Row) -> Row:
    """float64 x + y rounded to odd, given `total`, the sum rounded to nearest."""
    # Knuth's TwoSum: the error of a sum in round-to-nearest is itself a float64, and this is it.
    part = total - x
    error = (x - (total - part)) + (y - part)
    bits = total.view(np.int64)
    odd = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    # Bit patterns of one sign are ordered as magnitudes are: one more is away from zero.
    away = (error > 0) == (total > 0)
    return np.where(odd, bits + np.where(away, 1, -1), bits).view(np.float64)
