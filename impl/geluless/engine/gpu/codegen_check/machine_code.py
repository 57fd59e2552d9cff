"""What a compiled kernel consists of: its instructions, the loops in which it spends its time, and what it occupies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from geluless.engine.gpu.codegen_check import amd, sass
from geluless.engine.gpu.codegen_check.shapes import fc1_program
from geluless.engine.gpu.compiler import Compiled, Target, compile_source, sources_of
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles
from geluless.sizes import SIZES

TENSOR = re.compile(r"^(IMMA|IGMMA|v_mfma_i32|v_wmma_i32)")
ASYNC_COPY = re.compile(r"^LDGSTS")
FRAGMENT = re.compile(r"^LDSM?\b")
SPILL = re.compile(r"^(LDL|STL|scratch_)")
PERMUTE = re.compile(r"^(PRMT|v_perm_b32)")


@dataclass(frozen=True)
class MachineCode:
    """Instructions in order, padding left out. `loops`: the ranges of backward branches, those with most matrix instructions
    first and the longest of them first."""

    opcodes: tuple[str, ...] = field(repr=False)
    loops: tuple[tuple[str, ...], ...] = field(repr=False)
    registers: int
    stack_bytes: int
    shared_bytes: int

    @property
    def loop(self) -> tuple[str, ...]:
        """The loop that matters; () where there is none."""
        return self.loops[0] if self.loops else ()

    @property
    def floating_point(self) -> Counter[str]:
        """Instructions that are not integer code, by base opcode."""
        return Counter(base for opcode in self.opcodes if not is_integer(opcode) for base in [sass.base_opcode(opcode)])

    def count(self, pattern: re.Pattern[str], *, in_loop: bool = False) -> int:
        return sum(1 for opcode in (self.loop if in_loop else self.opcodes) if pattern.match(opcode))


def is_integer(opcode: str) -> bool:
    """By an allowlist for each vendor; AMD's names are in lower case."""
    return amd.is_integer(opcode) if opcode.islower() else sass.is_integer(opcode)


def macs(opcodes: Iterable[str]) -> int:
    """Multiplications that one warp's integer matrix instructions do, by the shapes in their names."""
    total = 0
    for opcode in opcodes:
        if found := re.match(r"IMMA\.(16)(8)(16|32|64)\b", opcode):  # mma.m16n8k32 and its like
            total += int(found[1]) * int(found[2]) * int(found[3])
        elif found := re.match(r"IGMMA\.(\d+)x(\d+)x(\d+)\b", opcode):  # of four warps together
            total += int(found[1]) * int(found[2]) * int(found[3]) // 4
        elif found := re.match(r"v_(?:mfma|wmma)_i32_(\d+)x(\d+)x(\d+)_?i", opcode):
            total += int(found[1]) * int(found[2]) * int(found[3])
        elif TENSOR.match(opcode):
            raise ValueError(f"the shape of {opcode} is not known")
    return total


@cache
def fc1_machine_code(formula: str, target: str) -> tuple[MachineCode, ...]:
    """fc1 of every stage of Swin T/S/B/L with one epilogue of shapes.fc1_program, compiled for `target` ("sm_89", "gfx942") and
    disassembled. In Ada's tiles where the target has none of its own."""
    device, tiles = Target.parse(target), Tiles(ARCHITECTURES.get(target, ARCHITECTURES["sm_89"]))
    sources = sources_of(fc1_program(tiles, formula, size=size) for size in SIZES)
    return tuple(machine_codes([compile_source(source, device) for source in sources], device))


def machine_code(compiled: Compiled, target: Target) -> MachineCode:
    """Of one kernel; see `machine_codes`, which is much faster for many."""
    return machine_codes([compiled], target)[0]


def machine_codes(compiled: Sequence[Compiled], target: Target) -> list[MachineCode]:
    """Raises MissingResource when triton brings no disassembler, DisassemblyError for a listing that is not fully understood."""
    listings = amd.listings(compiled) if target.backend == "hip" else sass.listings(compiled, target)
    return [
        MachineCode(
            listing.opcodes,
            tuple(sorted(listing.loops, key=_weight, reverse=True)),
            listing.registers,
            listing.stack_bytes,
            kernel.shared_bytes,
        )
        for listing, kernel in zip(listings, compiled, strict=True)
    ]


def _weight(loop: tuple[str, ...]) -> tuple[int, int]:
    return sum(1 for opcode in loop if TENSOR.match(opcode)), len(loop)
