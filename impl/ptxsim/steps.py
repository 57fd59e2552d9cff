"""A decoded instruction is a step: a function that changes a wave, for all its threads or for those of a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptxsim.errors import PtxError
from ptxsim.operands import Operands
from ptxsim.scalars import Row, Scalar, scalar
from ptxsim.syntax import Instruction
from ptxsim.wave import Wave

Mask = NDArray[np.bool_] | None  # bool [threads]; None: every thread of the wave
Step = Callable[[Wave, Mask], None]
Decoder = Callable[[Instruction, Operands], Step]


def apply_ufunc(ufunc: Callable[..., Any], out: int, sources: Sequence[int], **options: Any) -> Step:
    """out = ufunc(sources), in place; `options` such as dtype= go to the ufunc."""
    if len(sources) == 1:
        (a,) = sources

        def unary(wave: Wave, mask: Mask) -> None:
            rows = wave.rows
            if mask is None:
                ufunc(rows[a], out=rows[out], **options)
            else:
                ufunc(rows[a], out=rows[out], where=mask, **options)

        return unary
    a, b = sources

    def binary(wave: Wave, mask: Mask) -> None:
        rows = wave.rows
        if mask is None:
            ufunc(rows[a], rows[b], out=rows[out], **options)
        else:
            ufunc(rows[a], rows[b], out=rows[out], where=mask, **options)

    return binary


def assign(wave: Wave, mask: Mask, row: int, value: Row) -> None:
    """rows[row] = value where the mask says so; the value has the row's type or a narrower one."""
    if mask is None:
        wave.rows[row][...] = value
    else:
        np.copyto(wave.rows[row], value, where=mask)


def apply_function(function: Callable[..., Row], out: int, sources: Sequence[int]) -> Step:
    """out = function(sources); the function's result has out's type, and shape [threads] or [1]."""

    def step(wave: Wave, mask: Mask) -> None:
        rows = wave.rows
        assign(wave, mask, out, function(*[rows[source] for source in sources]))

    return step


def active(wave: Wave, mask: Mask) -> NDArray[np.intp]:
    """The numbers of the threads that take part."""
    return wave.thread_numbers if mask is None else np.flatnonzero(mask)


def typed(instruction: Instruction, *, allowed: str, modifiers: str = "") -> tuple[Scalar, set[str]]:
    """(type, other modifiers) of "op.mod.type". Both lists are words that may occur; anything else raises."""
    *others, name = instruction.modifiers or ("",)
    if name not in allowed.split():
        raise PtxError(f"{instruction.mnemonic} is not known for type .{name}")
    if unknown := set(others) - set(modifiers.split()):
        raise PtxError(f"unknown modifiers: {', '.join(sorted(unknown))}")
    if len(set(others)) < len(others):
        raise PtxError("a modifier occurs twice")
    return scalar(name), set(others)


def count(instruction: Instruction, *numbers: int) -> tuple[str, ...]:
    """The operands, whose number must be one of `numbers`."""
    if len(instruction.operands) not in numbers:
        raise PtxError(f"{' or '.join(map(str, numbers))} operands are needed")
    return instruction.operands
