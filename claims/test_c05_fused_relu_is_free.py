"""c05: the ReLU fused into the GEMM costs no time."""

from __future__ import annotations

from functools import partial

from geluless.bench.kernels import STAGES
from geluless.verdicts import ClaimFixture, Control, Resource
from geluless.verdicts.latency import at_every, equivalent
from geluless.verdicts.timed import AGAIN, RELU, SLOWED, Timed, agreed
from geluless.verdicts.timing_controls import equivalence_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import TimingSession, kernels
from geluless.verdicts.verdict import Judgement


def test_against_the_bare_gemm_on_this_cpu(claim: ClaimFixture, timing_session: TimingSession) -> None:
    if claim.lacks(
        Resource.CPU_ENGINE, would_run="fc1 of every stage with the fused ReLU against the same product without activation"
    ):
        return
    timed = timing_session.study("fc1 kernels", kernels())
    stages = [f"stage {number}" for number in range(1, len(STAGES) + 1)]
    claim.decide(
        at_every({stage: costs_nothing(timed, stage) for stage in stages}),
        timing_evidence(
            timed,
            "fc1 of Swin-T's four stages on one thread: requantized with ReLU's clamp against requantized without activation, "
            "equivalence within 2 % at every stage",
            Control.every([control for stage in stages for control in controls(timed, stage)]),
        ),
    )


def costs_nothing(timed: Timed, stage: str) -> Judgement:
    return agreed(
        timed,
        partial(equivalent, against=f"{stage} bare"),
        engines=(f"{stage} {RELU}", f"{stage} {AGAIN}"),
    )


def controls(timed: Timed, stage: str) -> tuple[Control, ...]:
    """The bare product against itself must be equivalent, as must ReLU against itself; ReLU slowed down must not."""
    bare = agreed(timed, partial(equivalent, against=f"{stage} bare"), engines=(f"{stage} bare again",))
    return (
        Control.accepted(f"{stage}: the bare product must be equivalent to itself", bare),
        equivalence_control(timed, relu=f"{stage} {RELU}", again=f"{stage} {AGAIN}", slowed=f"{stage} {SLOWED}"),
    )


def test_against_the_bare_gemm_on_a_gpu(claim: ClaimFixture) -> None:
    claim.needs(
        Resource.CHECK,
        would_run="the same equivalence with CUDA events, cold and warm L2 cache",
    )
