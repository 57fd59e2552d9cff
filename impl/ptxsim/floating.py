"""float32 arithmetic: add, sub, mul, fma, mad, div, rcp, sqrt, rsqrt, min, max, abs, neg, copysign, ex2, lg2, tanh, sin, cos.

PTX ISA 8.8, section 9.7.3. Operations are IEEE 754's, rounded to nearest even; NaN results are canonical (0x7fffffff); .ftz makes
subnormal inputs and results zeros of their sign. What PTX leaves approximate is correctly rounded here: div.full, div.approx,
and every .approx. A GPU's last bits may differ there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptxsim.errors import PtxError
from ptxsim.fused import SMALLEST_NORMAL, fused_multiply_add
from ptxsim.operands import Operands
from ptxsim.scalars import F32, U32, Row
from ptxsim.steps import Decoder, Mask, Step, assign, count, typed
from ptxsim.syntax import Instruction
from ptxsim.wave import Wave

CANONICAL_NAN = np.uint32(0x7FFFFFFF)
SIGN = np.uint32(0x80000000)
Function = Callable[..., Row]


def flush(x: Row) -> Row:
    """Subnormal numbers become zeros of their sign."""
    small = np.absolute(x) < np.float32(SMALLEST_NORMAL)
    return np.where(small, np.copysign(np.float32(0), x), x) if small.any() else x


def canonical(x: Row) -> Row:
    """Every NaN becomes PTX's."""
    nan = np.isnan(x)
    return np.where(nan, CANONICAL_NAN, x.view(np.uint32)).view(np.float32) if nan.any() else x


def through_double(function: Function) -> Function:
    """Computed in float64 and rounded once more: the correctly rounded float32, but for arguments nobody has found yet."""
    return lambda *x: function(*[value.astype(np.float64) for value in x]).astype(np.float32)


def smaller(x: Row, y: Row) -> Row:
    """min: a number wins over NaN, and -0 is below +0: where the operands are equal, the union of their sign bits."""
    bits = x.view(np.uint32) | y.view(np.uint32)
    return np.where(x == y, bits.view(np.float32), np.fmin(x, y))


def larger(x: Row, y: Row) -> Row:
    """max, likewise."""
    bits = x.view(np.uint32) & y.view(np.uint32)
    return np.where(x == y, bits.view(np.float32), np.fmax(x, y))


# mnemonic -> (function, number of operands, the modifiers one of which must be there; "" allows none of them)
ARITHMETIC: dict[str, tuple[Function, int, tuple[str, ...]]] = {
    "add": (np.add, 2, ("", "rn")),
    "sub": (np.subtract, 2, ("", "rn")),
    "mul": (np.multiply, 2, ("", "rn")),
    "fma": (fused_multiply_add, 3, ("rn",)),
    "mad": (fused_multiply_add, 3, ("rn",)),  # on sm_20 and later the same instruction
    "div": (np.divide, 2, ("rn", "full", "approx")),
    "rcp": (lambda x: np.float32(1) / x, 1, ("rn", "approx")),
    "sqrt": (np.sqrt, 1, ("rn", "approx")),
    "rsqrt": (through_double(lambda x: 1 / np.sqrt(x)), 1, ("approx",)),
    "ex2": (through_double(np.exp2), 1, ("approx",)),
    "lg2": (through_double(np.log2), 1, ("approx",)),
    "sin": (through_double(np.sin), 1, ("approx",)),
    "cos": (through_double(np.cos), 1, ("approx",)),
    "tanh": (through_double(np.tanh), 1, ("approx",)),
    "min": (smaller, 2, ("", "NaN")),
    "max": (larger, 2, ("", "NaN")),
}


def arithmetic(instruction: Instruction, operands: Operands) -> Step:
    """Any operation of ARITHMETIC."""
    function, number, choices = ARITHMETIC[instruction.mnemonic]
    _, modifiers = typed(instruction, allowed="f32", modifiers=" ".join(("ftz", *choices)))
    chosen = modifiers - {"ftz"} or {""}
    if len(chosen) != 1 or not chosen <= set(choices):
        raise PtxError(f"needs one of: {', '.join('.' + choice if choice else 'nothing' for choice in choices)}")
    destination, *sources = count(instruction, 1 + number)
    rows = [operands.read(source, F32) for source in sources]
    out = operands.write(destination, F32)
    flushes, propagates = "ftz" in modifiers, "NaN" in modifiers

    def step(wave: Wave, mask: Mask) -> None:
        values = [wave.rows[row] for row in rows]
        if flushes:
            values = [flush(value) for value in values]
        result = function(*values)
        if propagates:
            result = np.where(np.isnan(values[0]) | np.isnan(values[1]), np.float32("nan"), result)
        if flushes:
            result = flush(result)
        assign(wave, mask, out, canonical(result))

    return step


def sign_operation(instruction: Instruction, operands: Operands) -> Step:
    """abs, neg, copysign: of bits alone. copysign takes the sign of its first operand and the rest of its second."""
    copies = instruction.mnemonic == "copysign"
    _, modifiers = typed(instruction, allowed="f32", modifiers="" if copies else "ftz")
    destination, *sources = count(instruction, 3 if copies else 2)
    rows = [operands.read(source, U32) if operands.is_register(source) else operands.read(source, F32) for source in sources]
    out = operands.write(destination, U32)

    def step(wave: Wave, mask: Mask) -> None:
        first = wave.rows[rows[0]].view(np.uint32)
        if modifiers:
            first = flush(first.view(np.float32)).view(np.uint32)
        if copies:
            result = first & SIGN | wave.rows[rows[1]].view(np.uint32) & ~SIGN
        else:
            result = first ^ SIGN if instruction.mnemonic == "neg" else first & ~SIGN
        assign(wave, mask, out, result)

    return step


FLOAT_DECODERS: dict[str, Decoder] = {
    **dict.fromkeys(ARITHMETIC, arithmetic),
    "abs": sign_operation,
    "neg": sign_operation,
    "copysign": sign_operation,
}
