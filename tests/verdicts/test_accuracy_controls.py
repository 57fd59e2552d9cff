"""The controls of the accuracy claims, and the judges of the failure signs: each refuses what it was made to refuse."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest

from geluless.distillation import Status
from geluless.verdicts.accuracy_controls import DEALS, gain, loss_control, spoiled
from geluless.verdicts.equivalence import PairedDrop, paired_drop, real_loss
from geluless.verdicts.failure_signs import (
    DEAD_PERCENT,
    STEPS_PERCENT,
    agrees_beyond_chance,
    converges,
    does_not_overfit,
    units_live,
)
from geluless.verdicts.verdict import Control, Judgement, Verdict

N = 10_000


def answers(*, lost: int, gained: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """bool [N] twice, in random order: 9,000 right in the first, `lost` of them wrong in the second, `gained` others right."""
    reference, candidate = np.arange(N) < 9000, np.arange(N) < 9000 - lost
    candidate[9000 : 9000 + gained] = True
    order = np.random.default_rng(seed).permutation(N)
    return reference[order], candidate[order]


def held(control: Control) -> bool | None:
    return control.held


# --------------------------------------------------------------------------------------------------- the control of a loss


@pytest.mark.parametrize("at_least_pp", [0.0, 0.5])
@pytest.mark.parametrize(("lost", "gained"), [(227, 116), (40, 38), (900, 100), (0, 0)])
def test_a_coin_loses_nothing_and_a_planted_loss_is_called(lost: int, gained: int, at_least_pp: float) -> None:
    control = loss_control(*answers(lost=lost, gained=gained), at_least_pp=at_least_pp)
    assert held(control), control.observed
    assert f"in {DEALS}" in control.observed


def _sign_alone(drop: PairedDrop, *, at_least_pp: float) -> Judgement:
    verdict = Verdict.REPRODUCED if drop.drop_pp.value > at_least_pp else Verdict.UNDECIDED
    return Judgement(verdict, "by its sign")


def _never(drop: PairedDrop, *, at_least_pp: float) -> Judgement:
    return Judgement(Verdict.UNDECIDED, "never")


@pytest.mark.parametrize("judge", [_sign_alone, _never, functools.partial(real_loss, p_below=0.1)], ids=["sign", "never", "lax"])
def test_a_judge_that_calls_chance_a_loss_or_calls_nothing_is_found_out(judge: Any) -> None:
    assert not held(loss_control(*answers(lost=227, gained=116), judge=judge))


def test_spoiled_answers_are_so_many_fewer() -> None:
    right = answers(lost=0, gained=0)[0]
    worse = spoiled(right, 137)
    assert (right.sum() - worse.sum(), int((worse & ~right).sum())) == (137, 0)
    with pytest.raises(ValueError, match="there are 9000"):
        spoiled(right, 9001)


@pytest.mark.parametrize(
    ("lost", "gained", "at_least_pp", "verdict"),
    [
        (227, 116, 0.0, Verdict.REPRODUCED),
        (227, 116, 0.5, Verdict.REPRODUCED),
        (160, 100, 0.5, Verdict.UNDECIDED),  # real, and perhaps smaller
        (60, 50, 0.5, Verdict.REFUTED),
        (60, 50, 0.0, Verdict.UNDECIDED),
        (50, 110, 0.0, Verdict.REFUTED),
    ],
)
def test_a_loss_is_real_and_as_large_as_asked_for(lost: int, gained: int, at_least_pp: float, verdict: Verdict) -> None:
    judgement = real_loss(paired_drop(*answers(lost=lost, gained=gained)), at_least_pp=at_least_pp)
    assert judgement.verdict is verdict, judgement.sentence
    assert (judgement.n_needed is not None) == (verdict is Verdict.UNDECIDED)
    assert judgement.estimates[0].margin == at_least_pp


def test_a_gain_is_judged_on_the_images_that_both_have_seen() -> None:
    better, worse = answers(lost=200, gained=20)
    assert gain(worse, better, over="it").verdict is Verdict.REPRODUCED
    assert gain(better, worse, over="it").verdict is Verdict.REFUTED
    assert gain(better, worse[:1000], over="it").estimates[0].n == 1000


# ----------------------------------------------------------------------------------------------------- the failure signs


def steps(*statuses: Status, loss: float = 0.5) -> dict[str, Any]:
    return {"records": [{"status": status.value, "loss_before": 1.0, "loss": loss, "curve": []} for status in statuses]}


OK, NOT, OVERFIT = Status.OK, Status.NOT_CONVERGED, Status.OVERFIT


@pytest.mark.parametrize(
    ("judge", "run", "verdict"),
    [
        (converges, steps(*[OK] * 12), Verdict.REPRODUCED),
        (converges, steps(*[OK] * 10, NOT, NOT), Verdict.REPRODUCED),
        (converges, steps(*[OK] * 9, NOT, NOT, NOT), Verdict.REFUTED),
        (converges, steps(*[OK] * 12, loss=1.0), Verdict.REFUTED),  # it stood still, whatever its status says
        (converges, steps(*[OK] * 12, loss=math.nan), Verdict.REFUTED),
        (converges, steps(*[OVERFIT] * 12), Verdict.REPRODUCED),
        (does_not_overfit, steps(*[OK] * 10, OVERFIT, OVERFIT), Verdict.REPRODUCED),
        (does_not_overfit, steps(*[OK] * 9, OVERFIT, OVERFIT, OVERFIT), Verdict.REFUTED),
        (does_not_overfit, steps(*[NOT] * 12), Verdict.REPRODUCED),
    ],
)
def test_a_quarter_of_the_steps_with_a_sign_is_the_sign(judge: Any, run: dict[str, Any], verdict: Verdict) -> None:
    judgement = judge(run, name="run")
    assert judgement.verdict is verdict, judgement.sentence
    assert judgement.estimates[0].margin == STEPS_PERCENT


def test_dead_units_are_counted_against_their_bound() -> None:
    assert units_live({"a": 0.05, "b": 0.14}, name="run").verdict is Verdict.REPRODUCED
    assert units_live({"a": 0.06, "b": 0.15}, name="run").verdict is Verdict.REFUTED
    assert units_live({"a": 0.1}, name="run").estimates[0].margin == DEAD_PERCENT


@pytest.mark.parametrize("judge", [converges, does_not_overfit])
def test_a_run_without_records_shows_nothing(judge: Any) -> None:
    with pytest.raises(ValueError, match="nothing was recorded"):
        judge(steps(), name="run")
    with pytest.raises(ValueError, match="nothing was recorded"):
        units_live({}, name="run")


@pytest.mark.parametrize(
    ("copied", "verdict"), [(1.0, Verdict.REPRODUCED), (0.9, Verdict.REPRODUCED), (0.2, Verdict.REFUTED), (0.0, Verdict.REFUTED)]
)
def test_agreement_by_chance_is_no_agreement(copied: float, verdict: Verdict) -> None:
    random = np.random.default_rng(0)
    teacher, guess = random.integers(0, 10, (2, 2000)).astype(np.uint8)
    student = np.where(random.random(2000) < copied, teacher, guess)
    assert agrees_beyond_chance(teacher, student, name="run").verdict is verdict


def test_a_network_that_always_says_the_same_is_not_taken_to_agree() -> None:
    constant = np.zeros(2000, np.uint8)
    assert agrees_beyond_chance(constant, constant, name="run").verdict is Verdict.REFUTED
    teacher = np.random.default_rng(0).integers(0, 10, 2000).astype(np.uint8)
    assert agrees_beyond_chance(teacher, constant, name="run").verdict is Verdict.REFUTED
