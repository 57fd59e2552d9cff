"""One audit: every kernel at every shape of the paper's networks, as a record that is the same whenever the code is the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from geluless.engine.gpu.audit.contract import Violation, epilogue_of, violations
from geluless.engine.gpu.audit.machine_code import ASYNC_COPY, PERMUTE, TENSOR, MachineCode, machine_code
from geluless.engine.gpu.compiler import Compiled, Source, Target, compile_all, require_triton, source_of
from geluless.engine.gpu.program import Program

FORMAT = 1


@dataclass(frozen=True)
class KernelRow:
    """One kernel at one shape, in numbers."""

    kernel: str
    epilogue: str
    shape: str
    tile: str
    instructions: int
    loop: int
    tensor: int
    async_copies: int
    permutes_in_loop: int
    floating_point: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    per_element: float  # instructions outside the loop per output element and thread; 0 for kernels that are not linear


@dataclass(frozen=True)
class AuditRecord:
    """What `geluless audit` writes and CI compares. Rows by the source's key."""

    target: str
    triton: str
    rows: Mapping[str, KernelRow]
    used_by: Mapping[str, tuple[str, ...]]  # key -> which networks and arms run it
    broken: tuple[Violation, ...]

    def to_json(self) -> str:
        value = {
            "format": FORMAT,
            "target": self.target,
            "triton": self.triton,
            "rows": {key: dataclasses.asdict(row) for key, row in sorted(self.rows.items())},
            "used_by": {key: sorted(names) for key, names in sorted(self.used_by.items())},
            "broken": [dataclasses.asdict(violation) for violation in self.broken],
        }
        return json.dumps(value, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> AuditRecord:
        """Raises ValueError for anything that `to_json` did not write."""
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']} is not {FORMAT}")
            return AuditRecord(
                str(value["target"]),
                str(value["triton"]),
                {str(key): KernelRow(**row) for key, row in value["rows"].items()},
                {str(key): tuple(names) for key, names in value["used_by"].items()},
                tuple(Violation(**violation) for violation in value["broken"]),
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no audit record: {error!r}") from error


def audit(named: Iterable[tuple[str, Program]], target_name: str, *, processes: int | None = None) -> AuditRecord:
    """Compile, disassemble and judge every distinct kernel of some programs, given with names for the record."""
    target, version = Target.parse(target_name), require_triton()
    used_by: dict[Source, set[str]] = {}
    for name, program in named:
        for launch in program.launches:
            used_by.setdefault(source_of(launch, program.buffers), set()).add(name)
    rows, broken = {}, []
    for compiled in compile_all(used_by, target, processes=processes):
        code = machine_code(compiled, target)
        rows[compiled.source.key] = kernel_row(compiled, code)
        broken += violations(compiled.source, target, code)
    names = {source.key: tuple(sorted(users)) for source, users in used_by.items()}
    return AuditRecord(target_name, version, rows, names, tuple(broken))


def kernel_row(compiled: Compiled, code: MachineCode) -> KernelRow:
    constants: dict[str, Any] = dict(compiled.source.constants)
    is_linear = compiled.source.kernel == "int8_linear"
    per_element = 0.0
    if is_linear:
        shape = f"{constants['INPUTS']} -> {constants['OUTPUTS']}"
        tile = f"{constants['BLOCK_M']}x{constants['BLOCK_N']}x{constants['BLOCK_K']}, {compiled.warps} warps"
        outputs = constants["BLOCK_M"] * constants["BLOCK_N"] / (32 * compiled.warps)
        per_element = round((len(code.opcodes) - len(code.loop)) / outputs, 3)
    else:
        shape = ", ".join(f"{key} {value}" for key, value in sorted(constants.items()) if value is not None)
        tile = f"{compiled.warps} warps"
    return KernelRow(
        kernel=compiled.source.kernel,
        epilogue=epilogue_of(compiled.source) or "",
        shape=shape,
        tile=tile,
        instructions=len(code.opcodes),
        loop=len(code.loop),
        tensor=code.count(TENSOR),
        async_copies=code.count(ASYNC_COPY),
        permutes_in_loop=code.count(PERMUTE, in_loop=True),
        floating_point=sum(code.floating_point.values()),
        registers=code.registers,
        stack_bytes=code.stack_bytes,
        shared_bytes=code.shared_bytes,
        per_element=per_element,
    )


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


def compare(before: AuditRecord, after: AuditRecord) -> list[Change]:
    """Field by field. Raises ValueError for records of different targets or triton versions, which compare nothing."""
    if (before.target, before.triton) != (after.target, after.triton):
        raise ValueError(
            f"the record is of {before.target} with triton {before.triton}, this audit of {after.target} with {after.triton}: "
            "write a new one with --output"
        )
    changes = []
    for key in sorted(before.rows.keys() | after.rows.keys()):
        old, new = before.rows.get(key), after.rows.get(key)
        if old is None or new is None:
            changes.append(Change(key, "kernel", "none" if old is None else "present", "none" if new is None else "present"))
            continue
        for field in dataclasses.fields(KernelRow):
            if getattr(old, field.name) != getattr(new, field.name):
                changes.append(Change(key, field.name, getattr(old, field.name), getattr(new, field.name)))
    return changes
