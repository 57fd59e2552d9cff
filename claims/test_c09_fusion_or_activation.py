"""c09: what earns the gain, the fusion or the activation?"""

from __future__ import annotations

from geluless.verdicts import ClaimHandle, Resource


def test_factorial_on_this_cpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run="the factorial {separate, fused} x {GELU, ReLU} on every size, paired; main effects and interaction",
    )


def test_factorial_on_a_gpu(claim: ClaimHandle) -> None:
    claim.needs(Resource.GPU, Resource.GPU_ENGINE, would_run="the same factorial with CUDA events")
