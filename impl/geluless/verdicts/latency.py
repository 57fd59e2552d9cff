"""From a timing study to a verdict: ratios of processes yet to come, with one-sided 95 % bounds.

A ratio is judged like every other number: wholly on the good side of its bound, wholly on the bad side, or undecided. What is
judged here is one run; `timed.agreed` asks for the same of another run and of another engine of the variant, and
`timing_controls` puts nothing, and planted effects, to the same judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy import stats

from geluless.bench import intervals
from geluless.bench.harness import Findings
from geluless.verdicts.equivalence import decide_above, decide_below
from geluless.verdicts.statistics import ONE_SIDED, Interval, samples_to_decide
from geluless.verdicts.verdict import Estimate, Judgement, Verdict, all_of

TWO_SIDED = 2 * ONE_SIDED - 1  # the confidence of an interval both of whose bounds are one-sided
PAPER_RATIO = 0.89  # at least 11 % lower latency
EQUIVALENT_PERCENT = 2.0
# Two engines of the same variant differ by up to 0.3 %, in every process alike: where their memory lies is no chance that more
# samples would average out. No difference below half a per cent is claimed; `nox -s harness` shows what that is worth.
RESOLUTION = 1.005


def contrast(findings: Findings, weights: Mapping[str, float]) -> Interval:
    """exp(sum(weight * log time)), each bound one-sided at 95 %."""
    found = intervals.contrast_over_processes(findings.samples, weights, confidence=TWO_SIDED)
    return Interval(found.value, found.low, found.high)


def latency_ratio(findings: Findings, name: str, against: str) -> Interval:
    return contrast(findings, {name: 1.0, against: -1.0})


def contrast_estimate(findings: Findings, weights: Mapping[str, float], *, label: str, margin: float | None = None) -> Estimate:
    interval = contrast(findings, weights)
    return Estimate(label, interval.value, interval.low, interval.high, "ratio", findings.samples.blocks, margin)


def ratio_estimate(findings: Findings, name: str, against: str, *, margin: float | None = None, label: str = "") -> Estimate:
    text = label or f"time of {name} over {against}"
    return contrast_estimate(findings, {name: 1.0, against: -1.0}, label=text, margin=margin)


def at_most(findings: Findings, name: str, against: str, *, bound: float) -> Judgement:
    """Is time(name) / time(against) below `bound`?"""
    estimate = ratio_estimate(findings, name, against, margin=bound)
    interval = Interval(estimate.value, estimate.low, estimate.high)
    verdict = decide_below(interval, bound)
    return _judgement(verdict, estimate, findings, {name: 1.0, against: -1.0}, bound)


def eleven_percent_faster(findings: Findings, name: str, against: str) -> Judgement:
    """The paper's key claim about latency, c06: does `name` take at most PAPER_RATIO of the time of `against`?"""
    return at_most(findings, name, against, bound=PAPER_RATIO)


def faster(findings: Findings, name: str, against: str) -> Judgement:
    """Does `name` take less time than `against`, by more than can be told from nothing?"""
    return at_most(findings, name, against, bound=1 / RESOLUTION)


def saves_time(findings: Findings, costly: str, cheap: str, *, label: str) -> Judgement:
    """Does `cheap` instead of `costly` save a share of the time: 100 * (1 - ratio) per cent, above what is told from nothing?"""
    interval, bound = latency_ratio(findings, cheap, costly), 1 / RESOLUTION
    low, high = 100 * (1 - interval.high), 100 * (1 - interval.low)
    margin = 100 * (1 - bound)
    estimate = Estimate(label, 100 * (1 - interval.value), low, high, "% of the time", findings.samples.blocks, margin)
    return _judgement(decide_below(interval, bound), estimate, findings, {cheap: 1.0, costly: -1.0}, bound)


def equivalent(findings: Findings, name: str, against: str, *, percent: float = EQUIVALENT_PERCENT) -> Judgement:
    """Do the times differ by less than `percent`: two one-sided tests, of which both must pass."""
    estimate = ratio_estimate(findings, name, against)
    nearest = 1 + math.copysign(percent / 100, estimate.value - 1)
    wanted = f"within {percent:g} % of one"
    return _judgement(_near_one(estimate, percent), estimate, findings, {name: 1.0, against: -1.0}, nearest, wanted)


def _near_one(estimate: Estimate, percent: float) -> Verdict:
    low, high = 1 - percent / 100, 1 + percent / 100
    if low < estimate.low and estimate.high < high:
        return Verdict.REPRODUCED
    return Verdict.REFUTED if estimate.low > high or estimate.high < low else Verdict.UNDECIDED


def same_ratio(
    findings: Findings, pair: tuple[str, str], elsewhere: Findings, other: tuple[str, str], *, label: str
) -> Judgement:
    """Is the ratio of the two times of `pair` what that of `other` is in a study of its own, within EQUIVALENT_PERCENT?

    The two studies share no process: the change is a difference of two means of logarithms over processes (Welch's interval).
    """
    logs, others = (
        intervals.process_contrasts(found.samples, {name: 1.0, against: -1.0})
        for found, (name, against) in ((findings, pair), (elsewhere, other))
    )
    bounds = stats.ttest_ind(logs, others, equal_var=False).confidence_interval(TWO_SIDED)
    value, low, high = (math.exp(x) for x in (logs.mean() - others.mean(), bounds.low, bounds.high))
    estimate = Estimate(label, value, low, high, "ratio", findings.samples.blocks)
    verdict, ratio = _near_one(estimate, EQUIVALENT_PERCENT), math.exp(logs.mean())
    return Judgement(verdict, f"{pair[0]} takes {ratio:.3f} of {pair[1]}; {estimate}", (estimate,))


def at_every(judgements: Mapping[str, Judgement]) -> Judgement:
    """Intersection-union over named conditions."""
    return all_of([_named(name, judgement) for name, judgement in judgements.items()])


def _named(name: str, judgement: Judgement) -> Judgement:
    return Judgement(judgement.verdict, f"{name}: {judgement.sentence}", judgement.estimates, judgement.n_needed)


def _judgement(
    verdict: Verdict, estimate: Estimate, findings: Findings, weights: Mapping[str, float], bound: float, wanted: str = ""
) -> Judgement:
    """The sentence, and for an undecided one how many processes would decide."""
    if verdict is not Verdict.UNDECIDED:
        return Judgement(verdict, str(estimate), (estimate,))
    logs = intervals.process_contrasts(findings.samples, weights)
    needed = samples_to_decide(float(logs.mean()) - math.log(bound), float(logs.std(ddof=1)))
    advice = f"about {needed:,} processes would decide" if needed else "no number of processes would decide: it lies on the bound"
    return Judgement(verdict, f"{estimate}: {wanted or 'straddles the bound'}; {advice}", (estimate,), needed)


def contrast_above_one(findings: Findings, weights: Mapping[str, float], *, label: str) -> Judgement:
    """Is exp(sum(weight * log time)) above one, by more than can be told from nothing?"""
    estimate = contrast_estimate(findings, weights, label=label, margin=RESOLUTION)
    interval = Interval(estimate.value, estimate.low, estimate.high)
    return _judgement(decide_above(interval, RESOLUTION), estimate, findings, weights, RESOLUTION)
