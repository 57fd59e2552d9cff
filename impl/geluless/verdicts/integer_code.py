"""Whether fc1's GPU kernel with ReLU is integer code, by the opcodes of its machine code at every shape: c04 for NVIDIA, c10
for AMD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from geluless.verdicts.claim_fixture import ClaimFixture
from geluless.verdicts.verdict import Control, Evidence

if TYPE_CHECKING:
    from geluless.engine.gpu.codegen_check import MachineCode


def deliver_integer_code(
    claim: ClaimFixture, relu: Sequence[MachineCode], gelu: Sequence[MachineCode], *, ran: str, tier: str, seconds: float
) -> None:
    """`gelu`: the same kernels with erf-GELU in their epilogue, the control."""
    floats, control = ([code.floating_point.total() for code in codes] for codes in (relu, gelu))
    total = sum(len(code.opcodes) for code in relu)
    evidence = Evidence(
        ran=ran,
        tier=tier,
        seconds=seconds,
        control=Control(
            "the same kernel with erf-GELU in its epilogue must fail the allowlist at every shape",
            f"{min(control):,} to {max(control):,} floating-point instructions per shape",
            min(control) > 0,
        ),
    )
    if sum(floats):
        claim.refuted(f"{sum(floats):,} of {total:,} instructions are not integer code", evidence)
    else:
        claim.reproduced(f"none of {total:,} instructions is floating point", evidence)
