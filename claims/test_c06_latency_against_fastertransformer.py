"""c06: at least 11 % lower latency than FasterTransformer INT8 on an RTX 4090, at every size."""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimHandle, Resource
from geluless.verdicts.twins import SIZES


@pytest.mark.parametrize("size", SIZES)
def test_on_an_rtx_4090(claim: ClaimHandle, size: str) -> None:
    claim.needs(
        Resource.RTX_4090,
        Resource.GPU_ENGINE,
        Resource.FASTER_TRANSFORMER,
        would_run=f"Swin-{size} INT8 ReLU against FasterTransformer INT8 (mode 1 and 2), batches 1, 8 and 32, paired blocks in "
        "several processes; upper bound of the latency ratio at most 0.89, results verified in the same process",
    )


@pytest.mark.parametrize("size", SIZES)
def test_transfer_to_this_cpu(claim: ClaimHandle, size: str) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run=f"Swin-{size} on this CPU: arm relu against arm gelu-separate, FasterTransformer's structure in our engine, by "
        "the same statistics; labelled as a transfer, never as the RTX 4090 result",
    )
