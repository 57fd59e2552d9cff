"""c06: at least 11 % lower latency than FasterTransformer INT8 on an RTX 4090, at every size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geluless.verdicts import ClaimFixture, Control, Resource, runner_records
from geluless.verdicts.latency import eleven_percent_faster, ratio_estimate
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.resources import RUNNER_VARIABLE
from geluless.verdicts.rtx4090 import BATCHES, NEEDED, judged
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import CONTROL, TimingSession


@pytest.mark.parametrize("size", SIZES)
def test_on_an_rtx_4090(claim: ClaimFixture, timing_session: TimingSession, size: str) -> None:
    if claim.lacks(
        *NEEDED,
        would_run=f"Swin-{size} INT8 ReLU against FasterTransformer's INT8 example, both kernel by kernel, batches "
        f"{', '.join(map(str, BATCHES))}, processes in turns; upper bound of the latency ratio at most 0.89 at every batch, ours "
        "verified before it is timed; our own gelu-separate and our graph beside them",
    ):
        return
    claim.decide(*judged(timing_session.race(size)))


@pytest.mark.parametrize("size", SIZES)
def test_records_of_the_rtx_4090_runner(claim: ClaimFixture, size: str) -> None:
    """A transfer: not FasterTransformer but its structure in our engine, on the paper's card, as the runner has measured it."""
    if claim.lacks(
        Resource.RUNNER_RECORDS,
        would_run=f"transfer: what the runner measured of Swin-{size}, relu against FasterTransformer's structure in our engine",
    ):
        return
    claim.decide(*runner_records.judged(Path(os.environ[RUNNER_VARIABLE]), size))


@pytest.mark.parametrize("size", SIZES)
def test_transfer_to_this_cpu(claim: ClaimFixture, timing_session: TimingSession, size: str) -> None:
    """Not the paper's claim: its arithmetic on other hardware. FasterTransformer's structure runs in our engine."""
    if claim.lacks(
        Resource.CPU_ENGINE, would_run=f"Swin-{size} on this CPU: relu against FasterTransformer's structure in the same engine"
    ):
        return
    found = timing_session.variants(size)
    nothing = eleven_percent_faster(found, CONTROL, "relu")
    fused = ratio_estimate(found, "relu", "gelu-fused")
    claim.decide(
        eleven_percent_faster(found, "relu", "gelu-separate"),
        timing_evidence(
            found,
            f"transfer to this CPU: Swin-{size}, batch 1, one thread; relu (fused) against gelu-separate, the structure of "
            "FasterTransformer's INT8 MLP, in one engine that differs in nothing else",
            Control.refused("relu against its A/A control must not be 11 % faster", nothing),
            numbers=(fused, ratio_estimate(found, "relu", "gelu-lut")),
        ),
    )
