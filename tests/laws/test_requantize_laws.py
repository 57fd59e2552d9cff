"""Laws of the integer epilogue.

- The vectorised law equals a scalar transcription of its formula in Python's unbounded integers.
- ReLU is the lower clamp: fused equals GEMM, then clamp, then nothing, for all 65,536 pairs of value and zero point.
- It is monotone, stays within one step of exact rounding, and commutes with permutations of rows and channels.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from geluless.integer.requantization import INT16_MAX, INT16_MIN, Requant, encode_multiplier, requantize
from tests.laws.strategies import accumulators, requants, small_dimensions

pytestmark = pytest.mark.property


def scalar_law(acc: int, bias: int, multiplier: int, shift: int, zero_point: int, low: int, high: int) -> int:
    half = 1 << (shift - 1) if shift else 0
    v = min(max((acc + bias + half) >> shift, -(2**15)), 2**15 - 1)
    return min(max(((v * multiplier + 2**14) >> 15) + zero_point, low), high)


@given(data=st.data(), rows=small_dimensions, channels=small_dimensions, zero_point=st.integers(-128, 255))
def test_vectorised_law_equals_the_scalar_formula(data, rows, channels, zero_point):
    acc = data.draw(accumulators(rows, channels))
    requant = data.draw(requants(channels, zero_point=zero_point))
    got = requantize(acc, requant, low=-128, high=255)
    for (i, j), value in np.ndenumerate(got):
        parameters = (int(requant.bias[j]), int(requant.multiplier[j]), int(requant.shift[j]), zero_point)
        assert value == scalar_law(int(acc[i, j]), *parameters, -128, 255)


def test_fused_relu_is_the_lower_clamp_for_all_values_and_zero_points():
    """All 65,536 pairs: a unit requantizer (M = 1/2, acc = 2 q) produces every 8-bit q at every zero point."""
    q = np.arange(-128, 128, dtype=np.int32)
    unit = np.ones(1, np.int32)
    for zero_point in range(256):
        requant = Requant(0 * unit, 2**14 * unit, np.zeros(1, np.uint8), zero_point)
        fused = requantize(2 * q[:, None], requant, low=zero_point, high=255)[:, 0]
        then_clamped = np.minimum(np.maximum(q + zero_point, zero_point), 255)
        assert (fused == then_clamped).all()
        off_by_one = np.minimum(np.maximum(q + zero_point, zero_point + 1), 255)
        assert (fused != off_by_one).any() or zero_point == 255, "the negative control must be caught"


@given(data=st.data(), rows=small_dimensions, channels=small_dimensions)
def test_fused_relu_equals_requantize_then_clamp(data, rows, channels):
    acc = data.draw(accumulators(rows, channels))
    requant = data.draw(requants(channels))
    fused = requantize(acc, requant, low=0, high=255)
    separate = np.minimum(np.maximum(requantize(acc, requant, low=INT16_MIN, high=INT16_MAX), 0), 255)
    assert (fused == separate).all()


@given(data=st.data(), channels=small_dimensions)
def test_requantization_is_monotone(data, channels):
    acc = np.sort(data.draw(accumulators(16, channels)), axis=0)
    out = requantize(acc, data.draw(requants(channels)), low=-128, high=127)
    assert (np.diff(out, axis=0) >= 0).all()


@given(data=st.data(), rows=small_dimensions, channels=small_dimensions)
def test_row_and_channel_permutations_commute(data, rows, channels):
    acc = data.draw(accumulators(rows, channels))
    r = data.draw(requants(channels))
    row = np.array(data.draw(st.permutations(range(rows))))
    column = np.array(data.draw(st.permutations(range(channels))))
    permuted = Requant(r.bias[column], r.multiplier[column], r.shift[column], r.zero_point)
    direct = requantize(acc, r, low=-128, high=127)
    assert (requantize(acc[row][:, column], permuted, low=-128, high=127) == direct[row][:, column]).all()


@given(
    real=st.floats(2.0**-22, 0.12, allow_nan=False),
    target=st.floats(-300.0, 300.0),
)
def test_eight_bit_outputs_are_within_one_step_of_exact_rounding(real, target):
    acc = round(target / real)
    assume(abs(acc) < 2**29)
    multiplier, shift = encode_multiplier(np.array([real]), bits=12)
    requant = Requant(np.zeros(1, np.int32), multiplier, shift)
    got = int(requantize(np.array([[acc]], np.int32), requant, low=-128, high=255)[0, 0])
    exact = min(max(round(Fraction(acc) * Fraction(real)), -128), 255)
    assert abs(got - exact) <= 1


@given(real=st.floats(2.0**-20, 0.999, allow_nan=False), bits=st.sampled_from([12, 15]))
def test_multiplier_is_accurate_to_its_bits(real, bits):
    multiplier, shift = encode_multiplier(np.array([real]), bits=bits)
    represented = float(multiplier[0]) * 2.0 ** -(15 + int(shift[0]))
    assert abs(represented / real - 1) <= 2.0 ** -(bits - 1) or shift[0] in (0, 30)
    assert 0 <= multiplier[0] <= 32767


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.5, np.nan, np.inf])
def test_multipliers_outside_the_open_unit_interval_raise(bad):
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        encode_multiplier(np.array([bad]), bits=12)
