"""From PTX text to a kernel that can run: every instruction decoded, once, into a step; anything unknown raises here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ptxsim.access import ACCESS_DECODERS
from ptxsim.assignment import Usage, doubtful_reads
from ptxsim.async_copy import COPY_DECODERS
from ptxsim.bits import BIT_DECODERS
from ptxsim.compare import COMPARISON_DECODERS
from ptxsim.convert import CONVERSION_DECODERS
from ptxsim.errors import PtxError
from ptxsim.floating import FLOAT_DECODERS
from ptxsim.integer import INTEGER_DECODERS
from ptxsim.moves import MOVE_DECODERS
from ptxsim.operands import Cell, Operands
from ptxsim.scalars import PRED
from ptxsim.steps import Decoder, Mask, Step, active
from ptxsim.syntax import Instruction, Listing, read
from ptxsim.tensor_core import TENSOR_DECODERS
from ptxsim.warp import WARP_DECODERS
from ptxsim.wave import Wave

DECODERS: dict[str, Decoder] = (
    INTEGER_DECODERS
    | BIT_DECODERS
    | COMPARISON_DECODERS
    | CONVERSION_DECODERS
    | MOVE_DECODERS
    | ACCESS_DECODERS
    | COPY_DECODERS
    | WARP_DECODERS
    | TENSOR_DECODERS
)
BARRIERS = {"bar.sync", "bar.cta.sync", "barrier.sync", "barrier.sync.aligned", "barrier.cta.sync", "barrier.cta.sync.aligned"}
BRANCHES, EXITS, TRAPS = {"bra", "bra.uni"}, {"ret", "ret.uni", "exit"}, {"trap"}
IGNORED = {"griddepcontrol.wait", "griddepcontrol.launch_dependents"}  # one kernel runs after the other anyway
BARRIER_NUMBERS = 16


@dataclass(frozen=True)
class Block:
    """Steps, then one instruction that may part the threads: `ending` is branch, exit, barrier, trap, or "" for none."""

    steps: tuple[Step, ...]
    ending: str
    last: Instruction
    guard: int | None  # row of the predicate under which the ending happens
    negated: bool
    checks: tuple[Step, ...]  # before the ending: has the guard been written?
    target: int  # block that a branch leads to, number of a barrier
    counts: Counter[str] = field(repr=False)  # opcode -> occurrences


@dataclass(frozen=True)
class Kernel:
    """Ready to run on any grid. `static_bytes` of shared memory lie below the dynamic part."""

    listing: Listing
    cells: tuple[Cell, ...] = field(repr=False)
    blocks: tuple[Block, ...] = field(repr=False)
    static_bytes: int

    @property
    def name(self) -> str:
        return self.listing.entry

    @property
    def opcodes(self) -> frozenset[str]:
        """Every opcode that occurs, with its modifiers."""
        return frozenset(instruction.opcode for instruction in self.listing.instructions)


def parse(text: str) -> Kernel:
    """Read and decode the kernel of a PTX module. Raises PtxError, with line and instruction, for what is not known."""
    listing = read(text)
    operands = Operands(listing)
    steps: list[Step] = []
    usages: list[Usage] = []
    for i, instruction in enumerate(listing.instructions):
        operands.begin()
        try:
            steps.append(_step(instruction, operands))
            if instruction.guard:
                operands.read(instruction.guard, PRED)
        except PtxError as error:
            raise PtxError(f"{instruction}: {error}") from None
        reads, writes = frozenset(operands.reads), frozenset(operands.writes)
        usages.append(Usage(reads, writes, instruction.guard is not None, _successors(listing, i)))
    # LLVM reads registers that nothing ever writes where a value does not matter: they hold noise. A register that is written on
    # some paths only is another matter.
    defined = frozenset[str]().union(*(usage.writes for usage in usages))
    usages = [replace(usage, reads=usage.reads & defined) for usage in usages]
    doubtful = doubtful_reads(usages)
    watched = frozenset[str]().union(*doubtful.values())
    wrapped = []
    for i, (instruction, step, usage) in enumerate(zip(listing.instructions, steps, usages, strict=True)):
        missing = doubtful.get(i, frozenset())
        step = _recording(step, [operands.written(register) for register in sorted(usage.writes & watched)])
        for register in sorted(missing - {instruction.guard}):
            step = _in_order(_checking(instruction, register, operands.written(register)), step)
        if instruction.guard:
            row = operands.read(instruction.guard, PRED)
            step = _guarded(step, row, instruction.negated, keeps=instruction.guard in usage.writes)
            if instruction.guard in missing:
                step = _in_order(_checking(instruction, instruction.guard, operands.written(instruction.guard)), step)
        wrapped.append(step)
    blocks = _blocks(listing, operands, wrapped, doubtful)
    cells = [
        replace(cell, source="noise") if cell.source == "register" and cell.name not in defined else cell
        for cell in operands.cells
    ]
    return Kernel(listing, tuple(cells), blocks, operands.static_bytes)


def _step(instruction: Instruction, operands: Operands) -> Step:
    if _ending(instruction):
        return _nothing
    if instruction.opcode in IGNORED:
        return _nothing
    decoders = FLOAT_DECODERS if instruction.modifiers[-1:] == ("f32",) and instruction.mnemonic in FLOAT_DECODERS else DECODERS
    if instruction.mnemonic not in decoders:
        raise PtxError("this opcode is not known")
    if instruction.mnemonic == "bar" and instruction.opcode != "bar.warp.sync":
        raise PtxError("this barrier is not known")
    return decoders[instruction.mnemonic](instruction, operands)


def _nothing(wave: Wave, mask: Mask) -> None:
    pass


def _ending(instruction: Instruction) -> str:
    kinds = {"branch": BRANCHES, "exit": EXITS, "barrier": BARRIERS, "trap": TRAPS}
    return next((kind for kind, opcodes in kinds.items() if instruction.opcode in opcodes), "")


def _successors(listing: Listing, i: int) -> tuple[int, ...]:
    instruction = listing.instructions[i]
    following = (i + 1,) if i + 1 < len(listing.instructions) else ()
    ending = _ending(instruction)
    if ending == "branch":
        target = (listing.labels[instruction.operands[0]],)
        return following + target if instruction.guard else target
    if ending in ("exit", "trap"):
        return following if instruction.guard else ()
    return following


def _in_order(first: Step, second: Step) -> Step:
    def both(wave: Wave, mask: Mask) -> None:
        first(wave, mask)
        second(wave, mask)

    return both


def _recording(step: Step, rows: Sequence[int]) -> Step:
    """The step, which also notes that it has written certain registers."""
    if not rows:
        return step

    def record(wave: Wave, mask: Mask) -> None:
        step(wave, mask)
        for row in rows:
            wave.rows[row][slice(None) if mask is None else mask] = True

    return record


def _checking(instruction: Instruction, register: str, row: int) -> Step:
    """Raises if a thread that takes part has never written the register."""

    def check(wave: Wave, mask: Mask) -> None:
        threads = active(wave, mask)
        unwritten = ~wave.rows[row][threads]
        if unwritten.any():
            thread = int(threads[np.flatnonzero(unwritten)[0]])
            raise wave.fault(instruction, thread, f"reads {register}, which it has never written")

    return check


def _guarded(step: Step, row: int, negated: bool, *, keeps: bool) -> Step:
    """The step for the threads whose predicate holds; `keeps`: the step writes that predicate itself."""

    def guarded(wave: Wave, mask: Mask) -> None:
        holds = ~wave.rows[row] if negated else wave.rows[row].copy() if keeps else wave.rows[row]
        if mask is not None:
            holds = holds & mask
        number = np.count_nonzero(holds)
        if number:
            step(wave, None if number == wave.threads else holds)

    return guarded


def _blocks(
    listing: Listing, operands: Operands, steps: Sequence[Step], doubtful: Mapping[int, frozenset[str]]
) -> tuple[Block, ...]:
    instructions = listing.instructions
    if not instructions or _successors(listing, len(instructions) - 1) or _ending(instructions[-1]) == "barrier":
        raise PtxError(f"{listing.entry} does not end with ret")
    starts = {0, *listing.labels.values()} | {i + 1 for i, one in enumerate(instructions) if _ending(one)}
    order = sorted(start for start in starts if start < len(instructions))
    number = {start: i for i, start in enumerate(order)}
    blocks = []
    for start, end in zip(order, [*order[1:], len(instructions)], strict=True):
        last = instructions[end - 1]
        ending = _ending(last)
        guard = operands.read(last.guard, PRED) if ending and last.guard else None
        checks = [_checking(last, register, operands.written(register)) for register in doubtful.get(end - 1, ()) if ending]
        target = 0
        if ending == "branch":
            target = number.get(listing.labels[last.operands[0]], len(order))
        elif ending == "barrier":
            target = operands.immediate(last.operands[0]) if last.operands else -1
            if len(last.operands) != 1 or not 0 <= target < BARRIER_NUMBERS:
                raise PtxError(f"{last}: only barriers of the whole block, with a constant number, are known")
        body = tuple(steps[start : end - bool(ending)])
        counts = Counter(instruction.opcode for instruction in instructions[start:end])
        blocks.append(Block(body, ending, last, guard, last.negated, tuple(checks), target, counts))
    return tuple(blocks)
