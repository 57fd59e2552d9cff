"""cvt between integers of 8 to 64 bits and float32, and cvta. PTX ISA 8.8, sections 9.7.9.21 and 9.7.9.20."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptxsim.errors import PtxError
from ptxsim.floating import canonical, flush
from ptxsim.operands import Operands
from ptxsim.scalars import F32, SCALARS, U64, Row, Scalar
from ptxsim.steps import Decoder, Step, apply_function, apply_ufunc, count
from ptxsim.syntax import Instruction

INTEGERS = {name for name, kind in SCALARS.items() if kind.kind in "us"}
TO_INTEGER: dict[str, Callable[[Row], Row]] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(instruction: Instruction, operands: Operands) -> Step:
    """cvt{.rounding}{.ftz}{.sat}.dtype.atype. Registers may be wider than the types: sources are cut, results extended."""
    if len(instruction.modifiers) < 2:
        raise PtxError("two types are needed")
    *others, to_name, from_name = instruction.modifiers
    if unknown := {to_name, from_name} - INTEGERS - {"f32"}:
        raise PtxError(f"cvt is not known for types {', '.join(sorted(unknown))}")
    to_kind, from_kind = SCALARS[to_name], SCALARS[from_name]
    saturates, flushes = "sat" in others, "ftz" in others
    roundings = [other for other in others if other not in ("sat", "ftz")]
    to_float, from_float = to_kind is F32, from_kind is F32
    if flushes and not (from_float or to_float):
        raise PtxError(".ftz is for floats")
    if from_float:
        allowed = {*TO_INTEGER, ""} if to_float else set(TO_INTEGER)
    else:
        allowed = {"rn"} if to_float else {""}
    rounding = roundings[0] if roundings else ""
    if len(roundings) > 1 or rounding not in allowed:
        raise PtxError(f"rounding .{'.'.join(roundings)} from {from_name} to {to_name} is not known")
    if saturates and to_float and not from_float:
        raise PtxError(".sat from an integer to a float is not known")
    destination, source = count(instruction, 2)
    row, part = _source(operands, source, from_kind)
    out, extend = _destination(operands, destination, to_kind)

    def value(x: Row) -> Row:
        x = part(x)
        if from_float:
            if flushes:
                x = flush(x)
            x = TO_INTEGER[rounding](x) if rounding else x
            if to_float and saturates:
                return np.where(x > 0, np.minimum(x, np.float32(1)), np.float32(0))  # NaN and minus zero are plus zero
            if to_float:
                return canonical(flush(x) if flushes else x)
            return extend(float_to_integer(x, to_kind))
        if to_float:
            return x.astype(np.float32)  # to nearest even, from 64 bits, too: the processor's own conversion
        return extend(saturate(x, to_kind) if saturates else x.astype(to_kind.dtype))

    return apply_function(value, out, [row])


def float_to_integer(x: Row, kind: Scalar) -> Row:
    """`x` holds integers, infinities or NaN. Clamped to the type; NaN is 0, or the top bit alone for 64-bit types."""
    low, high = kind.limits
    y = x.astype(np.float64)
    nan = np.isnan(y)
    # `high` rounds to 2^63 or 2^64 for 64-bit types: what reaches it is replaced after the conversion, not before.
    above, below = y >= float(high), y <= float(low)
    safe = np.where(nan | above | below, 0.0, y).astype(kind.dtype)
    top = np.array([1 << 63], np.uint64).view(kind.dtype) if kind.bits == 64 else np.zeros(1, kind.dtype)
    clamped = np.where(above, np.array(high, kind.dtype), np.where(below, np.array(low, kind.dtype), safe))
    return np.where(nan, top, clamped)


def saturate(x: Row, kind: Scalar) -> Row:
    """Clamped to the range of `kind`, which may lie partly outside that of x's own type."""
    own = np.iinfo(x.dtype)
    low, high = kind.limits
    return np.clip(x, max(low, own.min), min(high, own.max)).astype(kind.dtype)


def _source(operands: Operands, source: str, kind: Scalar) -> tuple[int, Callable[[Row], Row]]:
    """(row, function that gives its low part as `kind`)."""
    if not operands.is_register(source):
        return operands.read(source, kind), lambda x: x
    if operands.kind(source).bits == kind.bits:
        return operands.read(source, kind), lambda x: x
    row, width = operands.read_whole(source)
    if width.bits < kind.bits or kind is F32:
        raise PtxError(f"{source} has {width.bits} bits, {kind.bits} are converted")
    return row, lambda x: x.astype(f"u{kind.bytes}").view(kind.dtype)


def _destination(operands: Operands, destination: str, kind: Scalar) -> tuple[int, Callable[[Row], Row]]:
    """(row, function that extends a value of `kind` to the register by the sign of its type)."""
    bits = operands.kind(destination).bits
    if bits == kind.bits:
        return operands.write(destination, kind), lambda x: x
    if bits < kind.bits or kind is F32:
        raise PtxError(f"{destination} has {bits} bits, the result {kind.bits}")
    wide = SCALARS[f"{kind.kind}{bits}"]
    return operands.write(destination, wide), lambda x: x.astype(wide.dtype)


def convert_address(instruction: Instruction, operands: Operands) -> Step:
    """cvta of global addresses, which are generic ones here."""
    if instruction.opcode not in ("cvta.to.global.u64", "cvta.global.u64"):
        raise PtxError("only global addresses are converted")
    destination, source = count(instruction, 2)
    return apply_ufunc(np.positive, operands.write(destination, U64), [operands.read(source, U64)])


CONVERSION_DECODERS: dict[str, Decoder] = {"cvt": convert, "cvta": convert_address}
