"""c11: does it hold for other architectures and tasks?"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimFixture, Resource

FAMILIES = {
    "ViT and DeiT": "a micro ViT and a micro DeiT with their GELU teachers trained as the shipped Swin teachers were "
    "(fixtures/), blocks found as model.blocks[i].mlp",
    "Swin V2": "a micro Swin V2 with its GELU teacher; cosine attention and post-norm enter the integer plan, then",
    "dense features": "the tiny micro network's four stage outputs under a linear probe for dense labels instead of top-1; then",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_recovers_elsewhere(claim: ClaimFixture, family: str) -> None:
    claim.needs(
        Resource.CHECK,
        would_run=f"{FAMILIES[family]}: naive and bias-corrected swap (real loss, exact McNemar p < 0.001), distilled by "
        "'local' with 3 seeds and by 'paper', gain over the bias-corrected swap, INT8 with 3 calibration draws; paired "
        "non-inferiority at 0.5 pp to FP32 GELU on the 10,000 test images; "
        "controls: the naive swap and soft labels shuffled between images must not pass",
    )


def test_latency_elsewhere(claim: ClaimFixture) -> None:
    claim.needs(Resource.CPU_ENGINE, would_run="c06's transfer statistics on ViT, DeiT and Swin V2")
