"""Comparisons and selections: setp, selp, and the logic of predicates. PTX ISA 8.8, sections 9.7.6 and 9.7.7."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptxsim.errors import PtxError
from ptxsim.floating import flush
from ptxsim.operands import Operands
from ptxsim.scalars import PRED, Row, scalar, untyped
from ptxsim.steps import Decoder, Mask, Step, apply_function, apply_ufunc, assign, count
from ptxsim.syntax import Instruction
from ptxsim.wave import Wave

Comparison = Callable[[Row, Row], Row]
ORDER: dict[str, Comparison] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}  # other names, for unsigned types only
BOOLEAN: dict[str, Comparison] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
TYPES = ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32"]


def unordered(x: Row, y: Row) -> Row:
    return np.isnan(x) | np.isnan(y)


def float_comparison(name: str) -> Comparison:
    """Ordered comparisons are false with a NaN, those that end in u are true. NumPy's are ordered, except not_equal."""
    if name == "nan":
        return unordered
    if name == "num":
        return lambda x, y: ~unordered(x, y)
    if name == "ne":
        return lambda x, y: np.not_equal(x, y) & ~unordered(x, y)
    if name in ORDER:
        return ORDER[name]
    if name.endswith("u") and name[:-1] in ORDER:
        ordered = ORDER[name[:-1]]
        return lambda x, y: ordered(x, y) | unordered(x, y)
    raise PtxError(f"no comparison .{name} of floats")


def integer_comparison(name: str, kind: str) -> Comparison:
    if kind == "b" and name not in ("eq", "ne"):
        raise PtxError(f"no comparison .{name} of bits")
    if kind == "u" and name in UNSIGNED:
        return ORDER[UNSIGNED[name]]
    if name not in ORDER:
        raise PtxError(f"no comparison .{name} of integers")
    return ORDER[name]


def set_predicate(instruction: Instruction, operands: Operands) -> Step:
    """setp.cmp{.bool}{.ftz}.type p{|q}, a, b{, {!}c}: p = (a cmp b) bool c, q = !(a cmp b) bool c."""
    if len(instruction.modifiers) < 2:
        raise PtxError("a comparison and a type are needed")
    name, *others, type_name = instruction.modifiers
    if type_name not in TYPES:
        raise PtxError(f"setp is not known for type .{type_name}")
    kind = scalar(type_name)
    flushes = "ftz" in others and kind.kind == "f"
    combining = [other for other in others if not (other == "ftz" and flushes)]
    if len(combining) > 1 or not set(combining) <= set(BOOLEAN):
        raise PtxError(f"unknown modifiers: {', '.join(others)}")
    compare = float_comparison(name) if kind.kind == "f" else integer_comparison(name, kind.kind)
    results, a, b, *rest = count(instruction, 4 if combining else 3)
    x, y = operands.read(a, kind), operands.read(b, kind)
    outs = [operands.write(result.strip(), PRED) for result in results.split("|")]
    if not combining and not flushes and len(outs) == 1 and isinstance(compare, np.ufunc):
        return apply_ufunc(compare, outs[0], [x, y])
    combine = BOOLEAN[combining[0]] if combining else None
    negated = bool(rest) and rest[0].startswith("!")
    third = operands.read(rest[0].lstrip("!"), PRED) if rest else 0

    def step(wave: Wave, mask: Mask) -> None:
        first, second = wave.rows[x], wave.rows[y]
        if flushes:
            first, second = flush(first), flush(second)
        holds = compare(first, second)
        values = [holds, ~holds]
        if combine:
            other = ~wave.rows[third] if negated else wave.rows[third].copy()
            values = [combine(value, other) for value in values]
        for out, value in zip(outs, values, strict=False):
            assign(wave, mask, out, value)

    return step


def select(instruction: Instruction, operands: Operands) -> Step:
    """selp: a where the predicate holds, else b."""
    if len(instruction.modifiers) != 1 or instruction.modifiers[0] not in TYPES:
        raise PtxError(f"selp is not known for type .{'.'.join(instruction.modifiers)}")
    declared = scalar(instruction.modifiers[0])
    kind = declared if declared.kind == "f" else untyped(declared.bits)  # constants may be written 0f3F800000
    d, a, b, p = count(instruction, 4)
    sources = [operands.read(p, PRED), operands.read(a, kind), operands.read(b, kind)]
    return apply_function(np.where, operands.write(d, kind), sources)


COMPARISON_DECODERS: dict[str, Decoder] = {"setp": set_predicate, "selp": select}
