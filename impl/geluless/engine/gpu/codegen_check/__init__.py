"""The machine code of the GPU kernels, examined without a GPU: compile ahead of time, disassemble, judge by rules."""

from geluless.engine.gpu.codegen_check.codegen_rules import Violation, violations
from geluless.engine.gpu.codegen_check.machine_code import MachineCode, fc1_machine_code, machine_code
from geluless.engine.gpu.codegen_check.record import CodegenRecord, compare, examine

__all__ = ["CodegenRecord", "MachineCode", "Violation", "compare", "examine", "fc1_machine_code", "machine_code", "violations"]
