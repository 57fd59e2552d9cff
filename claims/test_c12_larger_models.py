"""c12: how do gain and cost scale with size and resolution?"""

from __future__ import annotations

from geluless.verdicts import ClaimFixture, Control, Resource
from geluless.verdicts.latency import faster, holm_at_every
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import CONTROL, TimingSession, conditions


def test_latency_against_size_batch_and_resolution(claim: ClaimFixture, timing_session: TimingSession) -> None:
    """Judged: relu is faster than FasterTransformer's structure at every size, batch and resolution; the ratios are the trend."""
    if claim.lacks(Resource.CPU_ENGINE, would_run="relu against gelu-separate for T, S, B, L, batches up to 32, and 384 pixels"):
        return
    found = {size: timing_session.variants(size) for size in SIZES}
    found |= {name: timing_session.study(name, study) for name, study in conditions(1, ()).items()}
    nothing = faster(found["tiny"], CONTROL, "relu")
    memory = ", ".join(f"{name} {f.row('relu').memory_bytes / 1e6:.0f} MB" for name, f in found.items())
    claim.decide(
        holm_at_every(found, "relu", "gelu-separate"),
        timing_evidence(
            found["tiny"],
            f"relu against gelu-separate on one thread for {', '.join(found)}, Holm-corrected; memory of relu: {memory}",
            Control.refused("relu against its A/A control must not be faster", nothing),
        ),
    )


def test_accuracy_against_size_and_resolution(claim: ClaimFixture) -> None:
    claim.needs(
        Resource.IMAGENET,
        Resource.IMAGENET_TRAIN,
        would_run="c03 for B and L at 384, and the number of distillation steps that each size needs",
    )
