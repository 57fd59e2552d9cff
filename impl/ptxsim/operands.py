"""From the names in an instruction to rows of a wave: registers, constants, special registers, parameters, shared arrays."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptxsim.errors import PtxError
from ptxsim.scalars import PRED, U32, Row, Scalar
from ptxsim.syntax import Listing

# Where shared memory begins: as on sm_90, which reserves the first KiB, so that no offset passes for an address.
SHARED_BASE = 1024
# Special registers of 32 bits, and whether they have three axes.
SPECIAL = {"tid": True, "ntid": True, "ctaid": True, "nctaid": True, "laneid": False, "warpid": False, "nwarpid": False}
INTEGER = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9]\d*)U?$")
ADDRESS = re.compile(r"\[\s*([%$\w#]+)\s*(?:\+\s*(-?\d+))?\s*\]$")


@dataclass(frozen=True)
class Cell:
    """What one row of a wave holds. `source` is register, noise, written, discard, constant, special or parameter."""

    source: str
    name: str
    dtype: np.dtype[Any]
    value: Row | None = None


@dataclass
class Operands:
    """Hands out row numbers while a kernel is decoded, and notes which registers the current instruction reads and writes."""

    listing: Listing
    cells: list[Cell] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    _rows: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Static shared arrays come first, in order of declaration; the dynamic one follows them all."""
        self.symbols: dict[str, int] = {}
        offset = 0
        for array in sorted(self.listing.shared, key=lambda array: array.bytes is None):
            offset = -(-offset // array.alignment) * array.alignment
            self.symbols[array.name] = SHARED_BASE + offset
            offset += array.bytes or 0
        self.static_bytes = offset

    def begin(self) -> None:
        """Before each instruction."""
        self.reads, self.writes = set(), set()

    def kind(self, register: str) -> Scalar:
        """The declared type of a register. Raises PtxError for anything else."""
        if register not in self.listing.registers:
            raise PtxError(f"{register!r} is not a register")
        return self.listing.registers[register]

    def is_register(self, operand: str) -> bool:
        return operand in self.listing.registers

    def read(self, operand: str, kind: Scalar) -> int:
        """The row of a source operand of type `kind`: a register of that width, a constant, or a special register."""
        if self.is_register(operand):
            self.reads.add(operand)
            return self._register(operand, kind)
        if operand.startswith("%"):
            return self._special(operand, kind)
        return self.constant(self._literal(operand, kind), kind)

    def read_whole(self, register: str) -> tuple[int, Scalar]:
        """(row, type) of a source register at its own width, as unsigned bits: st and cvt take wider registers than they need."""
        width = Scalar("", "u", self.kind(register).bits)
        self.reads.add(register)
        return self._register(register, width), width

    def write(self, operand: str, kind: Scalar) -> int:
        """The row of a destination register of the width of `kind`; "_" is a row nobody reads."""
        if operand == "_":
            return self._row("discard", "_", kind.dtype)
        self.writes.add(operand)
        return self._register(operand, kind)

    def written(self, register: str) -> int:
        """The row, bool, that says for which threads a register has been written."""
        return self._row("written", register, PRED.dtype)

    def constant(self, value: Row, kind: Scalar) -> int:
        """The row of a constant of shape [1]."""
        return self._row("constant", value.tobytes().hex(), kind.dtype, value)

    def parameter(self, name: str, kind: Scalar) -> int:
        """The row of a kernel parameter, which must have the width of `kind`."""
        for parameter in self.listing.parameters:
            if parameter.name == name:
                if parameter.type.bits != kind.bits:
                    raise PtxError(f"{name} has {parameter.type.bits} bits, not {kind.bits}")
                return self._row("parameter", name, kind.dtype)
        raise PtxError(f"no parameter is called {name!r}")

    def address(self, operand: str) -> tuple[int, int]:
        """(row of the base, bytes to add) of "[base+bytes]"; the base is a register, a shared array or a number."""
        match = ADDRESS.match(operand)
        if match is None:
            raise PtxError(f"not an address: {operand!r}")
        base, offset = match[1], int(match[2] or 0)
        if self.is_register(base):
            kind = self.kind(base)
            if kind.bits < 32:
                raise PtxError(f"{base} has {kind.bits} bits: too few for an address")
            return self.read(base, Scalar("", "u", kind.bits)), offset
        return self.read(base, U32), offset

    def vector(self, operand: str) -> list[str]:
        """The elements of "{a, b}", or the operand itself as the only one."""
        if operand.startswith("{") != operand.endswith("}"):
            raise PtxError(f"not a vector: {operand!r}")
        return [part.strip() for part in operand.strip("{}").split(",")]

    def immediate(self, operand: str) -> int:
        """An integer literal's value. Raises PtxError for anything else."""
        match = INTEGER.match(operand)
        if match is None:
            raise PtxError(f"an integer constant is needed, not {operand!r}")
        digits = match[2].lower()
        base = 16 if digits.startswith("0x") else 2 if digits.startswith("0b") else 8 if digits.startswith("0") else 10
        return int(match[1] + digits.removeprefix("0x").removeprefix("0b"), base)

    def is_immediate(self, operand: str) -> bool:
        return INTEGER.match(operand) is not None

    def _literal(self, operand: str, kind: Scalar) -> Row:
        if operand in self.symbols:
            if kind.bits < 32:
                raise PtxError(f"the address of {operand} needs 32 bits")
            return np.array([self.symbols[operand]], kind.dtype)
        if kind.kind == "pred":
            return np.array([self.immediate(operand) != 0])
        bits = Scalar("", "u", kind.bits).dtype
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", operand):
            if kind.bits != 32 or kind.kind not in "bf":
                raise PtxError(f"{operand} is a float, a {kind.name} is needed")
            return np.array([struct.unpack(">I", bytes.fromhex(operand[2:]))[0]], bits).view(kind.dtype)
        value = self.immediate(operand)
        if kind.kind == "f":
            raise PtxError(f"{operand} is an integer, a float is needed")
        if value >= 1 << 63:
            value -= 1 << 64  # literals have 64 bits: Triton writes minus one of 32 bits with sixteen digits
        if not -(1 << kind.bits - 1) <= value < 1 << kind.bits:
            raise PtxError(f"{operand} does not fit {kind.bits} bits")
        return np.array([value % (1 << kind.bits)], bits).view(kind.dtype)

    def _special(self, operand: str, kind: Scalar) -> int:
        name, _, axis = operand[1:].partition(".")
        if name not in SPECIAL or kind.bits != 32 or axis not in (("x", "y", "z") if SPECIAL[name] else ("",)):
            raise PtxError(f"no special register {operand} of type {kind.name} here")
        return self._row("special", operand[1:], kind.dtype)

    def _register(self, register: str, kind: Scalar) -> int:
        declared = self.kind(register)
        if declared.bits != kind.bits:
            raise PtxError(f"{register} has {declared.bits} bits, the instruction needs {kind.bits}")
        return self._row("register", register, kind.dtype)

    def _row(self, source: str, name: str, dtype: np.dtype[Any], value: Row | None = None) -> int:
        key = (source, name, dtype.str)
        if key not in self._rows:
            self._rows[key] = len(self.cells)
            self.cells.append(Cell(source, name, dtype, value))
        return self._rows[key]
