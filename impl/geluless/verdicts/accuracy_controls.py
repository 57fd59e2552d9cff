"""Controls of the accuracy claims: answers whose truth is known, put to the judges that judge the networks.

Each decides on 1,000 to 10,000 images: a control that could go either way would show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from geluless.verdicts.ablation import CONTROL_IMAGES
from geluless.verdicts.equivalence import better_than, non_inferiority, paired_drop, real_loss
from geluless.verdicts.micro_networks import TaskResult
from geluless.verdicts.statistics import deal_at_random
from geluless.verdicts.verdict import Control, Judgement, Verdict

DEALS = 200
CALLED_BY_CHANCE = 2  # of DEALS, at most: with p < 0.001 one in 2,000 is expected, more than two in 200 are less likely than that
HIDES = 8  # standard errors: a planted loss that chance hides in fewer than one deal of 100,000


def loss_control(
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    at_least_pp: float = 0.0,
    judge: Callable[..., Judgement] = real_loss,
    deals: int = DEALS,
) -> Control:
    """Of `real_loss`: no loss where there is none, and one where one was planted. Both bool [N], right or wrong.

    Where there is none: each image's two answers are dealt to the two networks by a fair coin, so that they differ on as many
    images as the networks do and neither is better. Planted: right answers of the second are made wrong, eight standard errors
    more than asked for.
    """
    count = _planted(reference, candidate, at_least_pp)
    called = found = 0
    for seed in range(deals):
        one, other = deal_at_random(reference, candidate, seed=seed)
        called += _called(judge(paired_drop(one, other), at_least_pp=at_least_pp))
        found += _called(judge(paired_drop(one, spoiled(other, count, seed=seed)), at_least_pp=at_least_pp))
    return Control(
        "the two networks' answers, dealt to two labels by a fair coin per image, must not be called a loss (by chance "
        f"{CALLED_BY_CHANCE} of {deals} deals at most), and with {count} right answers of the second made wrong they must",
        f"called in {called} of {deals} deals, with the planted loss of {100 * count / len(reference):.2f} points in {found}",
        called <= CALLED_BY_CHANCE and found == deals,
    )


def _called(judgement: Judgement) -> bool:
    return judgement.verdict is Verdict.REPRODUCED


def _planted(reference: np.ndarray, candidate: np.ndarray, at_least_pp: float) -> int:
    """Answers to make wrong: k = at_least + HIDES sqrt(d + k), for d images on which the networks differ; all where fewer are
    right."""
    asked, differ = at_least_pp / 100 * len(reference), int((reference != candidate).sum())
    k = asked + (HIDES**2 + HIDES * math.sqrt(HIDES**2 + 4 * (differ + asked))) / 2
    return min(math.ceil(k), int((reference & candidate).sum()))


def spoiled(correct: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """bool [N] with `count` of its right answers made wrong. ValueError where there are fewer."""
    right = np.flatnonzero(correct)
    if count > len(right):
        raise ValueError(f"{count} right answers to make wrong, there are {len(right)}")
    worse = correct.copy()
    worse[np.random.default_rng(seed).choice(right, count, replace=False)] = False
    return worse


def shuffled_control(base: TaskResult, control: TaskResult, judge: Callable[[np.ndarray], Judgement] | None = None) -> Control:
    """Of recovery: a student that was taught other images' targets must be refused, and its twin with its own be better.

    `judge` says of the student's answers, bool [n], the first n images, what the claim says; else it is non-inferiority to
    FP32 GELU.
    """
    shuffled, own = (control.correct(f"fp32-{name}") for name in ("shuffled", "own-targets"))
    gelu = base.correct("fp32-gelu")[: len(shuffled)]
    wrong = judge(shuffled) if judge is not None else non_inferiority(paired_drop(gelu, shuffled))
    twin = better_than(paired_drop(shuffled, own), name="gain of the same run with its own targets")
    return Control.every(
        [
            Control.refused(
                f"the same recipe at this size, on {CONTROL_IMAGES} images of which the teacher answers for another one, must "
                f"be refused on the first {len(shuffled):,} test images",
                wrong,
            ),
            Control.accepted(
                f"the same run with its own targets must be better ({paired_drop(gelu, own).estimate('drop to FP32 GELU')})", twin
            ),
        ]
    )


def gain(worse: np.ndarray, better: np.ndarray, *, over: str) -> Judgement:
    """Is the second right more often than the first? Of two bool [N] that may have seen the first n images only."""
    n = min(len(worse), len(better))
    return better_than(paired_drop(worse[:n], better[:n]), name=f"gain over {over}")
