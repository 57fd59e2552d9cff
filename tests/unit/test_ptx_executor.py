"""Each group of PTX instructions against its definition, transcribed with Python's integers and fractions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.engine.gpu.ptx.fused import fused_multiply_add
from tests.property.strategies import seeds, share
from tests.ptx_snippets import THREADS, apply, float32_bits, floats, integers, nearest_float32, wrap

INTEGER_TYPES = [f"{kind}{bits}" for kind in "us" for bits in (16, 32, 64)]


def numpy_type(name: str) -> np.dtype:
    return np.dtype(f"{ {'u': 'u', 's': 'i', 'b': 'u'}[name[0]] }{int(name[1:]) // 8}")


def as_list(array: np.ndarray) -> list[int]:
    return [int(value) for value in array]


def check_integers(line: str, sources: list[np.ndarray], result: str, law: Callable[..., int]) -> None:
    """`law` gives an integer from the operands' values; it is taken modulo the result's width."""
    kind = numpy_type(result)
    got = as_list(apply(line, sources, kind))
    bits = int(result[1:])
    want = [wrap(law(*values), bits, signed=result[0] == "s") for values in zip(*map(as_list, sources), strict=True)]
    assert got == want, [(i, [s[i] for s in sources], g, w) for i, (g, w) in enumerate(zip(got, want, strict=True)) if g != w][:3]


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": quotient,
    "rem": lambda a, b: a - b * quotient(a, b),
}


@pytest.mark.parametrize("name", INTEGER_TYPES)
@pytest.mark.parametrize("opcode", ARITHMETIC)
@share(5)
@given(seed=seeds)
def test_integer_arithmetic_is_that_of_residues(opcode: str, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = integers(rng, numpy_type(name)), integers(rng, numpy_type(name))
    if opcode in ("div", "rem"):
        b[b == 0] = 3
    check_integers(f"{opcode}.{name} {{d}}, {{a}}, {{b}};", [a, b], name, ARITHMETIC[opcode])


@pytest.mark.parametrize("name", INTEGER_TYPES)
@share(5)
@given(seed=seeds)
def test_high_and_wide_products_are_exact(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits, kind = int(name[1:]), numpy_type(name)
    a, b, c = (integers(rng, kind) for _ in range(3))
    check_integers(f"mul.hi.{name} {{d}}, {{a}}, {{b}};", [a, b], name, lambda a, b: a * b >> bits)
    check_integers(f"mad.hi.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], name, lambda a, b, c: (a * b >> bits) + c)
    check_integers(f"mad.lo.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], name, lambda a, b, c: a * b + c)
    if bits < 64:
        wide = f"{name[0]}{2 * bits}"
        check_integers(f"mul.wide.{name} {{d}}, {{a}}, {{b}};", [a, b], wide, lambda a, b: a * b)
        e = integers(rng, numpy_type(wide))
        check_integers(f"mad.wide.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, e], wide, lambda a, b, c: a * b + c)


@pytest.mark.parametrize("name", ["s16", "s32", "s64"])
def test_the_least_integer_is_its_own_negative(name: str) -> None:
    a = integers(np.random.default_rng(1), numpy_type(name))
    check_integers(f"neg.{name} {{d}}, {{a}};", [a], name, lambda a: -a)
    check_integers(f"abs.{name} {{d}}, {{a}};", [a], name, abs)


@pytest.mark.parametrize("opcode", ["shl.b", "shr.u", "shr.b", "shr.s"])
@pytest.mark.parametrize("bits", [16, 32, 64])
@share(5)
@given(seed=seeds, constant=st.integers(0, 80))
def test_shifts_clamp_at_the_width(opcode: str, bits: int, seed: int, constant: int) -> None:
    rng = np.random.default_rng(seed)
    kind = f"{'s' if opcode == 'shr.s' else 'u'}{bits}"
    a = integers(rng, numpy_type(kind))
    amount = np.where(rng.random(THREADS) < 0.7, rng.integers(0, 70, THREADS), integers(rng, np.uint32)).astype(np.uint32)

    def law(a: int, n: int) -> int:
        n = min(n, bits)
        return a << n if opcode == "shl.b" else a >> n

    check_integers(f"{opcode}{bits} {{d}}, {{a}}, {{b}};", [a, amount], kind, law)
    check_integers(f"{opcode}{bits} {{d}}, {{a}}, {constant};", [a], kind, lambda a: law(a, constant))


@pytest.mark.parametrize("bits", [16, 32, 64])
@share(5)
@given(seed=seeds)
def test_logic_works_bit_by_bit(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (integers(rng, numpy_type(f"u{bits}")) for _ in range(2))
    for opcode, law in (("and", int.__and__), ("or", int.__or__), ("xor", int.__xor__)):
        check_integers(f"{opcode}.b{bits} {{d}}, {{a}}, {{b}};", [a, b], f"u{bits}", law)
    check_integers(f"not.b{bits} {{d}}, {{a}};", [a], f"u{bits}", lambda a: ~a)


@pytest.mark.parametrize("name", ["u32", "s32", "u64", "s64"])
@share(5)
@given(seed=seeds)
def test_bit_fields_follow_the_manuals_loop(name: str, seed: int) -> None:
    """The pseudo-code of the PTX ISA's bfe and bfi, bit by bit."""
    rng = np.random.default_rng(seed)
    bits = int(name[1:])
    a, b = (integers(rng, numpy_type(f"u{bits}")) for _ in range(2))
    start, length = (
        np.where(rng.random(THREADS) < 0.9, rng.integers(0, 70, THREADS), rng.integers(0, 2**32, THREADS)) for _ in range(2)
    )
    position, size = start.astype(np.uint32), length.astype(np.uint32)

    def extract(a: int, c: int, d: int) -> int:
        pos, count = c & 255, d & 255
        sign = 0 if name[0] == "u" or count == 0 else a >> min(pos + count - 1, bits - 1) & 1
        return sum((a >> pos + i & 1 if i < count and pos + i < bits else sign) << i for i in range(bits))

    def insert(a: int, b: int, c: int, d: int) -> int:
        pos, count = c & 255, d & 255
        for i in range(count):
            if pos + i < bits:
                b = b & ~(1 << pos + i) | (a >> i & 1) << pos + i
        return b

    check_integers(f"bfe.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, position, size], f"u{bits}", extract)
    check_integers(f"bfi.b{bits} {{d}}, {{a}}, {{b}}, {{c}}, {{e}};", [a, b, position, size], f"u{bits}", insert)


@share(5)
@given(seed=seeds, table=st.integers(0, 255), selector=st.integers(0, 65535))
def test_other_bit_operations_follow_their_definitions(seed: int, table: int, selector: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = (integers(rng, np.uint32) for _ in range(3))

    def lop3(a: int, b: int, c: int) -> int:
        return sum((table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1) << i for i in range(32))

    def prmt(a: int, b: int, selector: int) -> int:
        chosen = [(a | b << 32) >> 8 * (selector >> 4 * i & 7) & 255 for i in range(4)]
        signs = [255 if byte & 128 else 0 for byte in chosen]
        return sum((signs[i] if selector >> 4 * i & 8 else chosen[i]) << 8 * i for i in range(4))

    check_integers(f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};", [a, b, c], "u32", lop3)
    check_integers(f"prmt.b32 {{d}}, {{a}}, {{b}}, 0x{selector:x}U;", [a, b], "u32", lambda a, b: prmt(a, b, selector))
    check_integers("prmt.b32 {d}, {a}, {b}, {c};", [a, b, c], "u32", prmt)
    for mode, amount in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
        both = f"shf.{{}}.{mode}.b32 {{{{d}}}}, {{{{a}}}}, {{{{b}}}}, {{{{c}}}};"
        check_integers(both.format("l"), [a, b, c], "u32", lambda a, b, n, amount=amount: (b << 32 | a) << amount(n) >> 32)
        check_integers(both.format("r"), [a, b, c], "u32", lambda a, b, n, amount=amount: (b << 32 | a) >> amount(n))

        def extend(a: int, n: int, amount: Callable[[int], int] = amount, *, signed: bool = True) -> int:
            return wrap(a, amount(n), signed=signed) if amount(n) else 0

        check_integers(f"szext.{mode}.s32 {{d}}, {{a}}, {{b}};", [a, c], "u32", extend)
        check_integers(f"szext.{mode}.u32 {{d}}, {{a}}, {{b}};", [a, c], "u32", lambda a, n, e=extend: e(a, n, signed=False))
    for bits, value in ((32, a), (64, integers(rng, np.uint64))):
        check_integers(f"popc.b{bits} {{d}}, {{a}};", [value], "u32", lambda a: a.bit_count())
        check_integers(f"clz.b{bits} {{d}}, {{a}};", [value], "u32", lambda a, bits=bits: bits - a.bit_length())
        check_integers(f"brev.b{bits} {{d}}, {{a}};", [value], f"u{bits}", lambda a, bits=bits: int(f"{a:0{bits}b}"[::-1], 2))


# -------------------------------------------------------------------------------------------------------------------- floats


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


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}


@share(5)
@given(seed=seeds)
def test_comparisons_with_nan_are_false_unless_unordered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = floats(rng), floats(rng)
    b[::7] = a[::7]
    nan = np.isnan(a) | np.isnan(b)
    pairs = list(zip(map(float, a), map(float, b), strict=True))
    bits = [a.view(np.uint32), b.view(np.uint32)]
    for name, law in COMPARISONS.items():
        holds = np.array([law(x, y) for x, y in pairs])
        for suffix, want in (("", holds & ~nan), ("u", holds | nan)):
            line = f"setp.{name}{suffix}.f32 %p1, {{a}}, {{b}};\nselp.b32 {{d}}, 1, 0, %p1;"
            assert (apply(line, bits, np.uint32) == want).all(), name + suffix
    for name, want in (("num", ~nan), ("nan", nan)):
        assert (apply(f"setp.{name}.f32 %p1, {{a}}, {{b}};\nselp.b32 {{d}}, 1, 0, %p1;", bits, np.uint32) == want).all()


@pytest.mark.parametrize("name", INTEGER_TYPES)
@share(10)
@given(seed=seeds)
def test_integer_comparisons_combine_with_a_predicate(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = integers(rng, numpy_type(name)), integers(rng, numpy_type(name))
    b[::5] = a[::5]
    c = rng.integers(0, 2, THREADS).astype(np.uint32)
    names = dict(COMPARISONS)
    if name[0] == "u":
        names |= {other: COMPARISONS[own] for other, own in {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.items()}
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
    for (comparison, law), (boolean, together), negated in itertools.product(names.items(), combine.items(), ("", "!")):
        holds = np.array([law(x, y) for x, y in zip(as_list(a), as_list(b), strict=True)])
        third = (c == 0) if negated else (c != 0)
        line = f"""setp.ne.u32 %p3, {{c}}, 0;
            setp.{comparison}.{boolean}.{name} %p1|%p2, {{a}}, {{b}}, {negated}%p3;
            selp.b32 {{d}}, 1, 0, %p1; selp.b32 %r50, 2, 0, %p2; or.b32 {{d}}, {{d}}, %r50;"""
        assert (apply(line, [a, b, c], np.uint32) == together(holds, third) + 2 * together(~holds, third)).all()


def test_predicates_move_and_combine() -> None:
    a, b = (np.random.default_rng(i).integers(0, 2, THREADS).astype(np.uint32) for i in (1, 2))
    for opcode, law in (("and", a & b), ("or", a | b), ("xor", a ^ b)):
        line = f"setp.ne.u32 %p1, {{a}}, 0; setp.ne.u32 %p2, {{b}}, 0; {opcode}.pred %p3, %p1, %p2; selp.b32 {{d}}, 1, 0, %p3;"
        assert (apply(line, [a, b], np.uint32) == law).all()
    line = "setp.ne.u32 %p1, {a}, 0; not.pred %p2, %p1; mov.pred %p3, %p2; @!%p3 mov.b32 {d}, 7; @%p3 mov.b32 {d}, 9;"
    assert (apply(line, [a], np.uint32) == np.where(a, 7, 9)).all()
    assert (apply("mov.pred %p1, -1; selp.b32 {d}, 1, 0, %p1;", [a], np.uint32) == 1).all()


# --------------------------------------------------------------------------------------------------------------- conversions

ALL_INTEGERS = [f"{kind}{bits}" for kind in "us" for bits in (8, 16, 32, 64)]


def container(name: str) -> np.dtype:
    """What a register for the type holds: nothing is narrower than 16 bits."""
    return np.dtype(f"u{max(2, int(name[1:]) // 8)}")


@pytest.mark.parametrize("source", ALL_INTEGERS)
@pytest.mark.parametrize("target", ALL_INTEGERS)
def test_integer_conversions_cut_extend_and_saturate(source: str, target: str) -> None:
    rng = np.random.default_rng([ALL_INTEGERS.index(source), ALL_INTEGERS.index(target)])
    registers = integers(rng, container(source))
    bits, to_bits = int(source[1:]), int(target[1:])
    signed = target[0] == "s"
    low, high = (-(1 << to_bits - 1), (1 << to_bits - 1) - 1) if signed else (0, (1 << to_bits) - 1)
    value = [wrap(x, bits, signed=source[0] == "s") for x in as_list(registers)]
    width = 8 * container(target).itemsize
    plain = [wrap(wrap(x, to_bits, signed=signed), width, signed=False) for x in value]
    clamped = [wrap(min(max(x, low), high), width, signed=False) for x in value]
    assert as_list(apply(f"cvt.{target}.{source} {{d}}, {{a}};", [registers], container(target))) == plain
    assert as_list(apply(f"cvt.sat.{target}.{source} {{d}}, {{a}};", [registers], container(target))) == clamped


@pytest.mark.parametrize("source", ALL_INTEGERS)
@share(5)
@given(seed=seeds)
def test_integers_become_the_nearest_float(source: str, seed: int) -> None:
    registers = integers(np.random.default_rng(seed), container(source))
    got = apply(f"cvt.rn.f32.{source} {{d}}, {{a}};", [registers], np.uint32)
    values = [wrap(x, int(source[1:]), signed=source[0] == "s") for x in as_list(registers)]
    assert as_list(got) == [float32_bits(nearest_float32(Fraction(x))) for x in values]


ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "rni": lambda x: round(x),
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


@pytest.mark.parametrize("target", ALL_INTEGERS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@share(5)
@given(seed=seeds)
def test_floats_become_integers_with_saturation(rounding: str, target: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = np.where(rng.random(THREADS) < 0.5, floats(rng), (rng.integers(-600, 600, THREADS) / 4).astype(np.float32))
    bits, signed = int(target[1:]), target[0] == "s"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def law(x: float) -> int:
        if math.isnan(x):
            return 1 << 63 if bits == 64 else 0
        if math.isinf(x):
            return high if x > 0 else low
        return min(max(ROUNDINGS[rounding](Fraction(x)), low), high)

    got = as_list(apply(f"cvt.{rounding}.{target}.f32 {{d}}, {{a}};", [a.view(np.uint32)], container(target)))
    assert got == [wrap(law(float(x)), 8 * container(target).itemsize, signed=False) for x in a]


def test_floats_round_to_integral_floats_and_saturate() -> None:
    a = floats(np.random.default_rng(3))
    finite = np.nan_to_num(a)
    for rounding, law in ROUNDINGS.items():
        want = [math.copysign(float(law(Fraction(float(x)))), float(x)) for x in finite]
        got = apply(f"cvt.{rounding}.f32.f32 {{d}}, {{a}};", [finite.view(np.uint32)], np.uint32)
        assert as_list(got) == [float32_bits(x) for x in want]
    got = apply("cvt.sat.f32.f32 {d}, {a};", [a.view(np.uint32)], np.uint32)
    assert as_list(got) == [float32_bits(0.0 if not x > 0 else min(float(x), 1.0)) for x in a]


# ----------------------------------------------------------------------------------------------------- moves, special registers


def test_vectors_pack_and_unpack_from_the_low_end() -> None:
    rng = np.random.default_rng(4)
    a, b = integers(rng, np.uint16), integers(rng, np.uint16)
    check_integers("mov.b32 {d}, {{{a}, {b}}};", [a, b], "u32", lambda a, b: a | b << 16)
    x, y = integers(rng, np.uint32), integers(rng, np.uint32)
    check_integers("mov.b64 {d}, {{{a}, {b}}};", [x, y], "u64", lambda a, b: a | b << 32)
    check_integers("mov.b64 {d}, {{{a}, {b}, {b}, {a}}};", [a, b], "u64", lambda a, b: a | b << 16 | b << 32 | a << 48)
    check_integers("mov.b32 {{{d}, _}}, {a};", [x], "u16", lambda a: a)
    check_integers("mov.b32 {{_, {d}}}, {a};", [x], "u16", lambda a: a >> 16)
    wide = integers(rng, np.uint64)
    check_integers("mov.b64 {{_, {d}}}, {a};", [wide], "u32", lambda a: a >> 32)
    check_integers("mov.b64 {{%r40, %r41}}, {a}; xor.b32 {d}, %r40, %r41;", [wide], "u32", lambda a: a ^ a >> 32)


@pytest.mark.parametrize(("literal", "value"), [("-1", 2**32 - 1), ("0xffffffffffffffff", 2**32 - 1), ("017", 15), ("0b101", 5)])
def test_literals_have_64_bits_and_are_cut(literal: str, value: int) -> None:
    assert (apply(f"mov.u32 {{d}}, {literal};", [np.zeros(THREADS, np.uint32)], np.uint32) == value).all()


def test_special_registers_name_the_thread() -> None:
    tid = np.arange(THREADS)
    for name, want in (
        ("%tid.x", tid),
        ("%tid.y", 0),
        ("%ntid.x", THREADS),
        ("%ctaid.z", 0),
        ("%laneid", tid % 32),
        ("%warpid", tid // 32),
    ):
        assert (apply(f"mov.u32 {{d}}, {name};", [np.zeros(THREADS, np.uint32)], np.uint32) == want).all()
