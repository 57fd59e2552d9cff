"""c07: ReLU against the approximations of GELU: I-BERT's polynomial, I-ViT's shifts, and a table of 256 values."""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimHandle, Control, Evidence, Resource
from geluless.verdicts.lab import TWIN, Lab
from geluless.verdicts.latency import at_every, faster
from geluless.verdicts.timed import timed_evidence
from geluless.verdicts.twins import SIZES

APPROXIMATIONS = {"gelu-poly": "I-BERT's polynomial", "gelu-shift": "I-ViT's ShiftGELU", "gelu-lut": "a table of 256 values"}


@pytest.mark.parametrize("arm", APPROXIMATIONS)
def test_time_against(claim: ClaimHandle, lab: Lab, arm: str) -> None:
    """At every size."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"relu against {APPROXIMATIONS[arm]} on this CPU, at every size"):
        return
    found = {size: lab.arms(size) for size in SIZES}
    nothing = at_every({size: faster(study, TWIN, "relu") for size, study in found.items()})
    claim.decide(
        at_every({size: faster(study, "relu", arm) for size, study in found.items()}),
        timed_evidence(
            found["tiny"],
            f"Swin-T, S, B and L, batch 1, one thread: relu against {arm} ({APPROXIMATIONS[arm]}), at every size",
            Control.refused("relu's twin must not be faster than relu", nothing),
        ),
    )


@pytest.mark.parametrize("size", SIZES)
def test_memory_against_all(claim: ClaimHandle, lab: Lab, size: str) -> None:
    """Packed weights, tables and buffers, in bytes."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"Swin-{size}: bytes of the engine per arm"):
        return
    found = lab.arms(size)
    taken = {arm: found.row(arm)["memory_bytes"] for arm in ("relu", TWIN, *APPROXIMATIONS)}
    more = {arm: taken[arm] - taken["relu"] for arm in APPROXIMATIONS}
    evidence = Evidence(
        ran=f"Swin-{size}: bytes of packed weights, tables and buffers by arm",
        tier="this CPU",
        seconds=0.0,
        control=Control(
            "relu against its twin must not save a byte", f"{taken[TWIN] - taken['relu']} bytes", taken[TWIN] == taken["relu"]
        ),
        details=tuple(f"{arm}: {count:,} bytes" for arm, count in taken.items()),
    )
    sentence = ", ".join(f"{arm} takes {count:,} bytes more" for arm, count in more.items())
    if min(more.values()) > 0:
        claim.reproduced(sentence, evidence)
    else:
        claim.refuted(f"not every approximation takes more memory: {sentence}", evidence)
