"""A disassembler's listing, whoever wrote it: instructions, where they branch to, and what the kernel occupies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """`target`: the number of the instruction it branches to, None if it does not branch or nobody knows where."""

    opcode: str
    target: int | None = None


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions in order."""

    instructions: tuple[Instruction, ...]
    registers: int
    stack_bytes: int

    @property
    def opcodes(self) -> tuple[str, ...]:
        return _without_padding(self.instructions)

    @property
    def loops(self) -> list[tuple[str, ...]]:
        """What each backward branch repeats. A branch to itself is the trap behind the last instruction, no loop."""
        return [
            _without_padding(self.instructions[instruction.target : i + 1])
            for i, instruction in enumerate(self.instructions)
            if instruction.target is not None and instruction.target < i
        ]


def _without_padding(instructions: tuple[Instruction, ...]) -> tuple[str, ...]:
    return tuple(i.opcode for i in instructions if i.opcode != "NOP" and not i.opcode.startswith(("s_nop", "s_code_end")))
