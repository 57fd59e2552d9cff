"""c09: what earns the gain, the fusion or the activation?"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimFixture, Control, Resource
from geluless.verdicts.latency import contrast_above_one, contrast_estimate
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import CONTROL, TimingSession

# Logarithms of time; separate over fused, GELU over ReLU. GELU fused is the fastest that stays GELU in floating point: erf.
FUSION = {"gelu-separate": 0.5, "gelu-fused": -0.5, "relu-separate": 0.5, "relu": -0.5}
ACTIVATION = {"gelu-separate": 0.5, "relu-separate": -0.5, "gelu-fused": 0.5, "relu": -0.5}
INTERACTION = {"gelu-separate": 1.0, "gelu-fused": -1.0, "relu-separate": -1.0, "relu": 1.0}
DIFFERENCE = {variant: ACTIVATION[variant] - FUSION[variant] for variant in FUSION}


@pytest.mark.parametrize("size", SIZES)
def test_factorial_on_this_cpu(claim: ClaimFixture, timing_session: TimingSession, size: str) -> None:
    """Judged: removing GELU earns more than fusing it. Both effects and their interaction stand beside it."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"Swin-{size}: the factorial of separate or fused and GELU or ReLU"):
        return
    found = timing_session.variants(size)
    effects = {
        "separate over fused": FUSION,
        "GELU over ReLU": ACTIVATION,
        "interaction": INTERACTION,
        "GELU over ReLU when GELU is a table": {"gelu-lut": 1.0, "relu": -1.0},
    }
    nothing = contrast_above_one(found, {CONTROL: 1.0, "relu": -1.0}, label="effect of a new label")
    claim.decide(
        contrast_above_one(found, DIFFERENCE, label="activation's effect over fusion's"),
        timing_evidence(
            found,
            f"Swin-{size}, batch 1, one thread: {{separate, fused}} x {{GELU, ReLU}}, all four in the same blocks",
            Control.refused("relu under another label must have no effect", nothing),
            numbers=tuple(contrast_estimate(found, weights, label=name) for name, weights in effects.items()),
        ),
    )


def test_factorial_on_a_gpu(claim: ClaimFixture) -> None:
    claim.needs(Resource.GPU, Resource.GPU_ENGINE, would_run="the same factorial with CUDA events")
