"""Instructions, vector spills and float operations of every function of the compiled CPU engine, from its disassembly.

No noise: both revisions come from the same compiler. A spill is an access of the stack frame by a vector instruction; a float
operation is an arithmetic instruction or a conversion on floats. In a kernel (the isa_* objects) one more of either fails: in a
function, in the functions of an object that have other names now, and in all kernels together. Instructions of a function, and of
those with other names, may grow by the [code] threshold `instructions`. The code around the kernels is counted and told, no more.
x86 only: elsewhere there are instructions, and neither spills nor floats are known.

Functions are told apart by object file and demangled name. What a compiler makes of one function in several pieces (.cold,
.part, .isra, .constprop, clones) is counted together, so that a new piece does not look like a new function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci.gate.revisions import GateError
from geluless.engine.disassembly import DisassemblyError, instructions, is_floating_point, objdump
from geluless.errors import MissingResource

FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
PIECE = re.compile(r"( \[clone [^\]]*\]|\.(cold|part|isra|constprop|lto_priv)(\.\d+)?)+$")
STACK_POINTER, FRAME_POINTER = re.compile(r"\(%rsp[,)]"), re.compile(r"\(%rbp[,)]")
SETS_FRAME = re.compile(r"^%rsp,%rbp$")  # without this %rbp is a register like any other
KERNELS = "isa_"
X86_VECTOR = re.compile(r"%[xyz]mm\d+")
GROWTH = 2.0  # per cent more instructions, where the thresholds say nothing
SMALL = 8  # instructions that a function may grow by whatever its size: a call has been inlined or not


@dataclass(frozen=True)
class Counts:
    """Of one function: static counts, not executed ones."""

    instructions: int = 0
    spills: int = 0
    floats: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.instructions + other.instructions, self.spills + other.spills, self.floats + other.floats)


@dataclass(frozen=True)
class Change:
    """One function, or one object file as a whole, before and after. problems: why it fails; empty where it does not."""

    where: str
    before: Counts | None
    after: Counts | None
    problems: tuple[str, ...]


def disassembled(objects: Sequence[Path]) -> dict[str, Counts]:
    """Counts by "object: function". Raises GateError without objdump."""
    found: dict[str, Counts] = {}
    for path in objects:
        try:
            listing = objdump(path, "--demangle")
        except (MissingResource, DisassemblyError) as error:
            raise GateError(str(error)) from error
        for name, counts in functions(listing):
            key = f"{path.name.removesuffix('.o')}: {name}"
            found[key] = found.get(key, Counts()) + counts
    if objects and not any(counts.instructions for counts in found.values()):
        raise GateError("objdump lists no instruction in a form that is understood here: GNU binutils are expected")
    return found


def functions(text: str) -> Iterator[tuple[str, Counts]]:
    """(demangled name, counts) of every piece in objdump's output."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if header := FUNCTION.match(line):
            if name:
                yield name, _counted(lines)
            name, lines = PIECE.sub("", header[1]), []
        else:
            lines.append(line)
    if name:
        yield name, _counted(lines)


def _counted(lines: Sequence[str]) -> Counts:
    found = list(instructions("\n".join(lines)))
    framed = any(one.mnemonic == "mov" and SETS_FRAME.match(one.operands) for one in found)
    spills = floats = 0
    for one in found:
        on_stack = STACK_POINTER.search(one.operands) or (framed and FRAME_POINTER.search(one.operands))
        spills += bool(on_stack and X86_VECTOR.search(one.operands))
        floats += is_floating_point(one.mnemonic)
    return Counts(len(found), spills, floats)


def compare(before: Mapping[str, Counts], after: Mapping[str, Counts], *, growth: float = GROWTH) -> list[Change]:
    """Every function that changed, and all kernels together, the failing ones first."""
    changes = []
    for where in {**before, **after}:
        old, new = before.get(where), after.get(where)
        if old != new:
            problems = _problems(old, new, growth) if old and new and where.startswith(KERNELS) else ()
            changes.append(Change(where, old, new, problems))
    old, new = _all_kernels(before), _all_kernels(after)
    if problems := _problems(old, new, growth=float("inf")):
        changes.append(Change("all kernels together", old, new, problems))
    changes += _other_names(before, after, growth)
    return sorted(changes, key=lambda change: (not change.problems, change.where))


def _other_names(before: Mapping[str, Counts], after: Mapping[str, Counts], growth: float) -> Iterator[Change]:
    """Of each object with kernels, the functions that only one side has, as a whole; an object that is gone."""
    remaining = {_object(where) for where in after}
    for name in sorted({_object(where) for where in before if where.startswith(KERNELS)}):
        gone, added = (
            sum((one[where] for where in one.keys() - other.keys() if _object(where) == name), Counts())
            for one, other in ((before, after), (after, before))
        )
        if name not in remaining:
            yield Change(name, gone, Counts(), ("the object is gone",))
        elif gone.instructions and (problems := _problems(gone, added, growth)):
            yield Change(f"{name}: functions of other names", gone, added, problems)


def _object(where: str) -> str:
    return where.split(":", 1)[0]


def _problems(old: Counts, new: Counts, growth: float) -> tuple[str, ...]:
    problems = []
    if new.spills > old.spills:
        problems.append(f"{new.spills - old.spills} more vector spills ({old.spills} -> {new.spills})")
    if new.floats > old.floats:
        problems.append(f"{new.floats - old.floats} more float operations ({old.floats} -> {new.floats})")
    if new.instructions > max(old.instructions * (1 + growth / 100), old.instructions + SMALL):
        problems.append(f"{new.instructions - old.instructions} more instructions ({old.instructions} -> {new.instructions})")
    return tuple(problems)


def _all_kernels(counts: Mapping[str, Counts]) -> Counts:
    return sum((value for where, value in counts.items() if where.startswith(KERNELS)), Counts())
