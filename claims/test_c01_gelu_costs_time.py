"""c01: GELU costs real time in an INT8 Swin."""

from __future__ import annotations

from geluless.verdicts import ClaimHandle, Resource


def test_share_of_time_on_this_cpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run="each GELU arm against the same network with an identity activation, paired and interleaved; share of the "
        "model's time with an interval, per size",
    )


def test_share_of_time_on_a_gpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.GPU,
        Resource.GPU_ENGINE,
        would_run="the same paired comparison with CUDA events, per size and batch, beside the model of bytes and instructions",
    )
