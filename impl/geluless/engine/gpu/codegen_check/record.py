"""The codegen check: every kernel of the paper's networks, as a record that is the same whenever the code is the same."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from itertools import islice
from typing import Any

from geluless.engine.gpu.codegen_check.codegen_rules import (
    Violation,
    constant,
    epilogue_of,
    loop_trips,
    outputs_per_thread,
    violations,
)
from geluless.engine.gpu.codegen_check.machine_code import ASYNC_COPY, PERMUTE, TENSOR, MachineCode, machine_codes
from geluless.engine.gpu.compiler import Compiled, Source, Target, compile_all, require_triton

FORMAT = 3
GROUP = 64  # kernels for one run of the disassembler
LARGEST = 2**31  # of a number in a record


@dataclass(frozen=True)
class KernelRow:
    """One kernel at one shape, in numbers."""

    kernel: str
    epilogue: str
    specialization: str  # what else was compiled in: "saturating", "affine", "shifted", "padded"
    shape: str
    tile: str
    instructions: int
    loop: int
    executed: int  # by a warp that skips nothing: the loop as often as it is repeated
    tensor: int
    async_copies: int
    permutes: int
    permutes_in_loop: int
    floating_point: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    per_element: float  # instructions outside the loop per output element and thread; 0 for kernels that are not linear


COLUMNS = tuple(field.name for field in fields(KernelRow))


@dataclass(frozen=True)
class CodegenRecord:
    """What `geluless codegen` writes and CI compares. Rows by the source's key."""

    target: str
    triton: str
    rows: Mapping[str, KernelRow]
    broken: tuple[Violation, ...]

    def to_json(self) -> str:
        """One line per kernel, those that belong together side by side: made to be read in a difference."""
        ordered = sorted(self.rows.items(), key=lambda item: (_natural(item[1]), item[0]))
        rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(astuple(row))}" for key, row in ordered)
        broken = ",\n".join(json.dumps(astuple(violation)) for violation in sorted(self.broken, key=astuple))
        broken = f"[\n{broken}\n]" if broken else "[]"
        head = "".join(
            f"{json.dumps(name)}: {json.dumps(value)},\n"
            for name, value in (("format", FORMAT), ("target", self.target), ("triton", self.triton), ("columns", COLUMNS))
        )
        return f'{{\n{head}"broken": {broken},\n"rows": {{\n{rows}\n}}\n}}\n'

    @staticmethod
    def from_json(text: str) -> CodegenRecord:
        """Raises ValueError for anything that `to_json` did not write."""
        try:
            value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
        except (RecursionError, ValueError) as error:
            raise ValueError(f"this is no codegen record: {error}") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT or isinstance(value["format"], bool):
            found = value.get("format") if isinstance(value, dict) else None
            raise ValueError(f"this is no codegen record of format {FORMAT}: its format is {found!r}")
        _require(value.keys() == {"format", "target", "triton", "columns", "broken", "rows"}, "other fields", list(value))
        target, triton = value["target"], value["triton"]
        _require(isinstance(target, str) and isinstance(triton, str), "target and triton are names", [target, triton])
        Target.parse(target)
        _require(value["columns"] == list(COLUMNS), "other columns", value["columns"])
        _require(isinstance(value["rows"], dict) and isinstance(value["broken"], list), "rows and broken", None)
        rows = {key: _row(key, cells) for key, cells in value["rows"].items()}
        for cells in value["broken"]:
            names = isinstance(cells, list) and len(cells) == 3 and all(isinstance(cell, str) for cell in cells)
            _require(names and cells[0] in rows, "a broken rule names a kernel, a rule and what was found", cells)
        return CodegenRecord(target, triton, rows, tuple(Violation(*cells) for cells in value["broken"]))


def _natural(row: KernelRow) -> list[tuple[str, int]]:
    """Sorts "96 -> 384" before "192 -> 768"."""
    text = f"{row.kernel}\t{row.epilogue}\t{row.shape}\t{row.tile}\t{row.specialization}"
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D+)(\d*)", text)]


def _require(holds: bool, what: str, found: object) -> None:
    if not holds:
        raise ValueError(f"this is no codegen record: {what}: {found!r:.200}")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of a record")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _row(key: str, cells: object) -> KernelRow:
    _require(isinstance(cells, list) and len(cells) == len(COLUMNS), f"{key} has no {len(COLUMNS)} columns", cells)
    assert isinstance(cells, list)
    for field, cell in zip(fields(KernelRow), cells, strict=True):
        if field.type == "str":
            holds = isinstance(cell, str)
        else:
            known = (int,) if field.type == "int" else (int, float)  # and bool, an int to isinstance, is neither
            holds = type(cell) in known and math.isfinite(cell) and 0 <= cell < LARGEST
        _require(holds, f"{field.name} of {key}", cell)
    row = KernelRow(*cells)
    _require(re.fullmatch(rf"{re.escape(row.kernel)}-[0-9a-f]{{10}}", key) is not None, "the key of a row", key)
    return row


def examine(sources: Iterable[Source], target_name: str, *, processes: int | None = None) -> CodegenRecord:
    """Compile, disassemble and judge kernels. Shows how many it has done on a terminal."""
    from tqdm import tqdm

    target, version = Target.parse(target_name), require_triton()
    rows, broken = {}, []
    with tqdm(desc="compiling", unit="kernel", disable=None, leave=False) as bar:
        kernels = compile_all(sources, target, processes=processes)
        while group := list(islice(kernels, GROUP)):
            for compiled, code in zip(group, machine_codes(group, target), strict=True):
                rows[compiled.source.key] = kernel_row(compiled, code, target)
                broken += violations(compiled.source, target, code)
            bar.update(len(group))
    return CodegenRecord(target_name, version, rows, tuple(sorted(broken, key=astuple)))


def kernel_row(compiled: Compiled, code: MachineCode, target: Target) -> KernelRow:
    source = compiled.source
    constants: dict[str, Any] = dict(source.constants)
    per_element = 0.0
    if source.kernel == "int8_linear":
        shape = f"{constants['INPUTS']} -> {constants['OUTPUTS']}"
        tile = f"{constants['BLOCK_M']}x{constants['BLOCK_N']}x{constants['BLOCK_K']}, {compiled.warps} warps"
        per_element = round((len(code.opcodes) - len(code.loop)) / outputs_per_thread(source, target.warp_size), 3)
    else:
        shape = ", ".join(f"{key} {value}" for key, value in sorted(constants.items()) if value is not None)
        tile = f"{compiled.warps} warps"
    return KernelRow(
        kernel=source.kernel,
        epilogue=epilogue_of(source) or "",
        specialization=specialization_of(source),
        shape=shape,
        tile=tile,
        instructions=len(code.opcodes),
        loop=len(code.loop),
        executed=executed(source, code),
        tensor=code.count(TENSOR),
        async_copies=code.count(ASYNC_COPY),
        permutes=code.count(PERMUTE),
        permutes_in_loop=code.count(PERMUTE, in_loop=True),
        floating_point=sum(code.floating_point.values()),
        registers=code.registers,
        stack_bytes=code.stack_bytes,
        shared_bytes=code.shared_bytes,
        per_element=per_element,
    )


def executed(source: Source, code: MachineCode) -> int:
    """Instructions of a warp that skips nothing. Repetitions of a linear layer's loop follow from its multiplications, those of
    other kernels' from their source: attention has a loop over the keys for the scores and another for the weights."""
    extent = {"window_attention": ("TOKENS", "BLOCK_KEYS"), "pool": ("TOKENS", "BLOCK_T"), "classifier": ("CHANNELS", "BLOCK_K")}
    loops: tuple[tuple[str, ...], ...] = code.loops[:1]
    if source.kernel == "int8_linear":
        try:
            trips = loop_trips(source, code)
        except ValueError:  # for `violations` to report
            trips = -(-constant(source, "INPUTS") // constant(source, "BLOCK_K"))
    elif source.kernel in extent:
        length, step = extent[source.kernel]
        trips = -(-constant(source, length) // constant(source, step))
        if source.kernel == "window_attention":
            loops = tuple(loop for loop in code.loops if any(map(TENSOR.match, loop)))
    else:
        return len(code.opcodes)
    return len(code.opcodes) + (trips - 1) * sum(map(len, loops))


def specialization_of(source: Source) -> str:
    """What the shape does not say: the clamp to 16 bits, and which optional operands there are."""
    constants, operands = dict(source.constants), dict(source.signature)
    present = {
        "saturating": bool(constants.get("SATURATE")),
        "affine": source.kernel == "layer_norm" and "gamma" in operands,
        "shifted": "regions" in operands,
        "padded": "pad" in operands,
    }
    return ", ".join(name for name, holds in present.items() if holds)


@dataclass(frozen=True)
class Change:
    """A difference between two records of the same target."""

    kernel: str
    field: str
    before: object
    after: object

    @property
    def is_worse(self) -> bool:
        """More instructions, registers, stack, ...; a kernel that is new or gone counts as worse: somebody must look."""
        if isinstance(self.before, (int, float)) and isinstance(self.after, (int, float)):
            fewer_is_worse = self.field in ("tensor", "async_copies")
            return (self.after < self.before) if fewer_is_worse else (self.after > self.before)
        return True

    def __str__(self) -> str:
        return f"{self.kernel}: {self.field} {self.before} -> {self.after}"


def require_comparable(before: CodegenRecord, target: str, triton: str) -> None:
    """Raises ValueError if a check of `target` with `triton` says nothing about what a record holds, with the remedy."""
    if before.target != target:
        raise ValueError(f"the record is of {before.target}, this check of {target}: write another one with --output")
    if before.triton != triton:
        raise ValueError(
            f"the record is of triton {before.triton}, and triton {triton} is installed, which makes other code: "
            f"`pip install triton=={before.triton}` to compare, or write the record anew with --output"
        )


def compare(before: CodegenRecord, after: CodegenRecord, *, partial: bool = False) -> list[Change]:
    """Field by field; `partial`: only the kernels that `after` has. Raises ValueError as `require_comparable` does."""
    require_comparable(before, after.target, after.triton)
    changes = []
    for key in sorted(after.rows.keys() if partial else before.rows.keys() | after.rows.keys()):
        old, new = before.rows.get(key), after.rows.get(key)
        if old is None or new is None:
            changes.append(Change(key, "kernel", "none" if old is None else "present", "none" if new is None else "present"))
            continue
        for name in COLUMNS:
            if getattr(old, name) != getattr(new, name):
                changes.append(Change(key, name, getattr(old, name), getattr(new, name)))
    return changes
