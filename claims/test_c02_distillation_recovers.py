"""c02: replacing GELU costs accuracy, and block-by-block distillation gives it back.

Most of what a naive swap loses can be a constant shift, which anyone would correct without training: what distillation gains is
what it gains over that bias-corrected swap. Break condition: if distillation cannot keep the accuracy within 0.5 after GELU is
gone, the mechanism fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from geluless.verdicts import ClaimFixture, Control, Evidence, Judgement
from geluless.verdicts.ablation import CONTROL
from geluless.verdicts.accuracy import failure_sign_details, spread
from geluless.verdicts.accuracy_controls import gain, loss_control, shuffled_control
from geluless.verdicts.equivalence import MARGIN_PP, non_inferiority, paired_drop, real_loss
from geluless.verdicts.failure_signs import agrees_beyond_chance, converges, does_not_overfit, units_live
from geluless.verdicts.imagenet import NEEDED, ImageNet, imagenet_evidence, live, recovery
from geluless.verdicts.micro_networks import BROKEN_SIZE, CURVED, CURVED_SIZES, SEEDS, SILENCED, SIZES, Kind, Task, TaskResult
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.verdict import all_of

BY_SIZE = pytest.mark.parametrize("size", [pytest.param(size, marks=pytest.mark.evidence(f"base:{size}")) for size in SIZES])
CORRECTED = "every GELU replaced by ReLU and each fc2's bias corrected by the mean error, block after block, without training"
FIRST = Task(Kind.FIRST, "tiny")

# Failure signs: of every run that a default run distils anyway.
DISTILLED = (*(Task(Kind.LOCAL, size) for size in SIZES), Task(Kind.PAPER, "tiny"))
STILL, STARVED = (Task(Kind.VARIED, "tiny", setting=setting) for setting in (CONTROL, "data-tenth"))
BROKEN = Task(Kind.CONTROL, BROKEN_SIZE, setting="local")


def control_of(recipe: Kind, size: str) -> Task:
    return Task(Kind.CONTROL, size, setting=recipe.value)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recipe" not in metafunc.fixturenames:
        return
    recipes = [(Kind.LOCAL, size) for size in SIZES] + [(Kind.PAPER, "tiny")]
    if metafunc.config.getoption("full"):
        recipes += [(Kind.PAPER, size) for size in SIZES[1:]] + [(Kind.LOCAL_KD, size) for size in SIZES]
    behind = CURVED if metafunc.function.__name__.startswith("test_curved") else ""
    metafunc.parametrize(
        ("recipe", "size"),
        [
            pytest.param(
                recipe,
                size + behind,
                id=f"{recipe.value}-{size}",
                marks=pytest.mark.evidence(
                    *{f"base:{size}": None, f"base:{size}{behind}": None},
                    f"{recipe.value}:{size}{behind}",
                    str(control_of(recipe, size)),
                ),
            )
            for recipe, size in recipes
        ],
    )


@BY_SIZE
def test_naive_swap_loses(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, size: str) -> None:
    (base,) = micro_networks.get(Task(Kind.BASE, size))
    _swap_loses(claim, base, tier, "fp32-naive", "every GELU replaced by ReLU", at_least_pp=0.0)


@BY_SIZE
def test_bias_corrected_swap_loses(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, size: str) -> None:
    """Judged: what no constant shift repairs is at least the paper's bound; below it there is nothing to distil."""
    (base,) = micro_networks.get(Task(Kind.BASE, size))
    _swap_loses(claim, base, tier, "fp32-corrected", CORRECTED, at_least_pp=MARGIN_PP)


@pytest.mark.parametrize("size", [pytest.param(size, marks=pytest.mark.evidence(f"base:{size}")) for size in CURVED_SIZES])
def test_curved_networks_lose_after_bias_correction(
    claim: ClaimFixture, micro_networks: EvidencePool, tier: str, size: str
) -> None:
    """Judged: so do the networks that were made to need their GELU as a real one does (`verdicts.curved_teacher`)."""
    (base,) = micro_networks.get(Task(Kind.BASE, size))
    _swap_loses(claim, base, tier, "fp32-corrected", CORRECTED, at_least_pp=MARGIN_PP)


def _swap_loses(claim: ClaimFixture, base: TaskResult, tier: str, variant: str, how: str, *, at_least_pp: float) -> None:
    gelu, swapped = base.correct("fp32-gelu"), base.correct(variant)
    drop = paired_drop(gelu, swapped)
    claim.decide(
        real_loss(drop, at_least_pp=at_least_pp),
        Evidence(
            ran=f"FP32 GELU teacher and the same weights with {how}, on {base.images}",
            tier=tier,
            seconds=sum(seconds for step, seconds in base.seconds.items() if step.startswith("FP32")),
            control=loss_control(gelu, swapped, at_least_pp=at_least_pp),
            artifacts={"teacher": base.teacher_sha256},
            details=(f"top-1 {drop.reference_top1:.2f} % with GELU, {drop.candidate_top1:.2f} % after the swap",),
        ),
    )


def test_distillation_recovers(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, recipe: Kind, size: str) -> None:
    """Judged: within 0.5 pp of the teacher, and better than the naive swap."""
    base, distilled, control = micro_networks.get(Task(Kind.BASE, size), Task(recipe, size), control_of(recipe, size))
    naive, relu = base.correct("fp32-naive"), distilled.correct("fp32-relu")
    drop = paired_drop(base.correct("fp32-gelu"), relu)
    judgements = [non_inferiority(drop), gain(naive, relu, over="the naive swap")]
    claim.decide(all_of(judgements), distilled_evidence(base, distilled, tier, shuffled_control(base, control)))


def test_gain_over_bias_correction(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, recipe: Kind, size: str) -> None:
    """Judged: distillation is right more often than the swap whose mean error is corrected without any training."""
    base, distilled, control = micro_networks.get(Task(Kind.BASE, size), Task(recipe, size), control_of(recipe, size))

    def judge(student: np.ndarray) -> Judgement:
        return gain(base.correct("fp32-corrected"), student, over="the bias-corrected swap")

    judgement = judge(distilled.correct("fp32-relu"))
    claim.decide(judgement, distilled_evidence(base, distilled, tier, shuffled_control(base, control, judge)))


def test_curved_networks_gain_over_bias_correction(
    claim: ClaimFixture, micro_networks: EvidencePool, tier: str, recipe: Kind, size: str
) -> None:
    """Judged: the same on the networks that need their GELU."""
    base, distilled, control = curved(micro_networks, recipe, size)
    judgement = gain(base.correct("fp32-corrected"), distilled.correct("fp32-relu"), over="the bias-corrected swap")
    claim.decide(judgement, distilled_evidence(base, distilled, tier, control))


def test_curved_networks_recover(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, recipe: Kind, size: str) -> None:
    """Judged: distilled, they are within 0.5 pp of their teacher."""
    base, distilled, control = curved(micro_networks, recipe, size)
    drop = paired_drop(base.correct("fp32-gelu"), distilled.correct("fp32-relu"))
    claim.decide(non_inferiority(drop), distilled_evidence(base, distilled, tier, control))


def curved(micro_networks: EvidencePool, recipe: Kind, size: str) -> tuple[TaskResult, TaskResult, Control]:
    """The curved network, its student, and the control of the network from which it was made, by the same recipe."""
    plain = size.removesuffix(CURVED)
    base, distilled, parent, control = micro_networks.get(
        Task(Kind.BASE, size), Task(recipe, size), Task(Kind.BASE, plain), control_of(recipe, plain)
    )
    if distilled.teacher_sha256 != base.teacher_sha256:
        raise RuntimeError(f"{distilled.task} was taught by another network than the one that {base.task} judged")
    return base, distilled, shuffled_control(parent, control)


def distilled_evidence(base: TaskResult, distilled: TaskResult, tier: str, control: Control) -> Evidence:
    variants = {"GELU": (base, "fp32-gelu"), "naive": (base, "fp32-naive"), "bias-corrected": (base, "fp32-corrected")}
    top1 = {name: result.correct(variant) for name, (result, variant) in variants.items()}
    top1["distilled"] = distilled.correct("fp32-relu")
    return Evidence(
        ran=f"{distilled.task}: distilled live, one seed, from the shipped GELU teacher; judged on {base.images}",
        tier=tier,
        seconds=sum(distilled.seconds.values()),
        control=control,
        artifacts={"teacher": base.teacher_sha256},
        details=(
            "top-1 %: " + ", ".join(f"{100 * correct.mean():.2f} {name}" for name, correct in top1.items()),
            *(distilled.distillation or {}).get("warnings", ()),
            *failure_sign_details(base, distilled),
        ),
    )


@pytest.mark.evidence("base:tiny", *(str(Task(Kind.LOCAL, "tiny", seed)) for seed in SEEDS))
def test_other_seeds(claim: ClaimFixture, micro_networks: EvidencePool, tier: str) -> None:
    """Judged: the other seeds recover too, the first is judged above; the spread over all of them is reported beside it."""
    base, *seeds = micro_networks.get(Task(Kind.BASE, "tiny"), *(Task(Kind.LOCAL, "tiny", seed) for seed in SEEDS))
    gelu = base.correct("fp32-gelu")
    drops = [paired_drop(gelu, result.correct("fp32-relu")) for result in seeds]
    claim.decide(
        all_of([non_inferiority(drop) for drop in drops[1:]]),
        Evidence(
            ran=f"the tiny teacher distilled by 'local' with the seeds {', '.join(map(str, SEEDS))}, FP32, "
            f"judged on {base.images}; the chosen training images are the same, the random tokens of each step are not",
            tier=tier,
            seconds=sum(sum(result.seconds.values()) for result in seeds),
            control=naive_control(base),
            artifacts={"teacher": base.teacher_sha256},
            numbers=(
                drops[0].estimate(f"drop, seed {SEEDS[0]}"),
                *spread(drops, "seeds"),
                *(
                    estimate
                    for seed, result in zip(SEEDS, seeds, strict=True)
                    for estimate in gain(
                        base.correct("fp32-corrected"), result.correct("fp32-relu"), over=f"the bias-corrected swap, seed {seed}"
                    ).estimates
                ),
            ),
            details=tuple(
                f"seed {seed}: top-1 {drop.candidate_top1:.2f} %, exact McNemar p = {drop.mcnemar_p:.2g} against the teacher, "
                f"{drop.discordant} discordant images"
                for seed, drop in zip(SEEDS, drops, strict=True)
            ),
        ),
    )


def naive_control(base: TaskResult) -> Control:
    wrong = non_inferiority(paired_drop(base.correct("fp32-gelu"), base.correct("fp32-naive")))
    return Control.refused("the network whose GELUs are all swapped and not distilled must not pass", wrong)


# ------------------------------------------------------------------------- the first experiment: one block, then all others


@pytest.mark.evidence("base:tiny", str(FIRST))
def test_first_block_swap_loses(claim: ClaimFixture, micro_networks: EvidencePool, tier: str) -> None:
    """Judged: replacing the first block's GELU alone, and nothing else, already costs accuracy."""
    base, first = micro_networks.get(Task(Kind.BASE, "tiny"), FIRST)
    gelu, naive = base.correct("fp32-gelu"), first.correct("fp32-naive")
    everything = paired_drop(gelu, base.correct("fp32-naive"))
    claim.decide(
        real_loss(paired_drop(gelu, naive)),
        Evidence(
            ran=f"FP32 GELU teacher and the same weights with ReLU in the first block alone, on {base.images}",
            tier=tier,
            seconds=first.seconds["FP32 first block, naive"],
            control=loss_control(gelu, naive),
            artifacts={"teacher": base.teacher_sha256},
            numbers=(everything.estimate("drop when every block is swapped"),),
        ),
    )


@pytest.mark.evidence("base:tiny", str(FIRST))
@pytest.mark.parametrize("by", ["local", "paper"])
def test_first_block_recovers(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, by: str) -> None:
    """Judged: with ReLU in the first block alone, distilled, the network is within 0.5 pp of its teacher."""
    base, first = micro_networks.get(Task(Kind.BASE, "tiny"), FIRST)
    gelu, distilled = base.correct("fp32-gelu"), first.correct(f"fp32-{by}")
    claim.decide(
        non_inferiority(paired_drop(gelu, distilled)),
        Evidence(
            ran=f"ReLU in the first block alone, distilled by {by!r}; FP32, one seed, on {base.images}; no latency",
            tier=tier,
            seconds=first.seconds[f"distilled by {by}"],
            control=naive_control(base),
            artifacts={"teacher": base.teacher_sha256},
            numbers=(
                paired_drop(gelu, first.correct("fp32-naive")).estimate("drop of the naive swap of this block"),
                *gain(first.correct("fp32-naive"), distilled, over="the naive swap of this block").estimates,
            ),
        ),
    )


# -------------------------------------------------------------------------------------- the paper's signs of a failed method


SIGNS = ("distillation-does-not-converge", "distillation-overfits", "units-die", "agreement-is-chance")


@pytest.mark.evidence(*(f"base:{size}" for size in SIZES), *map(str, (*DISTILLED, STILL, STARVED, BROKEN)))
@pytest.mark.parametrize("sign", SIGNS)
def test_no_sign_of_failure(claim: ClaimFixture, micro_networks: EvidencePool, tier: str, sign: str) -> None:
    """Judged: no run of this table shows the sign, by the bounds stated in `failure_signs`; a run that does must be refused.

    The paper's two other signs are judged where they are measured: accuracy below its bound here and in c03, latency in c06.
    """
    runs = dict(zip(map(str, DISTILLED), micro_networks.get(*DISTILLED), strict=True))
    teachers = dict(zip(SIZES, micro_networks.get(*(Task(Kind.BASE, size) for size in SIZES)), strict=True))
    still, starved, broken = micro_networks.get(STILL, STARVED, BROKEN)
    if sign == "distillation-does-not-converge":
        judgements = [converges(recorded(run), name=name) for name, run in runs.items()]
        control = Control.refused("a recipe with a learning rate of zero", converges(recorded(still), name=still.task))
    elif sign == "distillation-overfits":
        judgements = [does_not_overfit(recorded(run), name=name) for name, run in runs.items()]
        control = Control.refused("a recipe that fits 60 images", does_not_overfit(recorded(starved), name=starved.task))
    elif sign == "units-die":
        judgements = [units_live(run.dead_units, name=name) for name, run in runs.items()]
        what = f"a network in which {100 * SILENCED:.0f} % of every MLP's units were silenced"
        control = Control.refused(what, units_live(broken.silenced_units, name=broken.task))
    else:
        pairs = {str(task): (teachers[task.size].predictions["fp32-gelu"], runs[str(task)]) for task in DISTILLED}
        judgements = [agrees_beyond_chance(gelu, run.predictions["fp32-relu"], name=name) for name, (gelu, run) in pairs.items()]
        name, (gelu, run) = next(iter(pairs.items()))
        others = np.random.default_rng(0).permutation(run.predictions["fp32-relu"])
        control = Control.refused(f"{name}'s answers to other images", agrees_beyond_chance(gelu, others, name="other images"))
    claim.decide(
        all_of(judgements),
        Evidence(
            ran=f"{', '.join(runs)}: the records of distillation, hidden units on 500 training images, answers on "
            f"{teachers['tiny'].images}",
            tier=tier,
            seconds=sum(sum(run.seconds.values()) for run in runs.values()),
            control=control,
            artifacts={f"teacher, {size}": base.teacher_sha256 for size, base in teachers.items()},
            details=tuple(
                f"{task}: {line}" for task in DISTILLED for line in failure_sign_details(teachers[task.size], runs[str(task)])
            ),
        ),
    )


def recorded(result: TaskResult) -> Mapping[str, Any]:
    if result.distillation is None:
        raise ValueError(f"{result.task} has no record of its distillation")
    return result.distillation


@pytest.mark.parametrize("size", SIZES)
def test_on_imagenet(claim: ClaimFixture, imagenet: ImageNet, size: str) -> None:
    ran = f"{live(size)}, FP32"
    if claim.lacks(
        *NEEDED,
        would_run=f"{ran}; paired non-inferiority at 0.5 pp to its teacher on the 50,000 validation images, the loss of the "
        "naive swap and the gain over it",
    ):
        return
    result = imagenet.result(size)
    judgement, control = recovery(result)
    claim.decide(judgement, imagenet_evidence(result, ran, control))
