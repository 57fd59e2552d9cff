"""From a timing study to a verdict: ratios of processes yet to come, with one-sided 95 % bounds.

A ratio is judged like every other number: wholly on the good side of its bound, wholly on the bad side, or undecided. Beside each
verdict stands the same judgement of a variant against itself, timed in the same blocks: what the harness would say about nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy import stats
from statsmodels.stats.multitest import multipletests

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
    low, high = 1 - percent / 100, 1 + percent / 100
    if low < estimate.low and estimate.high < high:
        verdict = Verdict.REPRODUCED
    elif estimate.low > high or estimate.high < low:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDECIDED
    nearest = high if estimate.value > 1 else low
    return _judgement(verdict, estimate, findings, {name: 1.0, against: -1.0}, nearest, f"within {percent:g} % of one")


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


def holm_at_every(findings: Mapping[str, Findings], name: str, against: str) -> Judgement:
    """Is `name` faster than `against` under every condition, by more than can be told from nothing? Each p-value is Student's
    over processes, Holm-corrected."""
    p_values = [_one_sided_p(found, name, against) for found in findings.values()]
    faster, corrected, _, _ = multipletests(p_values, alpha=1 - ONE_SIDED, method="holm")
    estimates, parts = [], []
    for (condition, found), p in zip(findings.items(), corrected, strict=True):
        estimate = ratio_estimate(found, name, against, margin=1 / RESOLUTION, label=condition)
        estimates.append(estimate)
        parts.append(f"{condition} {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] (p {p:.2g})")
    slower = any(estimate.low > 1 / RESOLUTION for estimate in estimates)
    verdict = Verdict.REPRODUCED if faster.all() else Verdict.REFUTED if slower else Verdict.UNDECIDED
    return Judgement(verdict, f"time of {name} over {against}: {'; '.join(parts)}", tuple(estimates))


def _one_sided_p(found: Findings, name: str, against: str) -> float:
    logs = intervals.process_contrasts(found.samples, {name: 1.0, against: -1.0})
    return float(stats.ttest_1samp(logs, -math.log(RESOLUTION), alternative="less").pvalue)
