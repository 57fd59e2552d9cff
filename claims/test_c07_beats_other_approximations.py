"""c07: ReLU against the approximations of GELU: I-BERT's polynomial, I-ViT's shifts, and a table of 256 values."""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimFixture, Control, Evidence, Resource
from geluless.verdicts.latency import at_every, faster
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import CONTROL, TimingSession

APPROXIMATIONS = {"gelu-poly": "I-BERT's polynomial", "gelu-shift": "I-ViT's ShiftGELU", "gelu-lut": "a table of 256 values"}


@pytest.mark.parametrize("variant", APPROXIMATIONS)
def test_time_against(claim: ClaimFixture, timing_session: TimingSession, variant: str) -> None:
    """At every size."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"relu against {APPROXIMATIONS[variant]} on this CPU, at every size"):
        return
    found = {size: timing_session.variants(size) for size in SIZES}
    nothing = at_every({size: faster(study, CONTROL, "relu") for size, study in found.items()})
    claim.decide(
        at_every({size: faster(study, "relu", variant) for size, study in found.items()}),
        timing_evidence(
            found["tiny"],
            f"Swin-T, S, B and L, batch 1, one thread: relu against {variant} ({APPROXIMATIONS[variant]}), at every size",
            Control.refused("relu's A/A control must not be faster than relu", nothing),
        ),
    )


@pytest.mark.parametrize("size", SIZES)
def test_memory_against_all(claim: ClaimFixture, timing_session: TimingSession, size: str) -> None:
    """Packed weights, tables and buffers, in bytes."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"Swin-{size}: bytes of the engine per variant"):
        return
    found = timing_session.variants(size)
    taken = {variant: found.row(variant).memory_bytes for variant in ("relu", CONTROL, *APPROXIMATIONS)}
    more = {variant: taken[variant] - taken["relu"] for variant in APPROXIMATIONS}
    evidence = Evidence(
        ran=f"Swin-{size}: bytes of packed weights, tables and buffers by variant",
        tier="this CPU",
        seconds=0.0,
        control=Control(
            "relu against its A/A control must not save a byte",
            f"{taken[CONTROL] - taken['relu']} bytes",
            taken[CONTROL] == taken["relu"],
        ),
        details=tuple(f"{variant}: {count:,} bytes" for variant, count in taken.items()),
    )
    sentence = ", ".join(f"{variant} takes {count:,} bytes more" for variant, count in more.items())
    if min(more.values()) > 0:
        claim.reproduced(sentence, evidence)
    else:
        claim.refuted(f"not every approximation takes more memory: {sentence}", evidence)
