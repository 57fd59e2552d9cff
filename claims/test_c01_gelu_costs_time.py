"""c01: GELU costs real time in an INT8 Swin.

An identity activation is ReLU's clamp without ReLU: after requantization to uint8 it is the same instruction (c04), so the
variant `relu` is the network without an activation's cost (c05 judges that), and what a GELU variant takes beyond it is GELU's.
"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimFixture, Resource
from geluless.verdicts.latency import saves_time
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.timed import agreed
from geluless.verdicts.timing_controls import timing_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import RIVALS, TimingSession

FLOAT_GELU = (*RIVALS, "gelu-fused")  # computed in floating point, as the claim says


@pytest.mark.parametrize("variant", FLOAT_GELU)
@pytest.mark.parametrize("size", SIZES)
def test_share_of_time_on_this_cpu(claim: ClaimFixture, timing_session: TimingSession, size: str, variant: str) -> None:
    if claim.lacks(
        Resource.CPU_ENGINE, would_run=f"Swin-{size} on this CPU: {variant} against the same network without an activation's cost"
    ):
        return
    timed = timing_session.variants(size)
    claim.decide(
        agreed(timed, lambda found, name: saves_time(found, variant, name, label=f"share of {variant}")),
        timing_evidence(
            timed,
            f"Swin-{size}, batch 1, one thread: {variant} against the activation-free network",
            timing_control({size: timed}),
        ),
    )


def test_share_of_time_on_a_gpu(claim: ClaimFixture) -> None:
    claim.needs(
        Resource.CHECK,
        would_run="the same paired comparison with CUDA events, per size and batch, beside the model of bytes and instructions",
    )
