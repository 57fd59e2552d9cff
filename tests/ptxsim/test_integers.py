"""PTX's integer and bit instructions against their definitions, transcribed with Python's integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import seeds, share
from tests.support.ptx_snippets import INTEGER_TYPES, THREADS, check_integers, integers, numpy_type, wrap


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
