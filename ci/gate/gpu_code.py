"""The GPU kernels' machine code before and after: the codegen records of both revisions, one per architecture.

`nox -s codegen -- --every` guarantees that a revision's records are those of its code; here nothing is compiled. A kernel is told
by what it computes and at which shape; where its tile changed, what the two execute is compared. Registers, stack, shared memory
and floats may not grow, instructions by the [code] threshold; a kernel that is gone is missing, as a renamed benchmark is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ci.gate.revisions import GateError, Revision
from geluless.files import read_json

KEY = ("kernel", "epilogue", "specialization", "shape")
TILE = "tile"
STRICT = {
    "floating_point": "float operations",
    "stack_bytes": "bytes of stack",
    "registers": "registers",
    "shared_bytes": "bytes of shared memory",
}
RELATIVE = {"instructions": "instructions", "executed": "instructions executed"}


@dataclass(frozen=True)
class KernelChange:
    target: str
    kernel: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """triton: the compiler's release. kernels: columns by what a kernel computes, and then by its tile."""

    triton: str
    kernels: Mapping[str, Mapping[str, Mapping[str, Any]]]


def records(revision: Revision) -> dict[str, Record]:
    """By target. Raises GateError where a file is not a codegen record."""
    found = {}
    for path in sorted((revision.source / "ci").glob("*.codegen.json")):
        try:
            data = read_json(path)
            kernels: dict[str, dict[str, dict[str, Any]]] = {}
            for values in data["rows"].values():
                row = dict(zip(data["columns"], values, strict=True))
                for column in (*STRICT, *RELATIVE):
                    row[column] = float(row[column])
                kernels.setdefault(" ".join(str(row[column]) for column in KEY if row[column]), {})[str(row[TILE])] = row
            found[str(data["target"])] = Record(str(data["triton"]), kernels)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise GateError(f"{revision.side}: {path.name} is no record of `geluless codegen`: {error!r}") from error
    return found


def compare(before: Mapping[str, Record], after: Mapping[str, Record], *, growth: float) -> tuple[list[KernelChange], list[str]]:
    """(kernels that became worse or are gone, what could not be compared and why)."""
    changes: list[KernelChange] = []
    notes = [f"{target}: a new record: nothing to compare it with" for target in after if target not in before]
    for target, old in before.items():
        new = after.get(target)
        if new is None:
            changes.append(KernelChange(target, "all", (f"the record of {target} is gone",)))
        elif new.triton != old.triton:
            notes.append(f"{target}: compiled by triton {old.triton} before and {new.triton} now: NOT COMPARED")
        else:
            changes += _kernels(target, old, new, growth)
            if added := len(new.kernels.keys() - old.kernels.keys()):
                notes.append(f"{target}: {added} kernels are new: nothing to compare them with")
    return sorted(changes, key=lambda change: (change.target, change.kernel)), notes


def _kernels(target: str, old: Record, new: Record, growth: float) -> Iterator[KernelChange]:
    for kernel, tiles in old.kernels.items():
        others = new.kernels.get(kernel, {})
        for tile, row in tiles.items():
            other = others.get(tile) or min(others.values(), key=lambda row: row["executed"], default=None)
            if other is None:
                yield KernelChange(target, kernel, ("is gone",))
                continue
            if other[TILE] == row[TILE]:
                limits = {**dict.fromkeys(STRICT, 0.0), **dict.fromkeys(RELATIVE, growth)}
            else:  # it has other registers and is another program: what it executes is what counts
                limits = {"executed": growth, "floating_point": 0.0, "stack_bytes": 0.0}
            if problems := _problems(row, other, limits):
                yield KernelChange(target, f"{kernel}, tile {tile}", problems)


def _problems(old: Mapping[str, Any], new: Mapping[str, Any], limits: Mapping[str, float]) -> tuple[str, ...]:
    words = {**STRICT, **RELATIVE}
    grown = [column for column, limit in limits.items() if new[column] > old[column] * (1 + limit / 100)]
    return tuple(f"{old[column]:g} -> {new[column]:g} {words[column]}" for column in grown)
