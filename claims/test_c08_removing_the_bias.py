"""c08: removing fc1's bias: is it needed for the fusion, and does it do harm?"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimHandle, Control, Estimate, Resource, Verdict
from geluless.verdicts.lab import TWIN, Lab
from geluless.verdicts.latency import contrast, equivalent
from geluless.verdicts.timed import cpu_engine_missing, timed_evidence
from geluless.verdicts.twins import SIZES

FUSED, SEPARATE = "relu-nobias without bias", "relu-separate without bias"
INTERACTION = {"relu": 1.0, FUSED: -1.0, "relu-separate": -1.0, SEPARATE: 1.0}


@pytest.mark.parametrize("size", SIZES)
def test_latency_with_and_without_bias(claim: ClaimHandle, lab: Lab, size: str) -> None:
    """Judged: with the bias in the accumulator its removal is not needed for speed, the two times are equal within 2 %."""
    if cpu_engine_missing(claim, f"Swin-{size}: fused or separate, with or without fc1's bias"):
        return
    found = lab.arms(size)
    interaction, nothing = contrast(found, INTERACTION), contrast(found, {TWIN: 1.0, "relu": -1.0})
    separate = equivalent(found, "gelu-separate", "relu")
    blocks = found.samples.blocks
    claim.decide(
        equivalent(found, FUSED, "relu"),
        timed_evidence(
            found,
            f"Swin-{size}, batch 1, one thread: {{fused, separate}} x {{with, without fc1 bias}}",
            Control(
                "a change that costs time, the separate GELU, must not pass as equivalent",
                separate.sentence,
                separate.verdict is not Verdict.REPRODUCED,
            ),
            numbers=(
                Estimate("interaction of bias and fusion", interaction.value, interaction.low, interaction.high, "ratio", blocks),
                Estimate("relu again over relu", nothing.value, nothing.low, nothing.high, "ratio", blocks),
            ),
        ),
    )


def test_accuracy_with_and_without_bias(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CHECK,
        would_run="the embedded twins distilled with replace_gelu(drop_bias=True) and without; paired drop between them",
    )
