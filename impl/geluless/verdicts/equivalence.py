"""Tests of paired accuracy: from the predictions of two networks on the same images to a verdict.

The rule is the same everywhere: the whole interval on the good side of the margin reproduces, the whole interval on the
bad side refutes, anything else is undecided and says how many samples would decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from geluless.verdicts.statistics import (
    ONE_SIDED,
    Interval,
    PairedCounts,
    mcnemar_exact,
    mean_ratio,
    paired_difference,
    relative_drop,
    samples_to_decide,
)
from geluless.verdicts.verdict import Estimate, Judgement, Verdict

MARGIN_PP = 0.5  # the paper's accuracy bound, read as percentage points
MARGIN_PERCENT = 0.5  # and read as per cent of the reference accuracy; the abstract does not say which


@dataclass(frozen=True)
class PairedDrop:
    """Accuracy lost from reference to candidate on the same images, with one-sided 95 % bounds.

    `drop_pp` and its interval are percentage points, `relative` per cent of the reference accuracy; negative is a gain.
    """

    counts: PairedCounts
    drop_pp: Interval
    relative: Interval
    mcnemar_p: float

    @property
    def n(self) -> int:
        return self.counts.n

    @property
    def discordant(self) -> int:
        return self.counts.discordant

    @property
    def reference_top1(self) -> float:
        """Per cent."""
        return 100 * (self.counts.both + self.counts.lost) / self.n if self.n else math.nan

    @property
    def candidate_top1(self) -> float:
        """Per cent."""
        return 100 * (self.counts.both + self.counts.gained) / self.n if self.n else math.nan

    def estimate(self, name: str = "drop", *, margin: float | None = None) -> Estimate:
        return Estimate(name, self.drop_pp.value, self.drop_pp.low, self.drop_pp.high, "pp", self.n, margin)


def paired_drop(reference_correct: np.ndarray, candidate_correct: np.ndarray) -> PairedDrop:
    """Compare bool [N] with bool [N], the same images in the same order. Raises ValueError for anything else."""
    counts = PairedCounts.of(reference_correct, candidate_correct)
    difference, relative = paired_difference(counts), relative_drop(counts)
    return PairedDrop(counts, _percent(difference), _percent(relative), mcnemar_exact(counts))


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.value, 100 * interval.low, 100 * interval.high)


def _negative(interval: Interval) -> Interval:
    return Interval(-interval.value, -interval.high, -interval.low)


def decide_below(interval: Interval, margin: float) -> Verdict:
    """REPRODUCED when the upper bound is below the margin, REFUTED when the lower bound is above it."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return Verdict.UNDECIDED
    if interval.high < margin:
        return Verdict.REPRODUCED
    return Verdict.REFUTED if interval.low > margin else Verdict.UNDECIDED


def decide_above(interval: Interval, margin: float) -> Verdict:
    """REPRODUCED when the lower bound is above the margin, REFUTED when the upper bound is below it."""
    return decide_below(_negative(interval), -margin)


def non_inferiority(drop: PairedDrop, *, margin_pp: float = MARGIN_PP) -> Judgement:
    """Is the accuracy drop below `margin_pp` percentage points?"""
    verdict = decide_below(drop.drop_pp, margin_pp)
    deviation = 100 * math.sqrt(max(drop.discordant / drop.n - (drop.drop_pp.value / 100) ** 2, 0)) if drop.n else math.nan
    return _judgement(verdict, "drop", drop.drop_pp, margin_pp, "pp", drop.n, deviation)


def relative_non_inferiority(drop: PairedDrop, *, margin_percent: float = MARGIN_PERCENT) -> Judgement:
    """Is the accuracy drop below `margin_percent` per cent of the reference accuracy?"""
    verdict = decide_below(drop.relative, margin_percent)
    # Deviation per image of the linear contrast (1 - drop) * reference - candidate, in per cent of the reference accuracy.
    right = drop.counts.both + drop.counts.lost
    if drop.n and right:
        keep = 1 - drop.relative.value / 100
        values = np.repeat([keep - 1, keep, -1.0, 0.0], [drop.counts.both, drop.counts.lost, drop.counts.gained, _neither(drop)])
        deviation = 100 * float(values.std()) / (right / drop.n)
    else:
        deviation = math.nan
    return _judgement(verdict, "relative drop", drop.relative, margin_percent, "%", drop.n, deviation)


def _neither(drop: PairedDrop) -> int:
    return drop.n - drop.counts.both - drop.counts.discordant


def _judgement(verdict: Verdict, name: str, interval: Interval, margin: float, unit: str, n: int, deviation: float) -> Judgement:
    estimate = Estimate(name, interval.value, interval.low, interval.high, unit, n, margin)
    if verdict is not Verdict.UNDECIDED:
        relation = "below" if verdict is Verdict.REPRODUCED else "above"
        return Judgement(verdict, f"{estimate}: wholly {relation} {margin:g} {unit}", (estimate,))
    if n == 0:
        return Judgement(verdict, f"no samples: nothing is known about the {name}", (estimate,))
    needed = samples_to_decide(interval.value - margin, deviation)
    advice = f"about {needed:,} samples would decide" if needed else "no number of samples would decide: it lies on the margin"
    return Judgement(verdict, f"{estimate}: straddles {margin:g} {unit}; {advice}", (estimate,), needed)


def real_loss(drop: PairedDrop, *, at_least_pp: float = 0.0, p_below: float = 0.001) -> Judgement:
    """Does the candidate really lose more than `at_least_pp`: the interval wholly above it, exact McNemar p below `p_below`?

    An interval wholly below `at_least_pp` refutes.
    """
    estimate = drop.estimate(margin=at_least_pp)
    sentence = f"{estimate}, exact McNemar p = {drop.mcnemar_p:.2g} over {drop.discordant} discordant images"
    verdict, significant = decide_above(drop.drop_pp, at_least_pp), drop.mcnemar_p < p_below
    if verdict is Verdict.REFUTED or (verdict is Verdict.REPRODUCED and significant):
        return Judgement(verdict, sentence, (estimate,))
    deviation = 100 * math.sqrt(drop.discordant / drop.n) if drop.n else math.nan
    needed = samples_to_decide(drop.drop_pp.value - at_least_pp, deviation, confidence=1 - p_below / 2)
    why = f"straddles {at_least_pp:g} pp" if significant else f"not below {p_below:g}"
    return Judgement(Verdict.UNDECIDED, f"{sentence}: {why}", (estimate,), needed)


def better_than(drop_to_worse: PairedDrop, *, name: str = "gain over it") -> Judgement:
    """Is the second network of `paired_drop(worse, better)` right more often than the first?"""
    interval = _negative(drop_to_worse.drop_pp)
    estimate = Estimate(name, interval.value, interval.low, interval.high, "pp", drop_to_worse.n, 0.0)
    verdict = decide_above(interval, 0.0)
    deviation = 100 * math.sqrt(drop_to_worse.discordant / drop_to_worse.n) if drop_to_worse.n else math.nan
    needed = samples_to_decide(interval.value, deviation) if verdict is Verdict.UNDECIDED else None
    return Judgement(verdict, str(estimate), (estimate,), needed)


def ratio_above_one(
    candidate: np.ndarray, reference: np.ndarray, *, name: str, confidence: float = ONE_SIDED, seed: int = 0
) -> Judgement:
    """Is the mean error of `candidate` larger than that of `reference`, over float [N] errors of the same images?"""
    interval = mean_ratio(candidate, reference, confidence=confidence, seed=seed)
    estimate = Estimate(name, interval.value, interval.low, interval.high, "ratio", len(reference), 1.0)
    verdict = decide_above(interval, 1.0)
    contrast = (candidate - interval.value * reference) / reference.mean()
    needed = samples_to_decide(interval.value - 1, float(contrast.std())) if verdict is Verdict.UNDECIDED else None
    return Judgement(verdict, str(estimate), (estimate,), needed)
