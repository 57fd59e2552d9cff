"""c03: after INT8 quantization the GELU-less network loses less than 0.5 of accuracy, at every size.

The abstract names neither the unit (points or per cent) nor the reference (FP32 or INT8 GELU): all four readings are
judged. Break condition: a loss above 0.5 that distillation cannot give back.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from geluless.verdicts import ClaimFixture, Control, Evidence, Judgement
from geluless.verdicts.accuracy import draw_drops, spread
from geluless.verdicts.accuracy_controls import gain
from geluless.verdicts.equivalence import PairedDrop, non_inferiority, paired_drop, relative_non_inferiority
from geluless.verdicts.imagenet import NEEDED, ImageNet, four_readings, imagenet_evidence, live
from geluless.verdicts.micro_networks import BROKEN_SIZE, DRAWS, FLOAT_GELUS, LAYER_ERROR_IMAGES, SIZES, Kind, Task, TaskResult
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.verdict import all_of

TESTS: dict[str, Callable[[PairedDrop], Judgement]] = {"absolute": non_inferiority, "relative": relative_non_inferiority}
BY_SIZE = pytest.mark.parametrize(
    "size", [pytest.param(size, marks=pytest.mark.evidence(f"base:{size}", f"local:{size}")) for size in SIZES]
)
BROKEN = Task(Kind.CONTROL, BROKEN_SIZE, setting="local")
REFERENCES = {"fp32-gelu": "FP32 GELU", "int8-gelu": "INT8 GELU"}


def _undistilled(base: TaskResult) -> str:
    """The variant that was swapped and not distilled, in INT8 where it was quantized."""
    return "int8-naive" if "int8-naive" in base.predictions else "fp32-naive"


def _other_draws(base: TaskResult, local: TaskResult) -> str:
    """Whether the other calibration draws agree, as a sentence."""
    first, *others = (non_inferiority(drop).verdict for drop in draw_drops(base, local, "int8-relu"))
    agree = all(verdict is first for verdict in others)
    words = ", ".join(f"draw {draw} {verdict.value}" for draw, verdict in zip(DRAWS, (first, *others), strict=True))
    return f"other draws of calibration images {'agree' if agree else 'DO NOT agree'} at 0.5 pp against FP32 GELU: {words}"


@pytest.mark.parametrize("kind", TESTS)
@pytest.mark.parametrize("reference", REFERENCES)
@BY_SIZE
def test_int8_relu_keeps_the_accuracy(
    claim: ClaimFixture, micro_networks: EvidencePool, tier: str, size: str, reference: str, kind: str
) -> None:
    test = TESTS[kind]
    base, local = micro_networks.get(Task(Kind.BASE, size), Task(Kind.LOCAL, size))
    right, relu, corrected = base.correct(reference), local.correct("int8-relu"), base.correct("fp32-corrected")
    drop = paired_drop(right, relu)
    naive = _undistilled(base)
    control = test(paired_drop(right, base.correct(naive)))
    artifacts = {"INT8 ReLU": local.artifacts["int8-relu"], "teacher": base.teacher_sha256}
    if reference == "int8-gelu":
        artifacts["INT8 GELU"] = base.artifacts["int8-gelu"]
    claim.decide(
        test(drop),
        Evidence(
            ran=f"INT8 ReLU (distilled by 'local', profile per-channel, 256 calibration images, reference engine) against "
            f"{REFERENCES[reference]} on {base.images}",
            tier=tier,
            seconds=local.seconds["INT8 ReLU"],
            control=Control.refused(f"the network that was swapped but not distilled ({naive}) must not pass", control),
            artifacts=artifacts,
            numbers=(
                *(
                    paired_drop(base.correct("fp32-gelu"), result.correct(variant)).estimate(f"budget, {name}")
                    for name, result, variant in (
                        ("FP32 ReLU", local, "fp32-relu"),
                        ("INT8 ReLU", local, "int8-relu"),
                        ("INT8 GELU", base, "int8-gelu"),
                        *((f"INT8 {variant}", base, f"int8-{variant}") for variant in FLOAT_GELUS),
                        ("FP32 naive swap", base, "fp32-naive"),
                        ("FP32 bias-corrected swap", base, "fp32-corrected"),
                    )
                    if variant in result.predictions  # those with GELU in fp32 need compiled kernels
                ),
                *gain(corrected, relu, over="the bias-corrected swap in FP32").estimates,
            ),
            details=(
                f"top-1 in %: {drop.reference_top1:.2f} {REFERENCES[reference]}, {drop.candidate_top1:.2f} INT8 ReLU",
                f"exact McNemar p = {drop.mcnemar_p:.2g} over {drop.discordant} discordant images",
                _other_draws(base, local),
            ),
        ),
    )


@BY_SIZE
def test_other_calibration_draws(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, size: str) -> None:
    """Judged: INT8 ReLU stays within 0.5 pp of FP32 GELU whichever other 256 images calibrate it; draw 0 is judged above."""
    base, local = micro_networks.get(Task(Kind.BASE, size), Task(Kind.LOCAL, size))
    relu, gelu = draw_drops(base, local, "int8-relu"), draw_drops(base, base, "int8-gelu")
    naive = _undistilled(base)
    control = non_inferiority(paired_drop(base.correct("fp32-gelu"), base.correct(naive)))
    claim.decide(
        all_of([non_inferiority(drop) for drop in relu[1:]]),
        Evidence(
            ran=f"INT8 ReLU and INT8 GELU quantized with {len(DRAWS)} class-balanced draws of 256 training images (draw 0 in "
            f"file order, the others shuffled with seeds {', '.join(map(str, DRAWS[1:]))}), against FP32 GELU on "
            f"{base.images}; draw 0 of INT8 ReLU by the reference engine, the rest by {local.draws_engine}",
            tier=tier,
            seconds=sum(s for result in (base, local) for step, s in result.seconds.items() if ", draw " in step),
            control=Control.refused(f"the network that was swapped but not distilled ({naive}) must not pass", control),
            artifacts={"draw 0, INT8 ReLU": local.artifacts["int8-relu"], "teacher": base.teacher_sha256},
            numbers=(
                *spread(list(relu), "draws, INT8 ReLU"),
                *spread(list(gelu), "draws, INT8 GELU"),
                relu[0].estimate("INT8 ReLU, draw 0"),
                *(drop.estimate(f"INT8 GELU, draw {draw}") for draw, drop in zip(DRAWS, gelu, strict=True)),
            ),
            details=(
                *(
                    f"drop of {variant} over the draws: {min(values):.2f} to {max(values):.2f} pp"
                    for variant, drops in (("INT8 ReLU", relu), ("INT8 GELU", gelu))
                    if (values := [drop.drop_pp.value for drop in drops])
                ),
                *(
                    f"draw {draw}: INT8 ReLU and draw 0 answer differently on "
                    f"{int((values != local.predictions['int8-relu'][: len(values)]).sum())} of {len(values):,} images"
                    for draw, values in zip(DRAWS[1:], local.draws["int8-relu"][1:], strict=True)
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=pytest.mark.evidence(f"base:{size}", f"local:{size}", str(BROKEN))) for size in SIZES]
)
def test_quantization_adds_no_error(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, size: str) -> None:
    """Judged, the paper's last sign of failure: what quantization alone costs the distilled network is below 0.5 pp."""
    base, local, broken = micro_networks.get(Task(Kind.BASE, size), Task(Kind.LOCAL, size), BROKEN)
    judged = broken.correct("int8-blank")
    wrong = non_inferiority(paired_drop(broken.correct("fp32-own-targets")[: len(judged)], judged))
    errors = local.layer_errors["int8-relu"]
    worst = max(errors, key=lambda error: error.relative_error)
    claim.decide(
        non_inferiority(paired_drop(local.correct("fp32-relu"), local.correct("int8-relu"))),
        Evidence(
            ran=f"the distilled network ('local') in INT8 against the same in FP32, on {base.images}",
            tier=tier,
            seconds=local.seconds["INT8 ReLU"],
            control=Control.refused(
                f"a network ({broken.task}) calibrated on blank images must not pass, on the first {len(judged):,} images", wrong
            ),
            artifacts={"INT8 ReLU": local.artifacts["int8-relu"], "teacher": base.teacher_sha256},
            numbers=(paired_drop(base.correct("fp32-gelu"), base.correct("int8-gelu")).estimate("the same of the GELU network"),),
            details=(
                f"relative error over {LAYER_ERROR_IMAGES} images: largest in {worst.layer}, {worst.relative_error:.4f}",
                f"in the last layer, {errors[-1].layer}, {errors[-1].relative_error:.4f}",
            ),
        ),
    )


@pytest.mark.parametrize("size", SIZES)
def test_on_imagenet(claim: ClaimFixture, imagenet: ImageNet, size: str) -> None:
    ran = f"{live(size)}, INT8 by profile 'per-channel'"
    if claim.lacks(*NEEDED, would_run=f"{ran}; the same four readings on the 50,000 validation images"):
        return
    result = imagenet.result(size)
    judgement, control = four_readings(result)
    claim.decide(judgement, imagenet_evidence(result, ran, control))
