"""NVIDIA's machine code: a cubin's instructions by the disassembler that triton brings.

nvdisasm takes a quarter of a second to start and milliseconds for a kernel, so many kernels are given to it at once: their code
sections one behind the other, as the raw instructions of one architecture. Every instruction of sm_75 and newer has 16 bytes:
a listing is complete if it has one for each.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from geluless.engine.disassembly import DisassemblyError
from geluless.engine.gpu.codegen_check.listing import Instruction, Listing
from geluless.engine.gpu.compiler import Compiled, Target
from geluless.errors import MissingResource

INSTRUCTION_BYTES = 16
FIRST_WITH_FEATURES = 90  # from here on triton compiles for sm_90a, whose code plain sm_90 has not all of

# Base opcodes of SASS that compute on integers, move data or steer. Whatever is not in here is not integer code: an allowlist
# cannot be outwitted by an opcode that nobody thought of.
_INTEGER = """
    BAR BMSK BRA BRX BSSY BSYNC CS2R DEPBAR ELECT EXIT FENCE FLO IABS IADD IADD3 IDP IGMMA IMAD IMMA IMNMX ISETP LDC LDCU LDG
    LDGDEPBAR LDGSTS LDS LDSM LEA LOP3 MOV NOP P2R PLOP3 POPC PRMT R2P R2UR S2R S2UR SEL SGXT SHF SHFL STG STS SYNCS UBMSK UFLO
    UIADD3 UIMAD UISETP ULDC ULEA ULOP3 UMOV UP2UR UPLOP3 UPRMT UPOPC USEL USGXT USHF VIADD VIADDMNMX VIMNMX VIMNMX3 VOTE VOTEU
    WARPGROUP WARPSYNC MEMBAR ERRBAR STSM
"""
INTEGER_OPCODES = frozenset(_INTEGER.split())


def base_opcode(opcode: str) -> str:
    return opcode.split(".")[0]


def is_integer(opcode: str) -> bool:
    return base_opcode(opcode) in INTEGER_OPCODES


def listings(compiled: Sequence[Compiled], target: Target) -> list[Listing]:
    """One for each kernel. Raises DisassemblyError for a line that is not understood, MissingResource without triton's tools."""
    codes = [code_section(kernel.binary) for kernel in compiled]
    architecture = f"SM{target.architecture}" + ("a" if int(target.architecture) >= FIRST_WITH_FEATURES else "")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "code.bin")
        raw.write_bytes(b"".join(codes))
        instructions = read_raw(_tool("nvdisasm", "--binary", architecture, str(raw)), sum(map(len, codes)))
    found, start = [], 0
    for kernel, code in zip(compiled, codes, strict=True):
        end = start + len(code) // INSTRUCTION_BYTES
        found.append(Listing(_from_zero(instructions[start:end], start), *resource_usage(kernel.binary)))
        start = end
    return found


_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(\s[^;]*)?;")
_ADDRESS = re.compile(r"0x[0-9a-f]+")
# A constant, written as minus zero times zero plus the constant because that pipe is free (ptxas for sm_120): no arithmetic.
_CONSTANT = re.compile(r".*\sHFMA2(?:\.MMA)? R\d+, -RZ, RZ, [-+0-9.einfqsa]+, [-+0-9.einfqsa]+ ;", re.IGNORECASE)


def read_raw(listing: str, size: int) -> list[Instruction]:
    """All instructions of `size` bytes of code; targets count from the first. Raises DisassemblyError if one is missing."""
    lines = [line for line in listing.splitlines() if line.strip() and not line.strip().startswith(".headerflags")]
    instructions = []
    for i, line in enumerate(lines):
        found = _INSTRUCTION.match(line)
        if found is None or int(found[1], 16) != i * INSTRUCTION_BYTES:
            raise DisassemblyError(f"nvdisasm's line {line.strip()!r} is no instruction at address {i * INSTRUCTION_BYTES:#x}")
        opcode = "MOV.HFMA2" if _CONSTANT.match(line) else found[2]
        target = _ADDRESS.findall(found[3] or "")[-1:] if base_opcode(found[2]) == "BRA" else []
        instructions.append(Instruction(opcode, int(target[0], 16) // INSTRUCTION_BYTES if target else None))
    if len(instructions) * INSTRUCTION_BYTES != size:
        raise DisassemblyError(f"nvdisasm lists {len(instructions)} instructions of {size} bytes of code")
    return instructions


def _from_zero(instructions: list[Instruction], start: int) -> tuple[Instruction, ...]:
    return tuple(Instruction(i.opcode, None if i.target is None else i.target - start) for i in instructions)


def resource_usage(cubin: bytes) -> tuple[int, int]:
    """(registers per thread, bytes of stack)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
    found = re.findall(r"REG:(\d+) STACK:(\d+)", usage)
    if len(found) != 1:
        raise DisassemblyError(f"cuobjdump names the registers of {len(found)} kernels, not of one")
    return int(found[0][0]), int(found[0][1])


def code_section(cubin: bytes) -> bytes:
    """The kernel's instructions. Raises DisassemblyError if the cubin does not hold exactly one section of them."""
    found = [content for name, content in _sections(cubin) if name.startswith(".text.")]
    if len(found) != 1 or len(found[0]) % INSTRUCTION_BYTES:
        raise DisassemblyError(f"a cubin with {len(found)} sections of code, not one of whole instructions")
    return found[0]


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of an ELF file's sections: System V ABI, chapter 4, in its 64-bit little-endian form."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise DisassemblyError("a cubin is no 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * entry) for i in range(count)]
    for name, kind, _, _, offset, size, *_ in headers:
        start = headers[names][4] + name
        content = b"" if kind == 8 else elf[offset : offset + size]  # SHT_NOBITS occupies no bytes
        yield elf[start : elf.index(b"\0", start)].decode(), content


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        raise MissingResource(f"this build of triton {triton.__version__} comes without {name}: install triton from PyPI")
    result = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise DisassemblyError(f"{name} failed: {result.stderr.strip()}")
    return result.stdout
