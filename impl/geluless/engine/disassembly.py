"""Machine code of x86-64 as objdump lists it: instructions, which of them compute in floating point, and what a call can reach.

A function needs no name here, because the extension is stripped: from its first instruction on, it is whatever jumps and calls
can reach. What cannot be followed or is not known raises DisassemblyError: it could be a floating-point operation.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from geluless.errors import MissingResource


class DisassemblyError(RuntimeError):
    """A listing that is not fully understood. What is not read could be a floating-point instruction: nothing is left out."""


@dataclass(frozen=True)
class Instruction:
    """`operands` in AT&T's order; `comment` is what objdump knows of an address relative to the program counter."""

    address: int
    mnemonic: str
    operands: str
    comment: str = ""


INSTRUCTION = re.compile(
    r"^\s*([0-9a-f]+):\t(?:(?:\{\w+\}|rep\w*|lock|notrack|bnd|data16|addr32|[c-g]s)\s+)*(\S+)\s*([^#]*?)\s*(?:#\s*(.*?))?\s*$"
)
# Arithmetic and conversions; not moves, shuffles and bitwise operations on registers that happen to hold floats.
FLOAT = re.compile(
    r"^v?((add|sub|mul|div|sqrt|rsqrt|rcp|rsqrt14|rcp14|min|max|round|rndscale|scalef|getexp|getmant|reduce|range|fixupimm|dp"
    r"|hadd|hsub|addsub|cmp\w*|u?comi|fn?m(add|sub|addsub|subadd)\d*)(ps|pd|ss|sd|ph|sh)|dpbf16ps|cvt\w+)$"
)
X87 = re.compile(r"^f(i?(add|sub|mul|div|com)r?p?[sl]?|sqrt|abs|chs|i?ld\w*|i?stt?p?\w*|u?comi?p?p?)$")
INTEGER = re.compile(
    r"^((adc|add|andn?|bextr|bls(i|r|msk)|bs[fr]|bswap|bt[crs]?|bzhi|call|cmp|cmpxchg|dec|div|enter|idiv|imul|inc|lea|leave|lzcnt"
    r"|mov|movabs|movs|mulx?|neg|nop|not|or|pdep|pext|pop|popcnt|push|ret|ro[lr]|rorx|sa[lr]x?|sbb|sh[lr][dx]?|stos|sub|test"
    r"|tzcnt|xadd|xchg|xor)[bwlq]?|mov[sz][bwl][wlq]|cmov\w+|set\w+|j\w+|c[bw]tw?l?|cltq|cltd|cqto|cl[cd]|st[cd]|endbr64|hlt|int3|ud2"
    r"|prefetch\w+|k(mov|and|andn|or|xor|xnor|not|ortest|test|shift[lr]|unpck|add)\w+"
    r"|v?(p(?!f|i2f)\w+|mov\w+|lddqu|(and|andn|or|xor)p[sd]|(shuf|unpck[lh]|blendv?|blendm|expand|compress)p[sd])"
    r"|v?(broadcast|insert|extract|perm|align|blend|shuf|maskmov|gather|scatter)\w+|vzero(upper|all))$"
)
PRODUCT = re.compile(r"^(v?p(dp\w+|madd\w+|mul\w+)|imul[wlq]?)$")  # of integers

ENDS = ("ret", "jmp", "ud2", "hlt", "int3")  # what follows is not reached from here
TARGET = re.compile(r"^([0-9a-f]+)(?: <([^>]+)>)?$")
OUTSIDE = re.compile(r"^[0-9a-f]+ <(\w+)@.+>$|^(\w+)@plt$")
MOVES_BYTES = ("memcpy", "memmove", "memset")  # functions of the C library that compute nothing


def is_floating_point(mnemonic: str) -> bool:
    return bool(FLOAT.match(mnemonic) or X87.match(mnemonic))


def require_x86_listings() -> None:
    """Raises MissingResource where code cannot be listed, or is not x86-64's, of which alone the operations are known."""
    if (machine := platform.machine().lower()) not in ("x86_64", "amd64"):
        raise MissingResource(f"machine code is read for x86-64; this is {machine}")
    _tool()


def objdump(path: Path, *options: str) -> str:
    """The listing of a file's code. Raises MissingResource without objdump, DisassemblyError where it cannot read the file."""
    command = [_tool(), "--disassemble", "--no-show-raw-insn", "--wide", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DisassemblyError(f"objdump cannot read {path.name}: {done.stderr.strip()}")
    return done.stdout


def _tool() -> str:
    if (tool := shutil.which("objdump")) is None:
        raise MissingResource("objdump is missing: install binutils")
    return tool


def instructions(listing: str) -> Iterator[Instruction]:
    for line in listing.splitlines():
        if found := INSTRUCTION.match(line):
            yield Instruction(int(found[1], 16), found[2], found[3], found[4] or "")


@dataclass(frozen=True)
class FunctionCode:
    """What a call can execute, counted in the code, not in a run. `floats`: by mnemonic, and by name the functions outside the
    file that are not known to compute nothing."""

    instructions: int
    products: int
    floats: Mapping[str, int] = field(default_factory=dict)


class CodeOfFile:
    """Every instruction of a listing by its address."""

    def __init__(self, listing: str) -> None:
        self._at = {instruction.address: instruction for instruction in instructions(listing)}
        if not self._at:
            raise DisassemblyError("no instruction is listed in a form that is understood here: GNU binutils are expected")
        addresses = sorted(self._at)
        self._after = dict(pairwise(addresses))

    def function(self, entry: int) -> FunctionCode:
        """Raises DisassemblyError for a jump that cannot be followed and an instruction that is not known."""
        reached, waiting, outside = dict[int, Instruction](), [entry], Counter[str]()
        while waiting:
            address = waiting.pop()
            if address in reached:
                continue
            if (instruction := self._at.get(address)) is None:
                raise DisassemblyError(f"no instruction begins at {address:#x}")
            reached[address] = instruction
            ends, (target, name) = instruction.mnemonic.rstrip("q") in ENDS, _target(instruction)
            if name:
                outside[name] += 1
            elif target is not None:
                waiting.append(target)
            if not ends:
                if address not in self._after:
                    raise DisassemblyError(f"the code ends at {address:#x} in the middle of a function")
                waiting.append(self._after[address])
        names = [instruction.mnemonic for instruction in reached.values()]
        if strange := {name for name in names if not is_floating_point(name) and not INTEGER.match(name)}:
            raise DisassemblyError(f"not known whether these are integer instructions: {', '.join(sorted(strange))}")
        floats = Counter(name for name in names if is_floating_point(name))
        floats.update({f"call {name}": count for name, count in outside.items() if name not in MOVES_BYTES})
        return FunctionCode(len(names), sum(bool(PRODUCT.match(name)) for name in names), dict(sorted(floats.items())))


def _target(instruction: Instruction) -> tuple[int | None, str]:
    """(where in the file a jump or a call goes, or the name of a function outside it); (None, "") for all else."""
    mnemonic, operands = instruction.mnemonic, instruction.operands
    if not mnemonic.startswith(("j", "call")):
        return None, ""
    direct = TARGET.match(operands)
    if direct and not (outside := OUTSIDE.match(direct[2] or "")):
        return int(direct[1], 16), ""
    if not direct:
        outside = OUTSIDE.match(instruction.comment)
    if outside is None:
        raise DisassemblyError(f"{instruction.address:#x}: {mnemonic} {operands} goes to a place that is known only when it runs")
    return None, outside[1] or outside[2]
