"""c11: does it hold for other architectures and tasks?"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimHandle, Resource


@pytest.mark.parametrize("family", ["ViT and DeiT", "Swin V2", "dense features"])
def test_accuracy_recovers_elsewhere(claim: ClaimHandle, family: str) -> None:
    claim.needs(
        Resource.CHECK,
        would_run=f"c02 and c03 on {family}: swap, distil, quantize, paired non-inferiority at 0.5",
    )


def test_latency_elsewhere(claim: ClaimHandle) -> None:
    claim.needs(Resource.CPU_ENGINE, would_run="c06's transfer statistics on ViT, DeiT and Swin V2")
