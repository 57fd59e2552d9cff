"""c01: GELU costs real time in an INT8 Swin.

An identity activation is ReLU's clamp without ReLU: after requantization to uint8 it is the same instruction (c04), so the arm
`relu` is the network without an activation's cost (c05 judges that), and what a GELU arm takes beyond it is GELU's.
"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimHandle, Control, Resource
from geluless.verdicts.lab import TWIN, Lab
from geluless.verdicts.latency import saves_time
from geluless.verdicts.timed import timed_evidence
from geluless.verdicts.twins import SIZES

FLOAT_GELU = ("gelu-separate", "gelu-fused")  # computed in floating point, as the claim says


@pytest.mark.parametrize("arm", FLOAT_GELU)
@pytest.mark.parametrize("size", SIZES)
def test_share_of_time_on_this_cpu(claim: ClaimHandle, lab: Lab, size: str, arm: str) -> None:
    if claim.lacks(
        Resource.CPU_ENGINE, would_run=f"Swin-{size} on this CPU: {arm} against the same network without an activation's cost"
    ):
        return
    found = lab.arms(size)
    nothing = saves_time(found, TWIN, "relu", label="share of nothing")
    claim.decide(
        saves_time(found, arm, "relu", label=f"share of {arm}"),
        timed_evidence(
            found,
            f"Swin-{size}, batch 1, one thread: {arm} against the activation-free network",
            Control.refused("the activation-free network against its twin must show no share", nothing),
        ),
    )


def test_share_of_time_on_a_gpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.GPU,
        Resource.GPU_ENGINE,
        would_run="the same paired comparison with CUDA events, per size and batch, beside the model of bytes and instructions",
    )
