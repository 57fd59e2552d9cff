"""What the threads of a warp do together: shfl, vote, redux, activemask, bar.warp. PTX ISA 8.8, sections 9.7.9.6 and 9.7.13."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptxsim.errors import PtxError
from ptxsim.operands import Operands
from ptxsim.scalars import PRED, SCALARS, U32, Row
from ptxsim.steps import Decoder, Mask, Step, assign, count
from ptxsim.syntax import Instruction
from ptxsim.wave import WARP, Wave

LANES = np.arange(WARP)
BITS = np.uint32(1) << LANES.astype(np.uint32)


def by_warp(wave: Wave, row: Row) -> NDArray[Any]:
    """[warps, 32] of a row."""
    return wave.spread(row).reshape(-1, WARP)


def members(wave: Wave, mask: Mask, instruction: Instruction, membership: Row) -> NDArray[np.bool_]:
    """bool [warps, 32]: the threads that an instruction's member mask names in warps that execute it.

    Raises PtxError unless exactly those execute it together: on hardware others would wait, or do what nobody has specified.
    """
    named = by_warp(wave, membership)[:, :, None] & BITS != 0  # [warps, 32, 32]: whom each thread names
    present = np.ones((wave.warps, WARP), np.bool_) if mask is None else mask.reshape(-1, WARP)
    wrong = present & (named != present[:, None, :]).any(2)
    if wrong.any():
        raise wave.fault(instruction, int(np.flatnonzero(wrong)[0]), "the member mask does not name the threads that are here")
    return present


def member_check(operands: Operands, instruction: Instruction, name: str) -> Callable[[Wave, Mask], None]:
    """A function that raises unless the member mask is right; the usual one, all of them, costs nothing."""
    row = operands.read(name, U32)
    full = operands.is_immediate(name) and operands.immediate(name) % 2**32 == 2**32 - 1

    def check(wave: Wave, mask: Mask) -> None:
        if mask is not None or not full:
            members(wave, mask, instruction, wave.rows[row])

    return check


def shuffle(instruction: Instruction, operands: Operands) -> Step:
    """shfl.sync.mode.b32 d{|p}, a, b, c, members. c holds the segments: bits 12-8 a mask, bits 4-0 a clamp."""
    if len(instruction.modifiers) != 3 or instruction.modifiers[::2] != ("sync", "b32"):
        raise PtxError("only shfl.sync.*.b32 is known")
    mode = instruction.modifiers[1]
    if mode not in ("up", "down", "bfly", "idx"):
        raise PtxError(f"shfl has no mode .{mode}")
    results, a, b, c, named = count(instruction, 5)
    check = member_check(operands, instruction, named)
    value, distance, segments = operands.read(a, U32), operands.read(b, U32), operands.read(c, U32)
    names = [name.strip() for name in results.split("|")]
    out = operands.write(names[0], U32)
    inside_out = operands.write(names[1], PRED) if len(names) > 1 else None

    def step(wave: Wave, mask: Mask) -> None:
        check(wave, mask)
        rows = wave.rows
        far = (by_warp(wave, rows[distance]) & 31).astype(np.int64)
        control = by_warp(wave, rows[segments]).astype(np.int64)
        segment = control >> 8 & 31
        least = LANES & segment
        last = least | (control & 31 & ~segment)
        if mode == "up":
            lane = LANES - far
            inside = lane >= last
        else:
            lane = LANES + far if mode == "down" else LANES ^ far if mode == "bfly" else least | (far & ~segment)
            inside = lane <= last
        lane = np.where(inside, lane, LANES)
        if mask is not None:
            absent = mask.reshape(-1, WARP) & ~np.take_along_axis(mask.reshape(-1, WARP), lane, 1)
            if absent.any():
                raise wave.fault(instruction, int(np.flatnonzero(absent)[0]), "reads from a thread that is not here")
        taken = np.take_along_axis(by_warp(wave, rows[value]), lane, 1)
        assign(wave, mask, out, taken.reshape(-1))
        if inside_out is not None:
            assign(wave, mask, inside_out, inside.reshape(-1))

    return step


REDUCTIONS: dict[str, Any] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def reduce_warp(instruction: Instruction, operands: Operands) -> Step:
    """redux.sync.op.type d, a, members: every member gets the result."""
    if len(instruction.modifiers) != 3 or instruction.modifiers[0] != "sync":
        raise PtxError("only redux.sync is known")
    _, operation, type_name = instruction.modifiers
    if operation not in REDUCTIONS or type_name not in (("b32",) if operation in ("and", "or", "xor") else ("s32", "u32")):
        raise PtxError(f"redux.sync.{operation}.{type_name} is not known")
    kind = SCALARS[type_name]
    d, a, named = count(instruction, 3)
    check = member_check(operands, instruction, named)
    value, out = operands.read(a, kind), operands.write(d, kind)
    ufunc = REDUCTIONS[operation]
    neutral = {"add": 0, "or": 0, "xor": 0, "and": 2**32 - 1, "min": kind.limits[1], "max": kind.limits[0]}[operation]

    def step(wave: Wave, mask: Mask) -> None:
        check(wave, mask)
        values = by_warp(wave, wave.rows[value])
        if mask is not None:
            values = np.where(mask.reshape(-1, WARP), values, np.array(neutral, kind.dtype))
        total = ufunc.reduce(values, axis=1, dtype=kind.dtype)
        assign(wave, mask, out, np.repeat(total, WARP))

    return step


def vote(instruction: Instruction, operands: Operands) -> Step:
    """vote.sync.{all, any, uni}.pred and vote.sync.ballot.b32 d, {!}p, members."""
    if instruction.modifiers not in {("sync", mode, "pred") for mode in ("all", "any", "uni")} | {("sync", "ballot", "b32")}:
        raise PtxError("this vote is not known")
    mode = instruction.modifiers[1]
    d, p, named = count(instruction, 3)
    check = member_check(operands, instruction, named)
    negated, row = p.startswith("!"), operands.read(p.lstrip("!"), PRED)
    out = operands.write(d, U32 if mode == "ballot" else PRED)

    def step(wave: Wave, mask: Mask) -> None:
        check(wave, mask)
        holds = by_warp(wave, wave.rows[row]) ^ negated
        present = np.ones_like(holds) if mask is None else mask.reshape(-1, WARP)
        if mode == "ballot":
            result: Row = ((holds & present) * BITS).sum(1, dtype=np.uint32)
        else:
            every, some = (holds | ~present).all(1), (holds & present).any(1)
            result = np.asarray(every if mode == "all" else some if mode == "any" else every | ~some)
        assign(wave, mask, out, np.repeat(result, WARP))

    return step


def active_mask(instruction: Instruction, operands: Operands) -> Step:
    """activemask.b32: the threads of the warp that execute this."""
    if instruction.modifiers != ("b32",):
        raise PtxError("only activemask.b32 is known")
    out = operands.write(count(instruction, 1)[0], U32)

    def step(wave: Wave, mask: Mask) -> None:
        present = np.ones((wave.warps, WARP), np.bool_) if mask is None else mask.reshape(-1, WARP)
        assign(wave, mask, out, np.repeat((present * BITS).sum(1, dtype=np.uint32), WARP))

    return step


def warp_barrier(instruction: Instruction, operands: Operands) -> Step:
    """bar.warp.sync members; decoded for `bar`, whose other forms end a block of instructions and are the executor's."""
    check = member_check(operands, instruction, count(instruction, 1)[0])

    def step(wave: Wave, mask: Mask) -> None:
        check(wave, mask)
        if wave.races:
            wave.races.warp_barrier(mask)

    return step


WARP_DECODERS: dict[str, Decoder] = {
    "shfl": shuffle,
    "redux": reduce_warp,
    "vote": vote,
    "activemask": active_mask,
    "bar": warp_barrier,
}
