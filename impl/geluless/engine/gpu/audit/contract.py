"""What the machine code of each kernel must look like, as rules with names. A broken rule is a red build without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geluless.engine.gpu.audit.machine_code import ASYNC_COPY, PERMUTE, SPILL, TENSOR, MachineCode
from geluless.engine.gpu.compiler import Source, Target

INTEGER_EPILOGUES = frozenset({"int8", "relu", "int16", "residual", "table", "int32"})
REGISTERS_PER_SM = 65536
SHARED_PER_SM = 100 << 10  # sm_86 and sm_89; others have more
RESIDENT_BLOCKS = 2  # while one waits for memory another computes


@dataclass(frozen=True)
class Violation:
    """A rule that a kernel breaks."""

    kernel: str  # the source's key
    rule: str
    found: str

    def __str__(self) -> str:
        return f"{self.kernel}: {self.rule}: {self.found}"


@dataclass(frozen=True)
class Rule:
    """`check` returns what is wrong, or None."""

    name: str
    applies: Callable[[Source, Target], bool]
    check: Callable[[Source, MachineCode], str | None]


def _is_linear(source: Source) -> bool:
    return source.kernel == "int8_linear"


def epilogue_of(source: Source) -> str | None:
    """Of a linear kernel; None for others."""
    value = dict(source.constants).get("EPILOGUE")
    return None if value is None else str(value)


def is_integer_kernel(source: Source) -> bool:
    """Whether nothing in this kernel may be floating point."""
    return source.kernel in ("pool", "relu_words") or epilogue_of(source) in INTEGER_EPILOGUES


def _integer_only(source: Source, code: MachineCode) -> str | None:
    return ", ".join(f"{count} {opcode}" for opcode, count in sorted(code.floating_point.items())) or None


def _no_spills(source: Source, code: MachineCode) -> str | None:
    spills = code.count(SPILL)
    return f"{code.stack_bytes} bytes of stack, {spills} accesses" if code.stack_bytes or spills else None


def _tensor_cores(source: Source, code: MachineCode) -> str | None:
    return None if code.count(TENSOR) else "no integer matrix instruction"


def _asynchronous(source: Source, code: MachineCode) -> str | None:
    return None if code.count(ASYNC_COPY) else "no asynchronous copy into shared memory"


def _no_permutes_in_loop(source: Source, code: MachineCode) -> str | None:
    """A tile whose bytes are rearranged in registers costs more than the product (see the trap in kernels/linear.py)."""
    permutes = code.count(PERMUTE, in_loop=True)
    return f"{permutes} byte permutations per step" if permutes else None


def _lean_loop(source: Source, code: MachineCode) -> str | None:
    """Outside the tensor cores a step may cost no more than two instructions per matrix instruction and fragment load."""
    useful = code.count(TENSOR, in_loop=True)
    if len(code.loop) > 4 * useful + 64:
        return f"{len(code.loop)} instructions per step, {useful} of them matrix instructions"
    return None


def _occupancy(source: Source, code: MachineCode) -> str | None:
    registers = code.registers * 32 * source.warps * RESIDENT_BLOCKS
    shared = code.shared_bytes * RESIDENT_BLOCKS
    if registers > REGISTERS_PER_SM or shared > SHARED_PER_SM:
        return f"{code.registers} registers x {32 * source.warps} threads, {code.shared_bytes} bytes shared"
    return None


def _cuda(source: Source, target: Target) -> bool:
    return target.backend == "cuda"


def _wide_rows(source: Source) -> bool:
    return int(dict(source.constants)["INPUTS"] or 0) % 16 == 0  # else rows start at addresses that 16-byte copies cannot use


RULES = (
    Rule("integer instructions only", lambda source, target: is_integer_kernel(source), _integer_only),
    Rule("no spills", lambda source, target: True, _no_spills),
    Rule("matrix instructions", lambda source, target: _is_linear(source) or source.kernel == "window_attention", _tensor_cores),
    Rule("asynchronous copies", lambda s, t: _cuda(s, t) and _is_linear(s) and _wide_rows(s), _asynchronous),
    Rule("no byte permutations in the loop", lambda s, t: _cuda(s, t) and _is_linear(s) and _wide_rows(s), _no_permutes_in_loop),
    Rule("lean loop", lambda s, t: _cuda(s, t) and _is_linear(s) and _wide_rows(s), _lean_loop),
    Rule("two blocks per multiprocessor", lambda s, t: t.architecture in (86, 89) and _is_linear(s), _occupancy),
)


def violations(source: Source, target: Target, code: MachineCode) -> list[Violation]:
    """Every rule that this kernel breaks on this target."""
    broken = []
    for rule in RULES:
        if rule.applies(source, target) and (found := rule.check(source, code)):
            broken.append(Violation(source.key, rule.name, found))
    return broken
