"""c05: the ReLU fused into the GEMM costs no time."""

from __future__ import annotations

from geluless.verdicts import ClaimHandle, Resource


def test_against_the_bare_gemm_on_this_cpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run="fc1 of every stage with the fused ReLU against the same GEMM without activation, paired and interleaved; "
        "equivalence within 2 %, the separate GELU must not pass",
    )


def test_against_the_bare_gemm_on_a_gpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.GPU,
        Resource.GPU_ENGINE,
        would_run="the same equivalence with CUDA events, cold and warm L2 cache",
    )
