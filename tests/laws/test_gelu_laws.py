"""The activations of the GELU variants equal scalar transcriptions of their papers, value by value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geluless.integer.gelu import (
    gelu_erf,
    gelu_i_bert,
    gelu_i_bert_integer,
    gelu_shift,
    gelu_tanh,
    i_bert_constants,
    i_bert_table,
)
from geluless.integer.requantization import TwoStageRequant, requantize_two_stage

pytestmark = pytest.mark.property

reals = st.floats(-12, 12)


@given(reals)
@example(0.0)
def test_erf_and_tanh_gelu_follow_their_definitions(x: float) -> None:
    exact = x * 0.5 * math.erfc(-x / math.sqrt(2))
    assert gelu_erf(np.array([x]))[0] == pytest.approx(exact, abs=1e-12)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    assert gelu_tanh(np.array([x]))[0] == pytest.approx(0.5 * x * (1 + math.tanh(inner)), abs=1e-12)
    assert abs(gelu_tanh(np.array([x]))[0] - exact) < 1e-3


@given(reals)
@example(-1.769 * math.sqrt(2))
def test_i_bert_follows_its_equations(x: float) -> None:
    """arXiv 2101.01321, equations 7 and 8: L(x) = sgn(x) [a (min(|x|, -b) + b)^2 + 1], a = -0.2888, b = -1.769."""
    a, b = -0.2888, -1.769
    z = x / math.sqrt(2)
    polynomial = math.copysign(1.0, z) * (a * (min(abs(z), -b) + b) ** 2 + 1) if z else 0.0
    assert gelu_i_bert(np.array([x]))[0] == pytest.approx(x * 0.5 * (1 + polynomial), abs=1e-12)


def scalar_i_gelu(q: int, scale: float) -> tuple[int, float]:
    """I-BERT (arXiv 2101.01321), algorithms 1 and 2, line by line: (q_out, S_out)."""

    def i_poly(q: int, scale: float, a: float, b: float, c: float) -> tuple[int, float]:
        q_b, q_c = math.floor(b / scale), math.floor(c / (a * scale**2))
        return (q + q_b) ** 2 + q_c, a * scale**2

    def i_erf(q: int, scale: float) -> tuple[int, float]:
        a, b, c = -0.2888, -1.769, 1.0
        sign, clipped = (q > 0) - (q < 0), min(abs(q), -math.floor(b / scale))
        q_l, s_l = i_poly(clipped, scale, a, b, c)
        return sign * q_l, s_l

    q_erf, s_erf = i_erf(q, scale / math.sqrt(2))
    return q * (q_erf + math.floor(1 / s_erf)), scale * s_erf / 2


def scalar_requantized(product: int, multiplier: int, shift: int) -> int:
    """The requantization of FORMAT.md, 4.1, without bias and clamps; a negative shift goes to the left."""
    v = (product + (1 << shift - 1)) >> shift if shift > 0 else product << -shift
    return (min(max(v, -(2**15)), 2**15 - 1) * multiplier + 2**14) >> 15


scales = st.floats(-40, 40).map(lambda exponent: 2.0**exponent)


@given(q=st.integers(-255, 255), scale=scales, result_scale=scales)
@example(q=255, scale=2.0**-40, result_scale=2.0**40)
@example(q=-1, scale=0.05, result_scale=0.02)
def test_integer_i_bert_equals_a_scalar_transcription(q: int, scale: float, result_scale: float) -> None:
    product, product_scale = scalar_i_gelu(q, scale)
    constants = i_bert_constants(scale, result_scale)
    dyadic = constants.multiplier * 2.0 ** (-15 - constants.shift)
    assert dyadic == pytest.approx(-product_scale / result_scale, rel=2**-12), "the scale of the product is negative"
    steps = gelu_i_bert_integer(np.array([q], object), constants)
    assert steps.tolist() == [scalar_requantized(-product, constants.multiplier, constants.shift)]


@pytest.mark.parametrize("scale", [0.005, 0.02, 0.05])
def test_integer_i_bert_is_the_polynomial_within_what_its_floors_cost(scale: float) -> None:
    """They move the knee by less than a step S of x / sqrt 2, so erf by less than 2 * 0.2888 * 1.769 S, and one by less than its
    step: the result by less than half of that, times x."""
    q = np.arange(-255, 256)
    got = np.array([product * unit for product, unit in (scalar_i_gelu(int(value), scale) for value in q)])
    steps = scale / math.sqrt(2)
    erf_error = 2 * 0.2888 * 1.769 * steps + 2 * 0.2888 * steps**2
    assert (np.abs(got - gelu_i_bert(q * scale)) <= np.abs(q * scale) / 2 * erf_error + 1e-12).all()
    assert np.abs(got - np.maximum(q * scale, 0)).max() > 0.1, "a control: ReLU is another function"


@given(
    scale=scales, result_scale=scales, zero=st.integers(0, 255), result_zero=st.integers(0, 255), high=st.sampled_from((127, 255))
)
def test_the_table_of_integer_i_bert_counts_from_its_zero_points(
    scale: float, result_scale: float, zero: int, result_zero: int, high: int
) -> None:
    """At every scale that a plan may hold."""
    table = i_bert_table(scale, zero, result_scale, result_zero, low=0, high=high)
    constants = i_bert_constants(scale, result_scale)
    steps = [scalar_requantized(-scalar_i_gelu(q - zero, scale)[0], constants.multiplier, constants.shift) for q in range(256)]
    assert table.tolist() == [min(max(step + result_zero, 0), high) for step in steps]


def scalar_shift_gelu(q: list[int], scale: float) -> list[float]:
    """I-ViT (arXiv 2207.01405), algorithm 2, in Python's unbounded integers; its maximum is taken over `q`."""

    def shift_exp(value: int, one: int, bits: int) -> int:
        exponent = value + (value >> 1) - (value >> 4)
        exponent = max(exponent, -bits * one)
        quotient = -(exponent // one) if exponent % one == 0 else -(exponent // one) - 1
        remainder = exponent + quotient * one
        assert -one < remainder <= 0
        return (((remainder >> 1) + one) << bits) >> quotient

    one = round(1 / scale)
    scaled = [value + (value >> 1) + (value >> 3) + (value >> 4) for value in q]
    top = max(0, *scaled)
    results = []
    for value, wide in zip(q, scaled, strict=True):
        numerator = shift_exp(wide - top, one, 23)
        denominator = min(numerator + shift_exp(-top, one, 23), 2**31 - 1)
        sigmoid = (numerator * ((2**31 - 1) // denominator)) >> 24
        results.append(value * scale * sigmoid / 128)
    return results


@given(steps=st.lists(st.integers(-255, 255), min_size=2, max_size=40), scale=st.floats(0.001, 0.2))
@example(steps=[255, -255, 0], scale=1 / 255)  # the sum of both exponentials leaves 31 bits: I-ViT clamps it
def test_shift_gelu_equals_a_scalar_transcription(steps: list[int], scale: float) -> None:
    assert gelu_shift(np.array(steps), scale).tolist() == scalar_shift_gelu(steps, scale)


@given(
    acc=st.integers(-(2**24), 2**24),
    alpha=st.floats(2**-20, 2**-6, width=32),
    gain=st.floats(-4, 4, width=32),
    offset=st.floats(-200, 200, width=32),
    zero_point=st.integers(0, 3),
)
def test_two_roundings_are_two_roundings(acc: int, alpha: float, gain: float, offset: float, zero_point: int) -> None:
    """In float32, one operation at a time; Python's round() is half to even."""
    first = min(max(round(float(np.float32(acc) * np.float32(alpha))), -128), 127)
    second = round(float(np.float32(np.float32(first) * np.float32(gain)) + np.float32(offset))) + zero_point
    one = lambda value: np.array([value], np.float32)  # noqa: E731 - one channel
    requant = TwoStageRequant(np.zeros(1, np.int32), one(alpha), one(gain), one(offset), zero_point)
    got = requantize_two_stage(np.array([[acc]], np.int32), requant, low=-128, high=127)
    assert got[0, 0] == min(max(second, -128), 127)
