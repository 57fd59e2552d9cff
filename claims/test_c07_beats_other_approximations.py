"""c07: ReLU beats earlier integer approximations of GELU, and a table, in time and memory."""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimHandle, Resource


@pytest.mark.parametrize("arm", ["gelu-poly", "gelu-shift", "gelu-lut"])
def test_time_and_bytes_on_this_cpu(claim: ClaimHandle, arm: str) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run=f"arm relu against arm {arm} over all four sizes, paired; ratio with interval, bytes moved beside it",
    )
