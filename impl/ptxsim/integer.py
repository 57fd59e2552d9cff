"""Integer arithmetic: add, sub, mul, mad, div, rem, min, max, abs, neg. PTX ISA 8.8, section 9.7.1.

NumPy's array arithmetic wraps modulo 2^bits, as PTX's does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ptxsim.errors import PtxError
from ptxsim.operands import Operands
from ptxsim.scalars import SCALARS, Row, Scalar, untyped
from ptxsim.steps import Decoder, Mask, Step, active, apply_function, apply_ufunc, count, typed
from ptxsim.syntax import Instruction
from ptxsim.wave import Wave

INTEGERS = "s16 s32 s64 u16 u32 u64"
NARROW = "s16 s32 u16 u32"
UFUNCS = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}


def widened(kind: Scalar) -> Scalar:
    """The type of twice the width."""
    return SCALARS[f"{kind.kind}{2 * kind.bits}"]


def two_sources(instruction: Instruction, operands: Operands) -> Step:
    """add, sub, min, max."""
    kind, _ = typed(instruction, allowed=INTEGERS)
    d, a, b = count(instruction, 3)
    return apply_ufunc(UFUNCS[instruction.mnemonic], operands.write(d, kind), [operands.read(a, kind), operands.read(b, kind)])


def one_source(instruction: Instruction, operands: Operands) -> Step:
    """abs, neg. The least integer is its own negative and its own absolute value."""
    kind, _ = typed(instruction, allowed="s16 s32 s64")
    d, a = count(instruction, 2)
    ufunc = np.absolute if instruction.mnemonic == "abs" else np.negative
    return apply_ufunc(ufunc, operands.write(d, kind), [operands.read(a, kind)])


def high_product(a: Row, b: Row, kind: Scalar) -> Row:
    """The upper half of the double-width product, of `kind`."""
    if kind.bits < 64:
        return (np.multiply(a, b, dtype=widened(kind).dtype) >> kind.bits).astype(kind.dtype)
    # Schoolbook on 32-bit halves: hi = ah bh + carries. Each partial sum stays below 2^64.
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    xl, xh, yl, yh = x & low, x >> half, y & low, y >> half
    middle = xh * yl + (xl * yl >> half)
    high = xh * yh + (middle >> half) + ((middle & low) + xl * yh >> half)
    if kind.signed:  # -x is 2^64 - x: its product with y is 2^64 y too large
        high = high - np.where(a.view(np.int64) < 0, y, 0) - np.where(b.view(np.int64) < 0, x, 0)
    return high.view(kind.dtype)


def multiply(instruction: Instruction, operands: Operands) -> Step:
    """mul.lo, mul.hi, mul.wide; mad.lo, mad.hi, mad.wide, which add a third operand of the result's type."""
    kind, modifiers = typed(instruction, allowed=INTEGERS, modifiers="lo hi wide")
    if len(modifiers) != 1:
        raise PtxError("one of .lo, .hi and .wide is needed")
    (part,) = modifiers
    adds = instruction.mnemonic == "mad"
    d, a, b, *rest = count(instruction, 4 if adds else 3)
    sources = [operands.read(a, kind), operands.read(b, kind)]
    if part == "wide" and kind.name not in NARROW.split():
        raise PtxError(f"{instruction.mnemonic}.wide is not known for type .{kind.name}")
    result = widened(kind) if part == "wide" else kind
    if not adds and part != "hi":
        return apply_ufunc(np.multiply, operands.write(d, result), sources, dtype=result.dtype)
    if adds:
        sources.append(operands.read(rest[0], result))
    out = operands.write(d, result)

    def product(a: Row, b: Row) -> Row:
        return high_product(a, b, kind) if part == "hi" else np.multiply(a, b, dtype=result.dtype)

    return apply_function((lambda a, b, c: product(a, b) + c) if adds else product, out, sources)


def divide(instruction: Instruction, operands: Operands) -> Step:
    """div and rem: the quotient is cut towards zero, the remainder has the dividend's sign. A zero divisor raises, since PTX
    leaves the result unspecified."""
    kind, _ = typed(instruction, allowed=INTEGERS)
    d, a, b = count(instruction, 3)
    dividend, divisor, out = operands.read(a, kind), operands.read(b, kind), operands.write(d, kind)
    wants_quotient, plain = instruction.mnemonic == "div", untyped(kind.bits).dtype

    def result(a: Row, b: Row) -> Row:
        if not kind.signed:
            return a // b if wants_quotient else a % b
        # On magnitudes, which as unsigned numbers include that of the least integer.
        x, y = np.absolute(a).view(plain), np.absolute(b).view(plain)
        magnitude: Any = x // y if wants_quotient else x % y
        negative = (a < 0) != (b < 0) if wants_quotient else a < 0
        return np.where(negative, 0 - magnitude, magnitude).view(kind.dtype)

    def step(wave: Wave, mask: Mask) -> None:
        rows = wave.rows
        threads = active(wave, mask)
        x = wave.spread(rows[dividend])[threads]
        y = wave.spread(rows[divisor])[threads]
        if not y.all():
            raise wave.fault(instruction, int(threads[np.flatnonzero(y == 0)[0]]), "division by zero")
        rows[out][threads] = result(x, y)

    return step


INTEGER_DECODERS: dict[str, Decoder] = {
    "add": two_sources,
    "sub": two_sources,
    "min": two_sources,
    "max": two_sources,
    "abs": one_source,
    "neg": one_source,
    "mul": multiply,
    "mad": multiply,
    "div": divide,
    "rem": divide,
}
