"""Logic, shifts and bit fields: and, or, xor, not, shl, shr, shf, lop3, prmt, bfe, bfi, popc, clz, brev, szext.

PTX ISA 8.8, sections 9.7.1 (bfe, bfi, popc, clz, brev, szext), 9.7.8 (logic and shifts) and 9.7.9.7 (prmt).
"""

from __future__ import annotations

import numpy as np

from ptxsim.errors import PtxError
from ptxsim.operands import Operands
from ptxsim.scalars import U32, Row
from ptxsim.steps import Decoder, Step, apply_function, apply_ufunc, count, typed
from ptxsim.syntax import Instruction

LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
WIDTH = np.uint64(32)


def logic(instruction: Instruction, operands: Operands) -> Step:
    """and, or, xor of two operands, not of one; predicates included, for which NumPy's not is a logical one."""
    kind, _ = typed(instruction, allowed="pred b16 b32 b64")
    if instruction.mnemonic == "not":
        d, a = count(instruction, 2)
        return apply_ufunc(np.invert, operands.write(d, kind), [operands.read(a, kind)])
    d, a, b = count(instruction, 3)
    return apply_ufunc(LOGIC[instruction.mnemonic], operands.write(d, kind), [operands.read(a, kind), operands.read(b, kind)])


def shift(instruction: Instruction, operands: Operands) -> Step:
    """shl, shr: amounts beyond the width act as the width. That is NumPy's rule, too, which takes negative amounts for large."""
    left = instruction.mnemonic == "shl"
    kind, _ = typed(instruction, allowed="b16 b32 b64" if left else "b16 b32 b64 u16 u32 u64 s16 s32 s64")
    d, a, b = count(instruction, 3)
    if operands.is_immediate(b):
        amount = operands.constant(np.array([min(operands.immediate(b) % 2**32, kind.bits)], kind.dtype), kind)
    else:
        # Of 32 bits whatever the value's width. Equal types keep NumPy from promoting.
        amount = operands.read(b, kind if kind.bits == 32 else U32)
    ufunc = np.left_shift if left else np.right_shift
    return apply_ufunc(ufunc, operands.write(d, kind), [operands.read(a, kind), amount])


def funnel_shift(instruction: Instruction, operands: Operands) -> Step:
    """shf.l, shf.r: the upper (left) or lower (right) half of {b, a} shifted; .clamp or .wrap at 32."""
    kind, modifiers = typed(instruction, allowed="b32", modifiers="l r clamp wrap")
    if len(modifiers & {"l", "r"}) != 1 or len(modifiers & {"clamp", "wrap"}) != 1:
        raise PtxError("one of .l and .r and one of .clamp and .wrap is needed")
    d, a, b, c = count(instruction, 4)
    left, wrap = "l" in modifiers, "wrap" in modifiers

    def shifted(low: Row, high: Row, amount: Row) -> Row:
        n = (amount & np.uint32(31) if wrap else np.minimum(amount, np.uint32(32))).astype(np.uint64)
        both = high.astype(np.uint64) << WIDTH | low
        return ((both << n) >> WIDTH if left else both >> n).astype(np.uint32)

    return apply_function(shifted, operands.write(d, kind), [operands.read(x, kind) for x in (a, b, c)])


def lop3(instruction: Instruction, operands: Operands) -> Step:
    """Any function of three bits: bit 4a + 2b + c of the table is its value."""
    kind, _ = typed(instruction, allowed="b32")
    d, a, b, c, table = count(instruction, 5)
    truth = operands.immediate(table)
    if not 0 <= truth < 256:
        raise PtxError(f"a truth table of lop3 has 8 bits, not {truth}")

    def combine(a: Row, b: Row, c: Row) -> Row:
        result = np.zeros(1, np.uint32)
        for i in range(8):
            if truth >> i & 1:
                result = result | (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        return result

    return apply_function(combine, operands.write(d, kind), [operands.read(x, kind) for x in (a, b, c)])


def permute_bytes(instruction: Instruction, operands: Operands) -> Step:
    """prmt.b32 in its default mode: four selectors of 4 bits; bit 3 asks for the sign of the chosen byte instead."""
    kind, _ = typed(instruction, allowed="b32")
    d, a, b, selector = count(instruction, 4)
    out, sources = operands.write(d, kind), [operands.read(a, kind), operands.read(b, kind)]
    if not operands.is_immediate(selector):
        return apply_function(permute_by_register, out, [*sources, operands.read(selector, kind)])
    choice = [operands.immediate(selector) >> 4 * i & 15 for i in range(4)]

    def permute(a: Row, b: Row) -> Row:
        bytes_a, bytes_b = a.view(np.uint8).reshape(-1, 4), b.view(np.uint8).reshape(-1, 4)
        result = np.empty((max(len(a), len(b)), 4), np.uint8)
        for i, chosen in enumerate(choice):
            byte = (bytes_b if chosen & 4 else bytes_a)[:, chosen & 3]
            result[:, i] = (byte.view(np.int8) >> 7).view(np.uint8) if chosen & 8 else byte
        return result.view(np.uint32)[:, 0]

    return apply_function(permute, out, sources)


def permute_by_register(a: Row, b: Row, selector: Row) -> Row:
    """prmt.b32 with a selector per thread."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << WIDTH
    result = np.zeros(1, np.uint32)
    for i in range(4):
        chosen = selector >> np.uint32(4 * i) & np.uint32(15)
        byte = (both >> (chosen & np.uint32(7)).astype(np.uint64) * np.uint64(8)).astype(np.uint8)
        sign = (byte.view(np.int8) >> 7).view(np.uint8)
        result = result | np.where(chosen & np.uint32(8), sign, byte).astype(np.uint32) << np.uint32(8 * i)
    return result


def extract_field(instruction: Instruction, operands: Operands) -> Step:
    """bfe: `length` bits from `start` on; what lies beyond the top bit is the sign for signed types, else zero."""
    kind, _ = typed(instruction, allowed="u32 s32 u64 s64")
    d, a, b, c = count(instruction, 4)
    bits = kind.bits

    def extract(value: Row, start: Row, length: Row) -> Row:
        # Only the low eight bits count. The field is moved to the top and back; a signed shift brings its own sign bit along,
        # and a field that reaches beyond the top is cut there, so that its sign is the value's.
        first = np.minimum(start & np.uint32(255), np.uint32(bits))
        size = np.minimum(length & np.uint32(255), np.uint32(bits) - first)
        # Where the field begins at or beyond the top bit, its sign is that of the value.
        sign = value >> np.array(bits - 1, kind.dtype) if kind.signed else np.zeros(1, kind.dtype)
        up, down = (np.uint32(bits) - first - size).astype(kind.dtype), (np.uint32(bits) - size).astype(kind.dtype)
        field = value << up >> down
        asked = length & np.uint32(255)
        return np.where(asked == 0, np.zeros(1, kind.dtype), np.where(size == 0, sign, field))

    sources = [operands.read(a, kind), operands.read(b, U32), operands.read(c, U32)]
    return apply_function(extract, operands.write(d, kind), sources)


def insert_field(instruction: Instruction, operands: Operands) -> Step:
    """bfi: the low `length` bits of a replace those of b from `start` on."""
    kind, _ = typed(instruction, allowed="b32 b64")
    f, a, b, c, d = count(instruction, 5)
    one = np.array([1], kind.dtype)

    def insert(a: Row, b: Row, start: Row, length: Row) -> Row:
        first, size = (start & np.uint32(255)).astype(kind.dtype), (length & np.uint32(255)).astype(kind.dtype)
        window = (one << size) - one << first  # sizes beyond the width give all ones, as shifts beyond it give zero
        return b & ~window | a << first & window

    sources = [operands.read(a, kind), operands.read(b, kind), operands.read(c, U32), operands.read(d, U32)]
    return apply_function(insert, operands.write(f, kind), sources)


def count_bits(instruction: Instruction, operands: Operands) -> Step:
    """popc: ones; clz: leading zeros. The result has 32 bits."""
    kind, _ = typed(instruction, allowed="b32 b64")
    d, a = count(instruction, 2)

    def ones(x: Row) -> Row:
        return np.unpackbits(x.view(np.uint8).reshape(len(x), kind.bytes), axis=1).sum(1, dtype=np.uint32)

    def leading_zeros(x: Row) -> Row:
        for distance in (1, 2, 4, 8, 16, 32)[: kind.bits.bit_length() - 1]:
            x = x | x >> np.array(distance, kind.dtype)  # ones from the highest one downwards
        return np.uint32(kind.bits) - ones(x)

    function = ones if instruction.mnemonic == "popc" else leading_zeros
    return apply_function(function, operands.write(d, U32), [operands.read(a, kind)])


def reverse_bits(instruction: Instruction, operands: Operands) -> Step:
    """brev."""
    kind, _ = typed(instruction, allowed="b32 b64")
    d, a = count(instruction, 2)

    def reverse(x: Row) -> Row:
        octets = x.view(np.uint8).reshape(len(x), kind.bytes)
        bits = np.unpackbits(octets, axis=1, bitorder="little")[:, ::-1]
        return np.packbits(bits, axis=1, bitorder="little").view(kind.dtype)[:, 0]

    return apply_function(reverse, operands.write(d, kind), [operands.read(a, kind)])


def extend(instruction: Instruction, operands: Operands) -> Step:
    """szext: the low `length` bits, extended by sign or zero; lengths of 32 and more keep everything, or wrap at 32."""
    kind, modifiers = typed(instruction, allowed="u32 s32", modifiers="wrap clamp")
    if len(modifiers) != 1:
        raise PtxError("one of .wrap and .clamp is needed")
    d, a, b = count(instruction, 3)

    def extended(value: Row, length: Row) -> Row:
        size = length & np.uint32(31) if "wrap" in modifiers else np.minimum(length, np.uint32(32))
        rest = (np.uint32(32) - size).astype(kind.dtype)
        return np.where(size == 0, np.zeros(1, kind.dtype), value << rest >> rest)

    return apply_function(extended, operands.write(d, kind), [operands.read(a, kind), operands.read(b, U32)])


BIT_DECODERS: dict[str, Decoder] = {
    "and": logic,
    "or": logic,
    "xor": logic,
    "not": logic,
    "shl": shift,
    "shr": shift,
    "shf": funnel_shift,
    "lop3": lop3,
    "prmt": permute_bytes,
    "bfe": extract_field,
    "bfi": insert_field,
    "popc": count_bits,
    "clz": count_bits,
    "brev": reverse_bits,
    "szext": extend,
}
