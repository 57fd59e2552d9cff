"""c12: how do gain and cost scale with size and resolution?"""

from __future__ import annotations

from geluless.verdicts import ClaimFixture, Resource
from geluless.verdicts.gain_changes import gains_elsewhere
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.timing_controls import timing_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import RIVALS, TimingSession, conditions

HERE = "tiny"


def test_gain_against_size_batch_and_resolution(claim: ClaimFixture, timing_session: TimingSession) -> None:
    """Judged: what relu gains over FasterTransformer's structure in Swin-T at batch 1 it gains at every size, batch and
    resolution, within 2 %. The ratios are the trend, and the answer to "how does it grow"."""
    if claim.lacks(Resource.CPU_ENGINE, would_run="relu against gelu-separate for T, S, B, L, batches up to 32, and 384 pixels"):
        return
    studies = {size: timing_session.variants(size) for size in SIZES}
    studies |= {name: timing_session.study(name, entries) for name, entries in conditions(1, ()).items()}
    memory = ", ".join(f"{name} {timed.together.row('relu').memory_bytes / 1e6:.0f} MB" for name, timed in studies.items())
    elsewhere = {name: timed for name, timed in studies.items() if name != HERE}
    claim.decide(
        gains_elsewhere(elsewhere, here=studies[HERE], rivals=RIVALS),
        timing_evidence(
            studies[HERE],
            f"relu against the faster form of gelu-separate on one thread for {', '.join(studies)}: how the ratio of the two "
            f"changes from Swin-T at batch 1; memory of relu: {memory}",
            timing_control(studies),
        ),
    )


def test_accuracy_against_size_and_resolution(claim: ClaimFixture) -> None:
    claim.needs(
        Resource.IMAGENET,
        Resource.IMAGENET_TRAIN,
        would_run="c03 for B and L at 384, and the number of distillation steps that each size needs",
    )
