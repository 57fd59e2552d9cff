"""The inner loop of the compiled GEMM keeps every accumulator in a register: its disassembly is searched for spills."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from geluless.engine import cpu
from geluless.engine.cpu import native
from geluless.engine.disassembly import Instruction, instructions, objdump
from geluless.errors import MissingResource


def innermost_loops(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """Bodies from the target of a backward jump to the jump, with no other such jump inside."""
    place = {instruction.address: i for i, instruction in enumerate(code)}
    last_jump = -1
    for i, instruction in enumerate(code):
        target = re.match(r"([0-9a-f]+)(?: <|$)", instruction.operands)
        if not instruction.mnemonic.startswith("j") or not target:
            continue
        start = place.get(int(target[1], 16), i + 1)
        if start <= i:
            if last_jump < start:
                yield code[start : i + 1]
            last_jump = i


def is_gemm_tile(body: list[Instruction]) -> bool:
    """At least 20 dot products in registers of 512 bits, four for each input that is broadcast: the GEMM's inner loop."""
    dots = sum(i.mnemonic == "vpdpbusd" and "zmm" in i.operands for i in body)
    broadcasts = sum(i.mnemonic == "vpbroadcastd" and "(" in i.operands and "zmm" in i.operands for i in body)
    return dots >= 20 and dots == 4 * broadcasts


def spills(body: list[Instruction]) -> list[Instruction]:
    """512-bit accesses to the stack, by either pointer; and stores to anywhere, for the loop's results stay in registers."""
    wide = [i for i in body if "zmm" in i.operands]
    on_stack = re.compile(r"\(%rsp|-0x[0-9a-f]+\(%rbp\)")  # %rbp is often a plain pointer: locals lie below it
    stored = re.compile(r"%zmm\d+(?:\{[^}]*\})?,[^,%]*\([^)]*\)$")
    return [i for i in wide if on_stack.search(i.operands) or stored.search(i.operands)]


TILE = """
    1000:	mov    0x8(%rdi),%rbp
    1010:	vmovdqa64 (%rdx),%zmm25
    1016:	vpbroadcastd (%rbp,%rax,1),%zmm24
    {dots}
    1100:	vpbroadcastd (%r8),%zmm24
    {dots}
    1200:	vpbroadcastd 0x40(%rbp),%zmm24
    {dots}
    1300:	vpbroadcastd (%r8,%rcx,2),%zmm24
    {dots}
    1400:	vpbroadcastd (%r9),%zmm24
    {dots}
    {extra}
    1500:	cmp    %edx,%eax
    1502:	jl     1010 <somewhere+0x10>
    1504:	vmovdqa64 %zmm0,0x40(%rsp)
"""


def tile(extra: str) -> list[Instruction]:
    return list(instructions(TILE.format(dots="\n".join(4 * ["    1020:	vpdpbusd %zmm25,%zmm24,%zmm0"]), extra=extra)))


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ("1490:	nop", 0),
        ("1490:	vmovdqa64 %zmm3,-0x40(%rbp)", 1),
        ("1490:	vmovdqa64 -0x40(%rbp),%zmm3", 1),
        ("1490:	vmovdqa64 %zmm3,0x80(%rsp)", 1),
        ("1490:	vpdpbusd 0x80(%rsp),%zmm24,%zmm3", 1),
        ("1490:	vmovdqu64 %zmm3,(%rdi,%rcx,1)", 1),
        ("1490:	mov    %rax,0x80(%rsp)", 0),
        ("1490:	vpaddd 0x40(%rbp),%zmm24,%zmm3", 0),
    ],
)
def test_the_search_for_spills_finds_them_and_only_them(extra, found):
    """Control of the test below, on listings whose answer is known."""
    (body,) = innermost_loops(tile(extra))
    assert is_gemm_tile(body) or "vpdpbusd" in extra
    assert len(spills(body)) == found


def why_no_disassembly() -> str:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"the AVX-512 kernels are for x86-64; this is {platform.machine()}"
    if not shutil.which("objdump"):
        return "objdump is missing (Debian: apt-get install binutils)"
    if os.environ.get(cpu.NATIVE_VARIABLE):
        return f"{cpu.NATIVE_VARIABLE} names another build of the extension: its code is not what is shipped"
    try:
        return "" if "avx512vnni" in native().built() else "the extension was built without the AVX-512 kernels"
    except MissingResource as missing:
        return str(missing)


NO_DISASSEMBLY = why_no_disassembly()


@pytest.mark.skipif(bool(NO_DISASSEMBLY), reason=NO_DISASSEMBLY)
def test_no_accumulator_of_a_gemm_tile_is_spilled_inside_its_loop():
    """24 accumulators, 4 weights and an input fill 29 of 32 registers; some compilers put part of them on the stack."""
    path = native().__file__
    assert path
    tiles = [body for body in innermost_loops(list(instructions(objdump(Path(path))))) if is_gemm_tile(body)]
    assert len(tiles) >= 2, "the ReLU tiles of six and of five rows, at least: has the shape of the loop changed?"
    for body in tiles:
        assert not spills(body), f"loop at {body[0].address:#x}: {spills(body)}"
