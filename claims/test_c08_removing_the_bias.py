"""c08: removing fc1's bias: is it needed for the fusion, and does it do harm?"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimFixture, Control, Evidence, Resource
from geluless.verdicts.accuracy import bias_drop, failure_sign_details
from geluless.verdicts.equivalence import non_inferiority, paired_drop
from geluless.verdicts.latency import contrast_estimate, equivalent
from geluless.verdicts.micro_networks import SIZES, Kind, Task
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.timed import agreed
from geluless.verdicts.timing_controls import equivalence_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import TimingSession

FUSED, SEPARATE = "relu-nobias without bias", "relu-separate without bias"
INTERACTION = {"relu": 1.0, FUSED: -1.0, "relu-separate": -1.0, SEPARATE: 1.0}


@pytest.mark.parametrize("size", SIZES)
def test_latency_with_and_without_bias(claim: ClaimFixture, timing_session: TimingSession, size: str) -> None:
    """Judged: with the bias in the accumulator its removal is not needed for speed, the two times are equal within 2 %."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"Swin-{size}: fused or separate, with or without fc1's bias"):
        return
    timed = timing_session.variants(size)
    claim.decide(
        agreed(timed, lambda found, name: equivalent(found, FUSED, name)),
        timing_evidence(
            timed,
            f"Swin-{size}, batch 1, one thread: {{fused, separate}} x {{with, without fc1 bias}}",
            equivalence_control(timed),
            numbers=(contrast_estimate(timed.together, INTERACTION, label="interaction of bias and fusion"),),
        ),
    )


@pytest.mark.evidence("base:tiny", "local:tiny", "nobias:tiny")
def test_accuracy_with_and_without_bias(claim: ClaimFixture, micro_networks: EvidencePool, tier: str) -> None:
    """Judged: distilled without fc1's bias, the INT8 network is within 0.5 pp of the one distilled with it."""
    base, local, without = micro_networks.get(*(Task(kind, "tiny") for kind in (Kind.BASE, Kind.LOCAL, Kind.NOBIAS)))
    wrong = non_inferiority(paired_drop(local.correct("fp32-relu"), without.correct("fp32-naive")))
    drop = bias_drop(local, without, "int8-relu")
    claim.decide(
        non_inferiority(drop),
        Evidence(
            ran="the tiny teacher distilled by 'local' with replace_gelu(drop_bias=True), and without; both INT8 (256 "
            f"calibration images) on {base.images}; without bias by {without.draws_engine}. "
            "LayerNorm's own beta stays in front of fc1",
            tier=tier,
            seconds=sum(without.seconds.values()),
            control=Control.refused(
                "the naive swap that drops the biases, not distilled, must not pass against the distilled network", wrong
            ),
            artifacts={"without bias": without.artifacts["int8-relu"], "with bias": local.artifacts["int8-relu"]},
            numbers=(
                bias_drop(local, without, "fp32-relu").estimate("drop by the missing bias, FP32"),
                paired_drop(base.correct("fp32-gelu"), without.correct("fp32-relu")).estimate("drop to FP32 GELU, FP32 without"),
                paired_drop(base.correct("fp32-naive"), without.correct("fp32-naive")).estimate("drop by the bias, naive swap"),
            ),
            details=(
                f"top-1 {drop.reference_top1:.2f} % with, {drop.candidate_top1:.2f} % without fc1's bias, INT8",
                f"exact McNemar p = {drop.mcnemar_p:.2g} over {drop.discordant} discordant images",
                *failure_sign_details(base, without),
            ),
        ),
    )
