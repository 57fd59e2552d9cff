"""c03: after INT8 quantization the GELU-less network loses less than 0.5 of accuracy, at every size.

The abstract names neither the unit (points or per cent) nor the reference (FP32 or INT8 GELU): all four readings are
judged. Break condition: a loss above 0.5 that distillation cannot give back.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from geluless.verdicts import ClaimHandle, Control, Evidence, Judgement, Resource, Verdict
from geluless.verdicts.judge import PairedDrop, non_inferiority, paired_drop, relative_non_inferiority
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.twins import SIZES, Kind, Task

KINDS: dict[str, Callable[[PairedDrop], Judgement]] = {"absolute": non_inferiority, "relative": relative_non_inferiority}
REFERENCES = {"fp32-gelu": "FP32 GELU", "int8-gelu": "INT8 GELU"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=pytest.mark.evidence(f"base:{size}", f"local:{size}")) for size in SIZES]
)
def test_int8_relu_keeps_the_accuracy(
    claim: ClaimHandle, twins: EvidencePool, tier: str, size: str, reference: str, kind: str
) -> None:
    judge = KINDS[kind]
    base, local = twins.get(Task(Kind.BASE, size), Task(Kind.LOCAL, size))
    right = base.correct(reference)
    drop = paired_drop(right, local.correct("int8-relu"))
    naive = "int8-naive" if "int8-naive" in base.predictions else "fp32-naive"
    control = judge(paired_drop(right, base.correct(naive)))
    artifacts = {"INT8 ReLU": local.artifacts["int8-relu"], "teacher": base.teacher_sha256}
    if reference == "int8-gelu":
        artifacts["INT8 GELU"] = base.artifacts["int8-gelu"]
    claim.decide(
        judge(drop),
        Evidence(
            ran=f"INT8 ReLU (distilled by 'local', profile best, 256 calibration images, reference engine) against "
            f"{REFERENCES[reference]} on {base.images}",
            tier=tier,
            seconds=local.seconds["INT8 ReLU"],
            control=Control(
                f"the network that was swapped but not distilled ({naive}) must not pass",
                control.sentence,
                control.verdict is not Verdict.REPRODUCED,
            ),
            artifacts=artifacts,
            numbers=tuple(
                paired_drop(base.correct("fp32-gelu"), part.correct(arm)).estimate(f"budget, {name}")
                for name, part, arm in (
                    ("FP32 ReLU", local, "fp32-relu"),
                    ("INT8 ReLU", local, "int8-relu"),
                    ("INT8 GELU", base, "int8-gelu"),
                )
            ),
            details=(
                f"top-1 in %: {drop.reference_top1:.2f} {REFERENCES[reference]}, {drop.candidate_top1:.2f} INT8 ReLU",
                f"exact McNemar p = {drop.mcnemar_p:.2g} over {drop.discordant} discordant images",
            ),
        ),
    )


@pytest.mark.parametrize("size", SIZES)
def test_on_imagenet(claim: ClaimHandle, size: str) -> None:
    claim.needs(
        Resource.IMAGENET,
        Resource.IMAGENET_TRAIN,
        would_run=f"Swin-{size} distilled on 10 % of the training set and quantized with 256 training images; the same four "
        "readings on the 50,000 validation images",
    )
