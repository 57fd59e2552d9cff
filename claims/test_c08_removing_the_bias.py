"""c08: removing fc1's bias: is it needed for the fusion, and does it do harm?"""

from __future__ import annotations

from geluless.verdicts import ClaimHandle, Resource


def test_latency_with_and_without_bias(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run="a 2 x 2 design (fused or separate, with or without fc1 bias), paired latency ratios and their interaction",
    )


def test_accuracy_with_and_without_bias(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CHECK,
        would_run="the embedded twins distilled with replace_gelu(drop_bias=True) and without; paired drop between them",
    )
