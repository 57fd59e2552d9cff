"""PTX text to a listing: entry, parameters, registers, shared arrays, instructions and labels. Nothing is skipped in silence.

The grammar is PTX ISA 8.8, chapters 4 and 5, as far as LLVM's back end and Triton's inline assembly use it.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field

from ptxsim.errors import PtxError
from ptxsim.scalars import PRED, Scalar, scalar

NAME = r"[%$A-Za-z_][\w$]*"
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
LINE_INFORMATION = re.compile(r"^[ \t]*\.(?:loc|file)\b[^\n]*", re.MULTILINE)
ENTRY = re.compile(rf"(?:\.visible\s+|\.weak\s+)?\.entry\s+({NAME})\s*\(")
PARAMETER = re.compile(rf"\.param\s+\.(\w+)(?:\s+\.ptr(?:\s+\.\w+)?(?:\s+\.align\s+\d+)?)?\s+({NAME})$")
SHARED = re.compile(rf"(?:\.extern\s+)?\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+({NAME})\s*(?:\[(\d*)\])?$")
# LLVM leaves "__CUDA_FTZ" behind. No operand can name such an array, so an instruction that needs one raises when decoded.
CONSTANT = re.compile(rf"\.global\s+\.align\s+\d+\s+\.\w+\s+{NAME}\[\d+\]\s*=\s*\{{[\d,\s]*\}}$")
REGISTER = re.compile(r"\.reg\s+\.(\w+)\s+(.+)$", re.DOTALL)
LABEL = re.compile(rf"\s*({NAME})\s*:(?!:)")
INSTRUCTION = re.compile(rf"(?:@(!?)({NAME})\s+)?([a-z]\w*(?:[.:]+\w+)*)\s*(.*)$", re.DOTALL)
HEADER = re.compile(r"\.(?:version\s+[\d.]+|target\s+[\w, ]+|address_size\s+64)\s*$", re.MULTILINE)
PERFORMANCE = re.compile(r"\s*\.(reqntid|maxntid|minnctapersm|maxnreg)\s+(\d+)((?:\s*,\s*\d+)*)")


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter, passed by value."""

    name: str
    type: Scalar


@dataclass(frozen=True)
class SharedArray:
    """An array in shared memory; `bytes` is None for the dynamic one, whose size the launch gives."""

    name: str
    alignment: int
    bytes: int | None


@dataclass(frozen=True)
class Instruction:
    """One instruction. `opcode` is mnemonic and modifiers ("add.s32"), operands are as written, vectors with their braces."""

    opcode: str
    operands: tuple[str, ...]
    guard: str | None  # the predicate register of @p
    negated: bool  # @!p
    line: int

    @property
    def mnemonic(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        return tuple(self.opcode.split(".")[1:])

    def __str__(self) -> str:
        guard = f"@{'!' * self.negated}{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}; (line {self.line})"


@dataclass(frozen=True)
class Listing:
    """A kernel as text. `labels` are indices into `instructions`; `threads` is .reqntid's product, None where it is not given."""

    entry: str
    parameters: tuple[Parameter, ...]
    registers: dict[str, Scalar] = field(repr=False)
    shared: tuple[SharedArray, ...]
    instructions: tuple[Instruction, ...] = field(repr=False)
    labels: dict[str, int] = field(repr=False)
    threads: int | None


def read(text: str) -> Listing:
    """The only kernel of a PTX module. Raises PtxError, with the line, for a statement this grammar does not have."""
    # Comments and line information keep their newlines, so that errors can name lines of the text as it was.
    text = COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)
    text = LINE_INFORMATION.sub("", text)
    entries = list(ENTRY.finditer(text))
    if len(entries) != 1:
        raise PtxError(f"a module with one kernel is needed, this one has {len(entries)}")
    entry = entries[0]
    body = _Body()
    _header(text[: entry.start()], body)
    closing = _matching(text, entry.end() - 1, "()")
    parameters = _parameters(text[entry.end() : closing])
    position, threads = closing + 1, None
    while match := PERFORMANCE.match(text, position):
        position = match.end()
        if match[1] == "reqntid":
            threads = int(match[2])
            for size in re.findall(r"\d+", match[3]):
                threads *= int(size)
    opening = text.find("{", position)
    if opening < 0 or text[position:opening].strip():
        raise PtxError(f"not understood before the body of {entry[1]}: {text[position : max(opening, position)].strip()[:80]!r}")
    end = _matching(text, opening, "{}")
    _trailer(text[end + 1 :])
    body.read(text, opening + 1, end)
    missing = {", ".join(i.operands) for i in body.instructions if i.mnemonic == "bra"} - set(body.labels)
    if missing:
        raise PtxError(f"branches to labels that do not exist: {', '.join(sorted(missing))}")
    return Listing(entry[1], parameters, body.registers, tuple(body.shared), tuple(body.instructions), body.labels, threads)


@dataclass
class _Body:
    """Collects what the statements of a kernel declare and do; nested braces are scopes of registers."""

    registers: dict[str, Scalar] = field(default_factory=dict)
    shared: list[SharedArray] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])

    def read(self, text: str, position: int, end: int) -> None:
        newlines = [match.start() for match in re.finditer("\n", text)]
        while True:
            while position < end and text[position].isspace():
                position += 1
            if position >= end:
                return
            line = bisect.bisect(newlines, position) + 1
            if text[position] in "{}":
                if text[position] == "{":
                    self.scopes.append({})
                else:
                    self.scopes.pop()
                position += 1
            elif match := LABEL.match(text, position, end):
                if match[1] in self.labels:
                    raise PtxError(f"line {line}: label {match[1]} occurs twice")
                self.labels[match[1]] = len(self.instructions)
                position = match.end()
            else:
                stop = text.find(";", position, end)
                if stop < 0:
                    raise PtxError(f"line {line}: no semicolon after {text[position:end].strip()[:80]!r}")
                self.statement(text[position:stop].strip(), line)
                position = stop + 1

    def statement(self, statement: str, line: int) -> None:
        if match := REGISTER.match(statement):
            self._declare(scalar(match[1]), match[2], line)
        elif match := SHARED.match(statement):
            self.share(match, line)
        elif statement.startswith(".pragma"):
            return  # a hint to ptxas: "nounroll"
        elif not statement.startswith(".") and (match := INSTRUCTION.match(statement)):
            operands = tuple(self._resolved(operand) for operand in _operands(match[4]))
            guard = self._resolved(match[2]) if match[2] else None
            if guard is not None and self.registers.get(guard) is not PRED:
                raise PtxError(f"line {line}: {guard} guards an instruction and is no predicate register")
            self.instructions.append(Instruction(match[3], operands, guard, match[1] == "!", line))
        else:
            raise PtxError(f"line {line}: not understood: {statement[:80]!r}")

    def share(self, match: re.Match[str], line: int) -> None:
        element = scalar(match[2]).bytes
        size = element * int(match[4]) if match[4] else None if match[4] == "" else element
        if any(array.bytes is None for array in self.shared) and size is None:
            raise PtxError(f"line {line}: two dynamic shared arrays")
        self.shared.append(SharedArray(match[3], int(match[1] or element), size))

    def _declare(self, kind: Scalar, names: str, line: int) -> None:
        if kind.bits == 8:
            raise PtxError(f"line {line}: registers of 8 bits do not exist")
        for name in (part.strip() for part in names.split(",")):
            if match := re.fullmatch(rf"({NAME})<(\d+)>", name):
                self.registers |= {f"{match[1]}{i}": kind for i in range(int(match[2]))}
            elif re.fullmatch(NAME, name) and name not in self.scopes[-1]:
                unique = name if name not in self.registers else f"{name}#{len(self.registers)}"
                self.scopes[-1][name] = unique
                self.registers[unique] = kind
            else:
                raise PtxError(f"line {line}: not a register: {name!r}")

    def _resolved(self, operand: str) -> str:
        """Names of inner scopes replaced by names that are theirs alone."""
        if len(self.scopes) == 1:
            return operand
        names: dict[str, str] = {}
        for scope in self.scopes:
            names |= scope
        renamed = {name: unique for name, unique in names.items() if name != unique}
        return re.sub(NAME, lambda match: renamed.get(match[0], match[0]), operand) if renamed else operand


def _header(text: str, body: _Body) -> None:
    rest = HEADER.sub("", text)
    for statement in (part.strip() for part in rest.split(";")):
        if match := SHARED.match(statement):
            body.share(match, text.count("\n", 0, text.find(statement)) + 1)
        elif statement and not CONSTANT.match(statement):
            raise PtxError(f"not understood before the kernel: {statement[:80]!r}")


def _trailer(text: str) -> None:
    """Only debugging sections may follow the kernel."""
    rest = re.sub(r"\.section\s+\.debug_\w+\s*\{[^{}]*\}", "", text)
    if rest.strip():
        raise PtxError(f"not understood after the kernel: {rest.strip()[:80]!r}")


def _parameters(text: str) -> tuple[Parameter, ...]:
    found = []
    for statement in filter(None, (part.strip() for part in text.split(","))):
        match = PARAMETER.match(statement)
        if match is None:
            raise PtxError(f"no scalar parameter: {statement!r}")
        found.append(Parameter(match[2], scalar(match[1])))
    return tuple(found)


def _matching(text: str, opening: int, brackets: str) -> int:
    depth = 0
    for match in re.compile(f"[{re.escape(brackets)}]").finditer(text, opening):
        depth += 1 if match[0] == brackets[0] else -1
        if depth == 0:
            return match.start()
    raise PtxError(f"{brackets[0]} without {brackets[1]}")


def _operands(text: str) -> list[str]:
    """Split at commas outside braces and brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []
