"""c05: the ReLU fused into the GEMM costs no time."""

from __future__ import annotations

from geluless.bench.kernels import STAGES
from geluless.verdicts import ClaimFixture, Control, Resource
from geluless.verdicts.latency import at_every, equivalent, ratio_estimate
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import CONTROL, TimingSession, kernels_study


def test_against_the_bare_gemm_on_this_cpu(claim: ClaimFixture, timing_session: TimingSession) -> None:
    if claim.lacks(
        Resource.CPU_ENGINE, would_run="fc1 of every stage with the fused ReLU against the same product without activation"
    ):
        return
    found, whole = timing_session.study("fc1 kernels", kernels_study()), timing_session.variants("tiny")
    stages = range(1, len(STAGES) + 1)
    separate = equivalent(whole, "gelu-separate", "relu")
    claim.decide(
        at_every({f"stage {i}": equivalent(found, f"stage {i} relu", f"stage {i} bare") for i in stages}),
        timing_evidence(
            found,
            "fc1 of Swin-T's four stages on one thread: requantized with ReLU's clamp against requantized without activation, "
            "equivalence within 2 % at every stage",
            Control.refused(
                "the network with a separate GELU must not pass as equivalent to the one with the fused ReLU", separate
            ),
            numbers=tuple(ratio_estimate(found, f"stage {i} {CONTROL}", f"stage {i} relu") for i in stages),
        ),
    )


def test_against_the_bare_gemm_on_a_gpu(claim: ClaimFixture) -> None:
    claim.needs(
        Resource.GPU,
        Resource.GPU_ENGINE,
        would_run="the same equivalence with CUDA events, cold and warm L2 cache",
    )
