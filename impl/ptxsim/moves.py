"""mov, with packing and unpacking of vectors, ld.param, and createpolicy. PTX ISA 8.8, sections 9.7.9.2 to 9.7.9.8."""

from __future__ import annotations

import numpy as np

from ptxsim.errors import PtxError
from ptxsim.operands import Operands
from ptxsim.scalars import PRED, SCALARS, U64, Row, untyped
from ptxsim.steps import Decoder, Mask, Step, apply_function, apply_ufunc, assign, count, typed
from ptxsim.syntax import Instruction
from ptxsim.wave import Wave

WORDS = "b16 b32 b64 u16 u32 u64 s16 s32 s64 f32"
PARAMETERS = "b8 u8 s8 " + WORDS


def move(instruction: Instruction, operands: Operands) -> Step:
    """mov of a register, constant, special register or address; {a, b} on one side packs or unpacks."""
    kind, _ = typed(instruction, allowed=WORDS + " pred")
    d, a = count(instruction, 2)
    if kind is PRED:
        return apply_function(lambda x: x, operands.write(d, PRED), [operands.read(a, PRED)])
    if a.startswith("{"):
        return _pack(operands, d, operands.vector(a), kind.bits)
    if d.startswith("{"):
        return _unpack(operands, operands.vector(d), a, kind.bits)
    plain = kind if kind.kind == "f" and not operands.is_register(a) else untyped(kind.bits)
    return apply_ufunc(np.positive, operands.write(d, plain), [operands.read(a, plain)])


def _part_bits(parts: list[str], bits: int) -> int:
    part = bits // len(parts)
    if part * len(parts) != bits or part not in (8, 16, 32):
        raise PtxError(f"{len(parts)} parts do not make {bits} bits")
    if part == 8:
        raise PtxError("vectors of bytes do not move: registers of 8 bits do not exist")
    return part


def _pack(operands: Operands, destination: str, parts: list[str], bits: int) -> Step:
    """The first element has the lowest bits."""
    part, whole = untyped(_part_bits(parts, bits)), untyped(bits)
    sources = [operands.read(name, part) for name in parts]

    def pack(*values: Row) -> Row:
        result = values[0].astype(whole.dtype)
        for i, value in enumerate(values[1:], 1):
            result = result | value.astype(whole.dtype) << np.array(i * part.bits, whole.dtype)
        return result

    return apply_function(pack, operands.write(destination, whole), sources)


def _unpack(operands: Operands, parts: list[str], source: str, bits: int) -> Step:
    part, whole = untyped(_part_bits(parts, bits)), untyped(bits)
    value = operands.read(source, whole)
    outs = [None if name == "_" else operands.write(name, part) for name in parts]

    def step(wave: Wave, mask: Mask) -> None:
        pieces = np.ascontiguousarray(wave.rows[value]).view(part.dtype).reshape(-1, len(outs))
        for i, out in enumerate(outs):
            if out is not None:
                assign(wave, mask, out, pieces[:, i])

    return step


def load_parameter(instruction: Instruction, operands: Operands) -> Step:
    """ld.param of a whole parameter."""
    if len(instruction.modifiers) != 2 or instruction.modifiers[1] not in PARAMETERS.split():
        raise PtxError("only scalar parameters are loaded")
    kind = SCALARS[instruction.modifiers[1]]
    d, a = count(instruction, 2)
    bits = operands.kind(d).bits
    if bits < kind.bits:
        raise PtxError(f"{d} has {bits} bits, {kind.bits} are loaded")
    narrow = kind if kind.signed else untyped(kind.bits)
    wide = SCALARS[f"{'s' if kind.signed else 'b'}{bits}"]
    return apply_function(lambda x: x.astype(wide.dtype), operands.write(d, wide), [operands.parameter(a.strip("[] \t"), narrow)])


def create_policy(instruction: Instruction, operands: Operands) -> Step:
    """A cache policy: a hint, of which there is nothing to execute. Its register counts as written."""
    others = instruction.modifiers[1:-1]
    known = instruction.modifiers[:1] == ("fractional",) and instruction.modifiers[-1:] == ("b64",)
    if not known or not all(other.startswith("L2::evict_") for other in others):
        raise PtxError("only createpolicy.fractional.L2::evict_*.b64 is known")
    out = operands.write(count(instruction, 1, 2)[0], U64)
    return apply_function(lambda: np.zeros(1, np.uint64), out, [])


MOVE_DECODERS: dict[str, Decoder] = {"mov": move, "createpolicy": create_policy}
