"""PTX's comparisons, conversions and moves against their definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from tests.support.examples import seeds, share
from tests.support.ptx_snippets import (
    INTEGER_TYPES,
    THREADS,
    apply,
    as_list,
    check_integers,
    float32_bits,
    floats,
    integers,
    nearest_float32,
    numpy_type,
    wrap,
)

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
