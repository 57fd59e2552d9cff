"""PTX's floating-point instructions against rational arithmetic, rounded once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from hypothesis import given

from ptxsim.fused import fused_multiply_add
from tests.support.examples import seeds, share
from tests.support.ptx_snippets import THREADS, apply, as_list, float32_bits, floats, integers, nearest_float32


def check_floats(line: str, sources: list[np.ndarray], law: Callable[..., float]) -> None:
    """Equal bits. `law` gets finite operands or not; it returns a float32's value."""
    got = as_list(apply(line, [source.view(np.uint32) for source in sources], np.uint32))
    want = [float32_bits(law(*values)) for values in zip(*[[float(x) for x in source] for source in sources], strict=True)]
    wrong = [(i, [s[i] for s in sources], hex(g), hex(w)) for i, (g, w) in enumerate(zip(got, want, strict=True)) if g != w]
    assert not wrong, wrong[:3]


def exactly(operation: Callable[..., Fraction], special: Callable[..., float]) -> Callable[..., float]:
    """Rational arithmetic, rounded once. Non-finite operands and zero results, whose sign is IEEE's affair, go to `special`,
    which computes in float64: exact there, since nothing is rounded."""

    def law(*values: float) -> float:
        if all(map(math.isfinite, values)):
            result = operation(*map(Fraction, values))
            if result != 0:
                return nearest_float32(result)
        return special(*values)

    return law


def ieee_fma(a: float, b: float, c: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(a) * np.float64(b) + np.float64(c))


def in_double(operation: Callable[..., np.float64]) -> Callable[..., float]:
    def compute(*values: float) -> float:
        with np.errstate(all="ignore"):
            return float(operation(*map(np.float64, values)))

    return compute


@share(2)
@given(seed=seeds)
def test_float_arithmetic_is_rounded_once_to_nearest_even(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = floats(rng), floats(rng), floats(rng)
    with np.errstate(all="ignore"):
        cancelling = -(a * b)  # sums that leave only what rounding took away
    c = np.where(rng.random(THREADS) < 0.3, cancelling, c)
    for opcode in ("add.f32", "add.rn.f32"):
        check_floats(f"{opcode} {{d}}, {{a}}, {{b}};", [a, b], exactly(lambda x, y: x + y, in_double(np.add)))
    check_floats("sub.f32 {d}, {a}, {b};", [a, b], exactly(lambda x, y: x - y, in_double(np.subtract)))
    check_floats("mul.rn.f32 {d}, {a}, {b};", [a, b], exactly(lambda x, y: x * y, in_double(np.multiply)))
    check_floats("fma.rn.f32 {d}, {a}, {b}, {c};", [a, b, c], exactly(lambda x, y, z: x * y + z, ieee_fma))

    def divided(x: float, y: float) -> float:
        if math.isfinite(x) and math.isfinite(y) and x and y:
            return nearest_float32(Fraction(x) / Fraction(y))
        return in_double(np.divide)(x, y)

    for opcode in ("div.rn.f32", "div.full.f32"):
        check_floats(f"{opcode} {{d}}, {{a}}, {{b}};", [a, b], divided)
    check_floats("rcp.rn.f32 {d}, {a};", [a], lambda x: divided(1.0, x))

    def root(x: float) -> float:
        if not math.isfinite(x) or x <= 0:
            return in_double(np.sqrt)(x)
        # Forty more bits than float32 has, then a bit that says whether the root goes on: enough to round correctly.
        scaled = Fraction(x) * 4**200
        whole = math.isqrt(scaled.numerator // scaled.denominator)
        return nearest_float32(Fraction(2 * whole + (whole * whole != scaled), 2 * 2**200))

    check_floats("sqrt.rn.f32 {d}, {a};", [a], root)


@share(2)
@given(seed=seeds)
def test_a_fused_sum_is_not_rounded_twice(seed: int) -> None:
    """Sums just beside the middle of two float32: in float64 they become the middle, whose rounding to even is then wrong."""
    rng = np.random.default_rng(seed)
    c = (rng.integers(2**23, 2**24, THREADS) * 2.0 ** rng.integers(-100, 100)).astype(np.float32)
    half = np.spacing(c).astype(np.float64) / 2
    # (1 + 2^-k) (1 - 2^-k) = 1 - 2^-2k: a product just short of half a unit, by what the sum has no bits for from k = 15 on.
    trifle = 2.0 ** -rng.integers(12, 24, THREADS)
    a = (half * (1 + trifle)).astype(np.float32)
    b = ((1 - trifle) * rng.choice([-1.0, 1.0], THREADS)).astype(np.float32)
    check_floats("fma.rn.f32 {d}, {a}, {b}, {c};", [a, b, c], exactly(lambda x, y, z: x * y + z, ieee_fma))


def test_rounding_a_float64_sum_would_be_wrong() -> None:
    """The negative control of the last law, and the function alone."""
    x, y = np.float32(2 - 2.0**-22), np.float32(1 + 2.0**-23)  # their product is 2 - 2^-45
    z = np.float32(2.0**25 + 4)  # whose unit is 4, and whose last bit is odd: the middle, z + 2, rounds up
    assert float(np.float32(np.float64(x) * np.float64(y) + np.float64(z))) == float(z) + 4
    assert float(fused_multiply_add(np.array([x]), np.array([y]), np.array([z]))[0]) == float(z)


@share(5)
@given(seed=seeds)
def test_minimum_and_maximum_prefer_numbers_and_order_zeros(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = floats(rng), floats(rng)

    def extreme(x: float, y: float, *, largest: bool, propagate: bool) -> float:
        if math.isnan(x) or math.isnan(y):
            return math.nan if propagate or (math.isnan(x) and math.isnan(y)) else y if math.isnan(x) else x
        key = lambda v: (v, math.copysign(1.0, v))  # noqa: E731
        return (max if largest else min)(x, y, key=key)

    for name, largest, propagate in itertools.product(("min", "max"), (False, True), (False, True)):
        if largest == (name == "max"):
            opcode = f"{name}{'.NaN' if propagate else ''}.f32"
            check_floats(
                f"{opcode} {{d}}, {{a}}, {{b}};",
                [a, b],
                lambda x, y, largest=largest, propagate=propagate: extreme(x, y, largest=largest, propagate=propagate),
            )


@share(5)
@given(seed=seeds)
def test_ftz_flushes_operands_and_results(seed: int) -> None:
    rng = np.random.default_rng(seed)
    subnormal = (integers(rng, np.uint32) & 0x807FFFFF).astype(np.uint32).view(np.float32)
    a, b = np.where(rng.random(THREADS) < 0.3, subnormal, floats(rng)), floats(rng)

    def flush(x: float) -> float:
        return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x

    product = exactly(lambda x, y: x * y, in_double(np.multiply))
    check_floats("mul.ftz.f32 {d}, {a}, {b};", [a, b], lambda x, y: flush(product(flush(x), flush(y))))
    check_floats("abs.ftz.f32 {d}, {a};", [np.nan_to_num(a)], lambda x: abs(flush(x)))
    check_floats("neg.f32 {d}, {a};", [np.nan_to_num(a)], lambda x: -x)
    check_floats("copysign.f32 {d}, {a}, {b};", [a, np.nan_to_num(b)], lambda x, y: math.copysign(y, x))


def test_approximate_functions_are_correctly_rounded() -> None:
    rng = np.random.default_rng(5)
    a = rng.uniform(0.01, 20, THREADS).astype(np.float32)
    for opcode, law in (("ex2", lambda x: 2.0**x), ("lg2", math.log2), ("tanh", math.tanh), ("rsqrt", lambda x: x**-0.5)):
        got = apply(f"{opcode}.approx.f32 {{d}}, {{a}};", [a.view(np.uint32)], np.uint32).view(np.float32)
        assert (got == [np.float32(law(float(x))) for x in a]).all()
