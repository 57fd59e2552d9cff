"""AMD's machine code, read from the assembly that the compiler writes: a line is an instruction, a label or a directive."""

from __future__ import annotations

import re
from collections.abc import Sequence

from geluless.engine.disassembly import DisassemblyError
from geluless.engine.gpu.codegen_check.listing import Instruction, Listing
from geluless.engine.gpu.compiler import Compiled

# The words that names of integer, memory and control instructions are made of, by the unit they begin with. Types, sizes and
# shapes come on top; whatever has another word in its name (f32, cvt, rcp, exp, fma) is not integer code.
_MEMORY = """
    load store read write read2 write2 read2st64 write2st64 2addr st64 stride64 bpermute permute swizzle dword dwordx2 dwordx3
    dwordx4 dwordx8 dwordx16 byte ubyte sbyte short ushort sshort d16 hi
"""
_WORDS = {
    "v": """
        add add3 addc sub subb subrev co ci nc and or or3 xor xor3 xnor xad not lshl lshlrev lshrrev ashrrev bfe bfi bfm bfrev
        perm alignbit alignbyte mov cndmask cmp cmpx eq ne lt le gt ge min max min3 max3 med3 minmax maxmin mul lo hi mad mfma
        wmma dual pk cvt accvgpr read write readfirstlane readlane writelane mbcnt permlanex16 bcnt ffbh ffbl clz ctz cls
    """,
    "s": """
        add addc sub subb co nc and or xor not not1 andn2 orn2 nand nor xnor lshl lshl1 lshl2 lshl3 lshl4 lshr ashr bfe bfm brev
        mov movk cmp cmpk eq lg lt le gt ge cselect cmov saveexec mul mulk hi min max abs pack ll lh hh bitcmp0 bitcmp1 flbit
        branch cbranch execz execnz scc0 scc1 vccz vccnz barrier signal wait waitcnt depctr alu dscnt kmcnt loadcnt storecnt
        load dword dwordx2 dwordx4 dwordx8 dwordx16 clause delay sendmsg setprio sleep endpgm nop code end inst prefetch
    """,
    "ds": _MEMORY,
    "global": _MEMORY,
    "buffer": _MEMORY,
    "flat": _MEMORY,
    "scratch": _MEMORY,
}
WORDS = {unit: frozenset(words.split()) for unit, words in _WORDS.items()}
TYPE = re.compile(r"(b|i|u|iu)(4|8|16|24|32|64|96|128|256|512)|\d+x\d+x\d+(i8)?")
ENCODING = re.compile(r"(_e32|_e64|_dpp8|_dpp|_sdwa)+$")


def is_integer(opcode: str) -> bool:
    unit, *rest = ENCODING.sub("", opcode).split("_")
    return unit in WORDS and all(word in WORDS[unit] or TYPE.fullmatch(word) for word in rest)


def listings(compiled: Sequence[Compiled]) -> list[Listing]:
    return [read(kernel.source.kernel, kernel.assembly) for kernel in compiled]


_LABEL = re.compile(r"([.\w$]+):\s*(;.*)?$")
_INSTRUCTION = re.compile(r"\s+([a-z][a-z0-9_]+)(?:\s+([^;]*?))?\s*(;.*)?$")
_ELSE = re.compile(r"\s*(;.*|\.\w.*|#.*)?$")  # a comment, a directive, nothing


def read(name: str, assembly: str) -> Listing:
    """The instructions between the kernel's label and its end. Raises DisassemblyError for a line that is not understood."""
    lines = assembly.splitlines()
    try:
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
        end = next(i for i in range(start, len(lines)) if lines[i].startswith(".Lfunc_end"))
    except StopIteration:
        raise DisassemblyError(f"the assembly holds no function {name}") from None
    places: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    for line in lines[start + 1 : end]:
        if label := _LABEL.match(line):
            places[label[1]] = len(found)
        elif instruction := _INSTRUCTION.match(line):
            first, *paired = f"{instruction[1]} {instruction[2] or ''}".split("::")  # two that are issued together
            for half in (first, *paired):
                opcode, _, operands = half.strip().partition(" ")
                found.append((opcode, operands.strip()))
        elif not _ELSE.match(line):
            raise DisassemblyError(f"the line {line.strip()!r} of AMD's assembly is not understood")
    instructions = tuple(
        Instruction(opcode, places.get(operands) if opcode.startswith(("s_branch", "s_cbranch")) else None)
        for opcode, operands in found
    )
    return Listing(instructions, _number(assembly, "vgpr_count"), _number(assembly, "private_segment_fixed_size"))


def _number(assembly: str, name: str) -> int:
    found = re.findall(rf"^\s+\.{name}:\s+(\d+)", assembly, re.MULTILINE)
    if len(found) != 1:
        raise DisassemblyError(f"the assembly names {name} {len(found)} times, not once")
    return int(found[0])
