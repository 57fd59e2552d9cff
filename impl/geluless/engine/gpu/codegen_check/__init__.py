"""The machine code of the GPU kernels, examined without a GPU: compile ahead of time, disassemble, hold against a contract."""

from geluless.engine.gpu.codegen_check.codegen_rules import Violation, violations
from geluless.engine.gpu.codegen_check.machine_code import MachineCode, machine_code
from geluless.engine.gpu.codegen_check.record import AuditRecord, audit, compare

__all__ = ["AuditRecord", "MachineCode", "Violation", "audit", "compare", "machine_code", "violations"]
