"""ldmatrix and mma.sync on bytes. PTX ISA 8.8, sections 9.7.14.5.15 (ldmatrix), 9.7.14.5.8 and 9.7.14.5.9 (fragments of mma).

Let g = lane / 4 and t = lane % 4. A register of a fragment is then a [8, 4] matrix of words, or an [8, 16] one of bytes, whose
row is g and whose columns belong to t: fragments are made from and taken apart into such blocks, without any index arithmetic.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptxsim.errors import PtxError
from ptxsim.operands import Operands
from ptxsim.races import Access
from ptxsim.scalars import S32, U32
from ptxsim.steps import Decoder, Mask, Step, count
from ptxsim.syntax import Instruction
from ptxsim.wave import WARP, Wave

ROW_BYTES = 16  # of an 8x8 matrix of 16-bit elements
MMA = re.compile(r"mma\.sync\.aligned\.m16n8k(16|32)\.row\.col(\.satfinite)?\.s32\.([su])8\.([su])8\.s32")
LDMATRIX = re.compile(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")
INT32 = np.iinfo(np.int32)


def require_whole_warps(wave: Wave, mask: Mask, instruction: Instruction) -> NDArray[np.bool_] | None:
    """bool [warps] that execute an .aligned instruction, None for all. Raises PtxError if only a part of one does."""
    if mask is None:
        return None
    present = mask.reshape(-1, WARP)
    whole: NDArray[np.bool_] = np.logical_and.reduce(present, 1)
    torn = np.logical_or.reduce(present, 1) & ~whole
    if torn.any():
        thread = int(np.flatnonzero(present & torn[:, None])[0])
        raise wave.fault(instruction, thread, "only a part of the warp executes an .aligned instruction")
    return whole


def load_matrices(instruction: Instruction, operands: Operands) -> Step:
    """ldmatrix: row i of matrix j lies where thread 8 j + i points; thread 4 i + t gets its elements 2 t and 2 t + 1."""
    match = LDMATRIX.fullmatch(instruction.opcode)
    if match is None:
        raise PtxError("this form of ldmatrix is not known")
    matrices, transposes = int(match[1]), match[2] is not None
    destination, source = count(instruction, 2)
    row, offset = operands.address(source)
    outs = [operands.write(name, U32) for name in operands.vector(destination)]
    if len(outs) != matrices:
        raise PtxError(f"{matrices} registers are needed, not {len(outs)}")

    def step(wave: Wave, mask: Mask) -> None:
        warps = require_whole_warps(wave, mask, instruction)
        numbers = wave.thread_numbers.reshape(-1, WARP)[slice(None) if warps is None else warps]
        threads = numbers[:, : 8 * matrices].reshape(-1)  # those whose addresses count
        addresses = wave.spread(wave.rows[row])[threads].astype(np.int64) + offset
        offsets = wave.locate(instruction, threads, addresses, ROW_BYTES, shared=True)
        words = wave.shared.gather(offsets, 4, 4).reshape(len(numbers), matrices, 8, 4)
        if transposes:
            halves = words.view(np.uint16)  # [warps, matrices, 8, 8]
            words = np.ascontiguousarray(halves.swapaxes(2, 3)).view(np.uint32)
        for i, out in enumerate(outs):
            wave.rows[out].reshape(-1, WARP)[slice(None) if warps is None else warps] = words[:, i].reshape(-1, WARP)
        if wave.races:
            wave.races.note(Access(instruction, threads, offsets, ROW_BYTES, writes=False, collective=True))

    return step


def multiply_accumulate(instruction: Instruction, operands: Operands) -> Step:
    """mma.m16n8k16 and .m16n8k32 on bytes: d = a b + c in int32, wrapping, or saturating with .satfinite.

    Products are summed in float32, exactly: 32 * 255 * 255 < 2^24.
    """
    match = MMA.fullmatch(instruction.opcode)
    if match is None:
        raise PtxError("this form of mma is not known")
    steps, saturates = int(match[1]) // 16, match[2] is not None
    a_type, b_type = (np.dtype(np.int8 if match[i] == "s" else np.uint8) for i in (3, 4))
    d, a, b, c = (operands.vector(operand) for operand in count(instruction, 4))
    if (len(d), len(a), len(b), len(c)) != (4, 2 * steps, steps, 4):
        raise PtxError("a fragment has the wrong number of registers")
    a_rows, b_rows = [operands.read(name, U32) for name in a], [operands.read(name, U32) for name in b]
    c_rows, d_rows = [operands.read(name, S32) for name in c], [operands.write(name, S32) for name in d]

    def step(wave: Wave, mask: Mask) -> None:
        chosen = require_whole_warps(wave, mask, instruction)
        rows, warps = wave.rows, wave.warps

        def octets(row: int, dtype: np.dtype[Any]) -> NDArray[Any]:
            """[warps, g, t, byte]"""
            return np.ascontiguousarray(wave.spread(rows[row])).view(dtype).reshape(warps, 8, 4, 4)

        # Register i of a holds rows g + 8 (i % 2) and columns 4 t + byte + 16 (i / 2); of b rows 4 t + byte + 16 i, column g.
        left = np.empty((warps, 2, 8, steps, 4, 4), np.float32)
        for i, row in enumerate(a_rows):
            left[:, i % 2, :, i // 2] = octets(row, a_type)
        right = np.empty((warps, 8, steps, 4, 4), np.float32)
        for i, row in enumerate(b_rows):
            right[:, :, i] = octets(row, b_type)
        depth = 16 * steps
        product = left.reshape(warps, 16, depth) @ right.reshape(warps, 8, depth).swapaxes(1, 2)
        # Register i of c and d holds row g + 8 (i / 2), column 2 t + i % 2.
        parts = product.astype(np.int32).reshape(warps, 2, 8, 4, 2)
        totals = []
        for i, source in enumerate(c_rows):
            part = parts[:, i // 2, :, :, i % 2].reshape(warps, WARP)
            before = wave.spread(rows[source]).reshape(warps, WARP)
            total = part + before
            if saturates:
                # Overflow gives the sum a sign that both summands lack.
                over = (total ^ part) & (total ^ before) < 0
                if over.any():
                    total = np.where(over, np.where(part < 0, INT32.min, INT32.max).astype(np.int32), total)
            totals.append(total)
        for out, total in zip(d_rows, totals, strict=True):  # d may be c in another order
            target = rows[out].reshape(warps, WARP)
            if chosen is None:
                target[...] = total
            else:
                target[chosen] = total[chosen]

    return step


TENSOR_DECODERS: dict[str, Decoder] = {"ldmatrix": load_matrices, "mma": multiply_accumulate}
