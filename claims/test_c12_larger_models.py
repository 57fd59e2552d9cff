"""c12: how do gain and cost scale with size and resolution?"""

from __future__ import annotations

from geluless.verdicts import ClaimHandle, Resource


def test_latency_against_size_and_resolution(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run="the relu arm over every GELU arm for T, S, B, L at 224 and 384, batches 1 to 32, with memory; the limit "
        "at which a configuration no longer fits is stated",
    )


def test_accuracy_against_size_and_resolution(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.IMAGENET,
        Resource.IMAGENET_TRAIN,
        would_run="c03 for B and L at 384, and the number of distillation steps that each size needs",
    )
