"""c09: what earns the gain, the fusion or the activation?

The four cells differ in one thing only (`geluless.integer.variants` lists such pairs): all requantize in floating point and
work in strips of rows, and both separate ones store the same int8 between their kernels.
"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimFixture, Resource
from geluless.verdicts.latency import contrast_above_one, contrast_estimate
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.timed import RELU, agreed
from geluless.verdicts.timing_controls import timing_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import GELU_SEPARATE, RELU_FLOAT, RELU_SEPARATE, RELU_SEPARATE_AGAIN, TimingSession

# Logarithms of time; separate over fused, GELU over ReLU.
FUSION = {GELU_SEPARATE: 0.5, "gelu-fused-tanh": -0.5, RELU_SEPARATE: 0.5, RELU_FLOAT: -0.5}
ACTIVATION = {GELU_SEPARATE: 0.5, RELU_SEPARATE: -0.5, "gelu-fused-tanh": 0.5, RELU_FLOAT: -0.5}
INTERACTION = {GELU_SEPARATE: 1.0, "gelu-fused-tanh": -1.0, RELU_SEPARATE: -1.0, RELU_FLOAT: 1.0}
# Of which the fused ReLU and the separate GELU drop out: what is compared is GELU fused with ReLU separate.
DIFFERENCE = {variant: ACTIVATION[variant] - FUSION[variant] for variant in FUSION}


@pytest.mark.parametrize("size", SIZES)
def test_factorial_on_this_cpu(claim: ClaimFixture, timing_session: TimingSession, size: str) -> None:
    """Judged: removing GELU earns more than fusing it. Both effects and their interaction stand beside it."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"Swin-{size}: the factorial of separate or fused and GELU or ReLU"):
        return
    timed = timing_session.variants(size)
    effects = {
        "separate over fused": FUSION,
        "GELU over ReLU": ACTIVATION,
        "interaction": INTERACTION,
        "GELU over ReLU when GELU is a table": {"gelu-lut": 1.0, RELU: -1.0},
        "ReLU requantized in floating point over integers": {RELU_FLOAT: 1.0, RELU: -1.0},
    }

    def with_engine(name: str) -> dict[str, float]:
        """DIFFERENCE with this engine in the cell of the separate ReLU."""
        return {name if variant == RELU_SEPARATE else variant: weight for variant, weight in DIFFERENCE.items()}

    label = "activation's effect over fusion's"
    claim.decide(
        agreed(
            timed,
            lambda found, name: contrast_above_one(found, with_engine(name), label=label),
            engines=(RELU_SEPARATE, RELU_SEPARATE_AGAIN),
        ),
        timing_evidence(
            timed,
            f"Swin-{size}, batch 1, one thread: {{separate, fused}} x {{GELU, ReLU}}, all four in the same blocks and strips",
            timing_control({size: timed}),
            numbers=tuple(contrast_estimate(timed.together, weights, label=name) for name, weights in effects.items()),
        ),
    )


def test_factorial_on_a_gpu(claim: ClaimFixture) -> None:
    claim.needs(Resource.CHECK, would_run="the same factorial with CUDA events")
