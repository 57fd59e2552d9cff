"""cp.async: 4, 8 or 16 bytes from global to shared memory, of which the bytes beyond the source size become zero.

PTX ISA 8.8, section 9.7.9.25.3. What becomes of the copy until it is waited for is in `copies`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptxsim.access import L2_HINTS, locate, note
from ptxsim.errors import PtxError
from ptxsim.operands import Operands
from ptxsim.scalars import U32, U64
from ptxsim.steps import Decoder, Mask, Step, active, count
from ptxsim.syntax import Instruction
from ptxsim.wave import Wave

SIZES = {"ca": (4, 8, 16), "cg": (16,)}


def asynchronous(instruction: Instruction, operands: Operands) -> Step:
    """cp.async, cp.async.commit_group, cp.async.wait_group and cp.async.wait_all."""
    first, *rest = instruction.modifiers or ("",)
    if first != "async":
        raise PtxError("only cp.async is known")
    if rest == ["commit_group"]:
        count(instruction, 0)
        return lambda wave, mask: wave.copies.commit(slice(None) if mask is None else mask)
    if rest == ["wait_group"]:
        most = operands.immediate(count(instruction, 1)[0])
        return lambda wave, mask: wave.copies.wait(wave.shared, mask, most)
    if rest == ["wait_all"]:
        count(instruction, 0)
        return lambda wave, mask: wave.copies.wait(wave.shared, mask, None)
    return copy(instruction, operands, rest)


def copy(instruction: Instruction, operands: Operands, modifiers: list[str]) -> Step:
    """cp.async.ca|cg.shared.global [shared], [global], size{, source size}{, policy}."""
    if modifiers[:1] not in (["ca"], ["cg"]) or modifiers[1:3] not in (["shared", "global"], ["shared::cta", "global"]):
        raise PtxError("only cp.async.ca and .cg from global to shared memory are known")
    hints = modifiers[3:]
    if not set(hints) <= L2_HINTS:
        raise PtxError(f"unknown modifiers: {', '.join(hints)}")
    names = list(count(instruction, 3, 4, 5))
    if "L2::cache_hint" in hints:
        operands.read(names.pop(), U64)
    if len(names) > 4:
        raise PtxError("too many operands")
    size = operands.immediate(names[2])
    if size not in SIZES[modifiers[0]]:
        raise PtxError(f"{size} bytes cannot be copied")
    if len(names) == 4 and operands.is_register(names[3]) and operands.kind(names[3]).bits != 32:
        raise PtxError("an ignore-src predicate is not known")
    target, target_offset = operands.address(names[0])
    source, source_offset = operands.address(names[1])
    length = operands.read(names[3], U32) if len(names) == 4 else operands.constant(np.array([size], np.uint32), U32)

    def step(wave: Wave, mask: Mask) -> None:
        threads = active(wave, mask)
        _, places = locate(wave, instruction, True, threads, target, target_offset, size)
        lengths = wave.spread(wave.rows[length])[threads]
        if lengths.max() > size:
            thread = int(threads[np.argmax(lengths)])
            raise wave.fault(instruction, thread, f"a source of {lengths.max()} bytes for {size}")
        data = np.zeros((len(threads), size), np.uint8)
        whole = lengths == size
        if whole.all():  # the usual case needs no selection
            data = _read(wave, instruction, threads, source, source_offset, size)
        else:
            if whole.any():
                data[whole] = _read(wave, instruction, threads[whole], source, source_offset, size)
            for i in np.flatnonzero(~whole & (lengths > 0)):
                for byte in range(int(lengths[i])):
                    data[i, byte] = _read(wave, instruction, threads[i : i + 1], source, source_offset + byte, 1)[0, 0]
        wave.copies.issue(instruction, threads, places, data.view(np.uint32))
        note(wave, instruction, threads, places, size, writes=True)

    return step


def _read(wave: Wave, instruction: Instruction, threads: NDArray[np.intp], row: int, offset: int, size: int) -> NDArray[np.uint8]:
    """uint8 [n, size] from global memory."""
    space, offsets = locate(wave, instruction, False, threads, row, offset, size)
    width = min(size, 4)
    return np.ascontiguousarray(space.gather(offsets, width, size // width)).view(np.uint8)


COPY_DECODERS: dict[str, Decoder] = {"cp": asynchronous}
