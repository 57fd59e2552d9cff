"""From a compiled kernel to its instructions: NVIDIA's SASS by the disassembler that triton brings, AMD's assembly as it is."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from geluless.engine.gpu.compiler import Compiled, Target
from geluless.errors import MissingResource

# Base opcodes of SASS that compute on integers, move data or steer. Whatever is not in here is not integer code: an allowlist
# cannot be outwitted by an opcode that nobody thought of.
_INTEGER = """
    BAR BMSK BRA BRX BSSY BSYNC CS2R DEPBAR ELECT EXIT FENCE FLO IABS IADD IADD3 IDP IGMMA IMAD IMMA IMNMX ISETP LDC LDCU LDG
    LDGDEPBAR LDGSTS LDS LDSM LEA LOP3 MOV NOP P2R PLOP3 POPC PRMT R2P R2UR S2R S2UR SEL SGXT SHF SHFL STG STS SYNCS UBMSK UFLO
    UIADD3 UIMAD UISETP ULDC ULEA ULOP3 UMOV UP2UR UPLOP3 UPRMT UPOPC USEL USGXT USHF VIADD VIADDMNMX VIMNMX VIMNMX3 VOTE VOTEU
    WARPGROUP WARPSYNC MEMBAR ERRBAR STSM
"""
INTEGER_OPCODES = frozenset(_INTEGER.split())
TENSOR = re.compile(r"^(IMMA|IGMMA|v_mfma_i32|v_wmma_i32)")
ASYNC_COPY = re.compile(r"^LDGSTS")
SPILL = re.compile(r"^(LDL|STL|scratch_)")
PERMUTE = re.compile(r"^(PRMT|v_perm_b32)")
AMD_FLOAT = re.compile(r"_(f16|f32|f64|bf16)")


@dataclass(frozen=True)
class MachineCode:
    """Instructions in order, padding left out, and what the kernel occupies."""

    opcodes: tuple[str, ...] = field(repr=False)
    loop: tuple[str, ...] = field(repr=False)  # those of the backward branch with most tensor instructions in it
    registers: int
    stack_bytes: int
    shared_bytes: int

    @property
    def floating_point(self) -> Counter[str]:
        """Instructions that are not integer code, by base opcode."""
        return Counter(base for opcode in self.opcodes if not is_integer(opcode) for base in [base_opcode(opcode)])

    def count(self, pattern: re.Pattern[str], *, in_loop: bool = False) -> int:
        return sum(1 for opcode in (self.loop if in_loop else self.opcodes) if pattern.match(opcode))


def base_opcode(opcode: str) -> str:
    return opcode.split(".")[0]


def is_integer(opcode: str) -> bool:
    """SASS by the allowlist; AMD's instruction names carry their type."""
    return not AMD_FLOAT.search(opcode) if opcode.islower() else base_opcode(opcode) in INTEGER_OPCODES


def machine_code(compiled: Compiled, target: Target) -> MachineCode:
    """Raises MissingResource when triton brings no disassembler for the target."""
    if target.backend == "hip":
        return _amd(compiled)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.binary)
        file.flush()
        listing = _tool("nvdisasm", "-c", file.name)
        usage = _tool("cuobjdump", "-res-usage", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise MissingResource("cuobjdump prints no register count: this version of triton's tools is not known")
    lines = _sass(listing)
    opcodes = tuple(opcode for opcode, _ in lines if opcode not in ("label", "NOP"))
    return MachineCode(opcodes, _sass_loop(lines), int(found[1]), int(found[2]), compiled.shared_bytes)


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        raise MissingResource(f"this build of triton {triton.__version__} comes without {name}: install triton from PyPI")
    result = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{name} failed: {result.stderr.strip()}")
    return result.stdout + result.stderr


_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")


def _sass(listing: str) -> list[tuple[str, str]]:
    """(opcode, operands) in order; labels as ("label", name)."""
    lines: list[tuple[str, str]] = []
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            lines.append(("label", label[1]))
        elif found := _INSTRUCTION.match(line):
            lines.append((found[1], found[2]))
    return lines


def _sass_loop(lines: list[tuple[str, str]]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    loops: list[tuple[str, ...]] = [()]
    for i, (opcode, operands) in enumerate(lines):
        if opcode == "label":
            seen[operands] = i
        elif base_opcode(opcode) == "BRA" and (goal := re.search(r"\.L_x_\d+", operands)) and goal[0] in seen:
            loops.append(tuple(o for o, _ in lines[seen[goal[0]] : i + 1] if o not in ("label", "NOP")))
    return max(loops, key=lambda loop: (sum(1 for opcode in loop if TENSOR.match(opcode)), -len(loop)))


_AMD_INSTRUCTION = re.compile(r"^\s+([a-z]+_[a-z0-9_]+)(.*)")


def _amd(compiled: Compiled) -> MachineCode:
    lines: list[tuple[str, str]] = []
    for line in compiled.assembly.splitlines():
        if label := re.match(r"^(\.LBB\w+):", line):
            lines.append(("label", label[1]))
        elif (found := _AMD_INSTRUCTION.match(line)) and not found[1].startswith(("s_nop", "s_code_end")):
            lines.append((found[1], found[2]))
        if "s_endpgm" in line:
            break
    seen: dict[str, int] = {}
    loops: list[tuple[str, ...]] = [()]
    for i, (opcode, operands) in enumerate(lines):
        if opcode == "label":
            seen[operands] = i
        elif opcode.startswith(("s_cbranch", "s_branch")) and operands.strip() in seen:
            loops.append(tuple(o for o, _ in lines[seen[operands.strip()] : i + 1] if o != "label"))
    numbers = {name: _amd_number(compiled.assembly, name) for name in ("vgpr_count", "private_segment_fixed_size")}
    return MachineCode(
        tuple(opcode for opcode, _ in lines if opcode != "label"),
        max(loops, key=lambda loop: (sum(1 for opcode in loop if TENSOR.match(opcode)), -len(loop))),
        numbers["vgpr_count"],
        numbers["private_segment_fixed_size"],
        compiled.shared_bytes,
    )


def _amd_number(assembly: str, name: str) -> int:
    found = re.search(rf"^\s+\.{name}:\s+(\d+)", assembly, re.MULTILINE)
    if found is None:
        raise MissingResource(f"the assembly names no {name}: this version of triton's AMD backend is not known")
    return int(found[1])
