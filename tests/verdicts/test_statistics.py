"""Laws of the paired statistics, checked against published values, brute force, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm

from geluless.verdicts import Verdict
from geluless.verdicts.equivalence import (
    better_than,
    decide_above,
    decide_below,
    non_inferiority,
    paired_drop,
    ratio_above_one,
    real_loss,
    relative_non_inferiority,
)
from geluless.verdicts.statistics import (
    Interval,
    PairedCounts,
    deal_at_random,
    mcnemar_exact,
    mean_ratio,
    paired_difference,
    relative_drop,
    samples_to_decide,
)

TWO_SIDED_95 = 0.975  # two one-sided bounds of 97.5 % make the usual 95 % interval


def outcomes(n: int, both: int, lost: int, gained: int) -> tuple[np.ndarray, np.ndarray]:
    reference = np.repeat([True, True, False, False], [both, lost, gained, n - both - lost - gained])
    candidate = np.repeat([True, False, True, False], [both, lost, gained, n - both - lost - gained])
    return reference, candidate


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Airway hyper-responsiveness and complete response: Fagerland, Lydersen & Laake's examples of Tango's interval.
        ((1, 1, 7, 12), -0.5172, -0.0260),
        ((59, 6, 16, 80), -0.1240, -0.0054),
    ],
)
def test_tango_interval_has_its_published_values(table: tuple[int, int, int, int], low: float, high: float) -> None:
    both, lost, gained, _ = table
    interval = paired_difference(PairedCounts(sum(table), both, lost, gained), confidence=TWO_SIDED_95)
    assert interval.low == pytest.approx(low, abs=6e-5)
    assert interval.high == pytest.approx(high, abs=6e-5)


def test_tang_ratio_interval_has_its_published_value() -> None:
    # Published as the ratio 65 / 75 = 0.8667 [0.7476, 0.9876]: our candidate is their first column, our reference the second.
    interval = relative_drop(PairedCounts(161, 59, 16, 6), confidence=TWO_SIDED_95)
    assert 1 - interval.value == pytest.approx(65 / 75)
    assert 1 - interval.high == pytest.approx(0.7476, abs=6e-5)
    assert 1 - interval.low == pytest.approx(0.9876, abs=6e-5)


@pytest.mark.parametrize(("lost", "gained"), [(0, 4), (7, 1), (40, 20), (5, 5)])
def test_zero_is_on_the_bound_exactly_where_mcnemar_rejects(lost: int, gained: int) -> None:
    """At difference 0 the score statistic is McNemar's (lost - gained) / sqrt(lost + gained), for both intervals."""
    z = (lost - gained) / math.sqrt(lost + gained)
    counts = PairedCounts(200, 100, lost, gained)
    for interval_of in (paired_difference, relative_drop):
        inside = interval_of(counts, confidence=norm.cdf(abs(z) + 1e-4))
        outside = interval_of(counts, confidence=max(norm.cdf(abs(z) - 1e-4), 0.5001))
        assert inside.low <= 0 <= inside.high
        assert z == 0 or not outside.low <= 0 <= outside.high


def test_the_relative_bound_solves_the_score_equation_by_brute_force() -> None:
    both, lost, gained, neither = 70, 9, 4, 17
    n = both + lost + gained + neither
    bound = 1 - relative_drop(PairedCounts(n, both, lost, gained)).high  # the smallest ratio not rejected

    def cells(q: float) -> tuple[float, float, float]:
        # With ratio r and union u = P(any right): p_ref = (u - q') / r ... solved for P(lost) = q.
        union = (both + lost + gained) / n
        reference = (union - q) / bound  # P(reference right), as candidate right = union - lost
        return union - q - (union - reference), q, union - reference

    def minus_likelihood(q: float) -> float:
        p_both, p_lost, p_gained = cells(q)
        if min(p_both, p_lost, p_gained) <= 0:
            return math.inf
        return -(both * math.log(p_both) + lost * math.log(p_lost) + gained * math.log(p_gained))

    grid = np.linspace(1e-4, 0.5, 20001)
    start = grid[np.argmin([minus_likelihood(q) for q in grid])]
    q = minimize_scalar(minus_likelihood, bounds=(start - 1e-3, start + 1e-3), method="bounded", options={"xatol": 1e-12}).x
    p_both, p_lost, p_gained = cells(q)
    variance = n * ((p_both + p_gained) + bound**2 * (p_both + p_lost) - 2 * bound * p_both)
    z = ((both + gained) - bound * (both + lost)) / math.sqrt(variance)
    assert abs(z) == pytest.approx(norm.ppf(0.95), abs=1e-4)


@pytest.mark.parametrize(
    ("n", "p_lost", "p_gained"), [(100, 0.06, 0.04), (400, 0.01, 0.005), (2000, 0.008, 0.003), (10_000, 0.006, 0.004)]
)
def test_each_one_sided_bound_covers_about_95_percent(n: int, p_lost: float, p_gained: float) -> None:
    generator = np.random.default_rng(n)
    p_both = 0.9 - p_lost
    true, true_relative = p_lost - p_gained, (p_lost - p_gained) / 0.9
    tables = generator.multinomial(n, [p_both, p_lost, p_gained, 1 - p_both - p_lost - p_gained], size=1500)
    hits = np.zeros(4)
    for both, lost, gained, _ in tables.tolist():
        counts = PairedCounts(n, both, lost, gained)
        absolute, relative = paired_difference(counts), relative_drop(counts)
        hits += [absolute.low <= true, true <= absolute.high, relative.low <= true_relative, true_relative <= relative.high]
    # Standard error of a coverage of 0.95 over 1,500 draws: 0.006. Score bounds err by a little more when counts are small.
    assert (hits / len(tables) > 0.925).all(), hits / len(tables)
    assert (hits / len(tables) < 0.985).all(), hits / len(tables)


def test_a_true_drop_at_the_margin_is_rarely_called_reproduced() -> None:
    """The size of the test: with the drop exactly at 0.5 pp, REPRODUCED may come out in about 5 % of the draws."""
    generator = np.random.default_rng(5)
    tables = generator.multinomial(10_000, [0.895, 0.0075, 0.0025, 0.095], size=1500)
    verdicts = [decide_below(paired_difference(PairedCounts(10_000, *row[:3])), 0.005) for row in tables.tolist()]
    assert 0.02 < np.mean([v is Verdict.REPRODUCED for v in verdicts]) < 0.08
    assert 0.02 < np.mean([v is Verdict.REFUTED for v in verdicts]) < 0.08


def test_exact_mcnemar_is_the_coin_over_discordant_pairs() -> None:
    assert mcnemar_exact(PairedCounts(100, 80, 9, 1)) == pytest.approx(2 * binom.cdf(1, 10, 0.5))
    assert mcnemar_exact(PairedCounts(100, 80, 0, 0)) == 1.0


def test_swapping_the_networks_mirrors_the_interval() -> None:
    forth, back = paired_difference(PairedCounts(500, 400, 30, 12)), paired_difference(PairedCounts(500, 400, 12, 30))
    assert forth.low == pytest.approx(-back.high)
    assert forth.high == pytest.approx(-back.low)


@pytest.mark.parametrize(
    ("n", "both", "lost", "gained"),
    [(1, 0, 1, 0), (1, 1, 0, 0), (50, 0, 0, 0), (50, 50, 0, 0), (50, 0, 50, 0), (50, 0, 0, 50), (7, 3, 2, 2)],
)
def test_degenerate_tables_give_ordered_finite_difference_bounds(n: int, both: int, lost: int, gained: int) -> None:
    interval = paired_difference(PairedCounts(n, both, lost, gained))
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    relative = relative_drop(PairedCounts(n, both, lost, gained))
    assert math.isnan(relative.value) or relative.low <= relative.value <= relative.high <= 1


def test_identical_predictions_bound_the_drop_by_the_rule_of_three_and_a_bit() -> None:
    high = paired_difference(PairedCounts(10_000, 9_000, 0, 0)).high
    z2 = norm.ppf(0.95) ** 2
    assert high == pytest.approx(z2 / (10_000 + z2))


def test_no_images_decide_nothing() -> None:
    nothing = paired_drop(np.zeros(0, bool), np.zeros(0, bool))
    for judgement in (non_inferiority(nothing), relative_non_inferiority(nothing), real_loss(nothing), better_than(nothing)):
        assert judgement.verdict is Verdict.UNDECIDED


def test_a_reference_that_is_never_right_decides_nothing() -> None:
    drop = paired_drop(np.zeros(100, bool), np.zeros(100, bool))
    assert relative_non_inferiority(drop).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [(np.ones(3, bool), np.ones(4, bool)), (np.ones((2, 2), bool), np.ones((2, 2), bool)), (np.ones(3), np.ones(3, bool))],
)
def test_unpaired_or_non_boolean_outcomes_are_refused(reference: np.ndarray, candidate: np.ndarray) -> None:
    with pytest.raises(ValueError, match="paired outcomes"):
        paired_drop(reference, candidate)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.1, -0.1, 0.4999), Verdict.REPRODUCED),
        (Interval(0.6, 0.5001, 0.8), Verdict.REFUTED),
        (Interval(0.4, 0.3, 0.5), Verdict.UNDECIDED),
        (Interval(0.6, 0.5, 0.8), Verdict.UNDECIDED),
        (Interval(math.nan, -math.inf, math.nan), Verdict.UNDECIDED),
    ],
)
def test_the_verdict_needs_the_whole_interval_on_one_side(interval: Interval, verdict: Verdict) -> None:
    assert decide_below(interval, 0.5) is verdict
    assert decide_above(Interval(-interval.value, -interval.high, -interval.low), -0.5) is verdict


def test_judgements_follow_the_bounds_and_undecided_says_how_many() -> None:
    good = paired_drop(*outcomes(10_000, 9_000, 40, 30))
    assert non_inferiority(good).verdict is Verdict.REPRODUCED
    assert relative_non_inferiority(good).verdict is Verdict.REPRODUCED
    bad = paired_drop(*outcomes(10_000, 8_900, 150, 30))
    assert non_inferiority(bad).verdict is Verdict.REFUTED
    assert real_loss(bad).verdict is Verdict.REPRODUCED
    assert better_than(paired_drop(*outcomes(10_000, 8_900, 30, 150))).verdict is Verdict.REPRODUCED
    near = non_inferiority(paired_drop(*outcomes(10_000, 9_000, 75, 35)))
    assert near.verdict is Verdict.UNDECIDED
    assert near.n_needed is not None
    assert near.n_needed > 10_000
    assert f"{near.n_needed:,}" in near.sentence


def test_points_and_per_cent_of_the_reference_can_disagree() -> None:
    """At 60 % accuracy a drop of 0.4 pp is 0.67 % of the reference: the two readings of the paper's bound differ."""
    drop = paired_drop(*outcomes(1_000_000, 596_000 - 2_000, 6_000, 2_000))
    assert non_inferiority(drop).verdict is Verdict.REPRODUCED
    assert relative_non_inferiority(drop).verdict is Verdict.REFUTED


def test_the_planned_number_of_samples_decides_in_four_of_five_cases() -> None:
    lost, gained = 0.006, 0.003
    needed = samples_to_decide(0.005 - (lost - gained), math.sqrt(lost + gained - (lost - gained) ** 2))
    assert needed is not None
    tables = np.random.default_rng(8).multinomial(needed, [0.88, lost, gained, 1 - 0.88 - lost - gained], size=800)
    decided = [
        decide_below(paired_difference(PairedCounts(needed, *row[:3])), 0.005) is Verdict.REPRODUCED for row in tables.tolist()
    ]
    assert 0.74 < np.mean(decided) < 0.86


@pytest.mark.parametrize(("distance", "deviation"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1e-12, 1.0)])
def test_no_number_of_samples_is_promised_where_none_would_do(distance: float, deviation: float) -> None:
    assert samples_to_decide(distance, deviation) is None


def test_the_bootstrapped_ratio_covers_the_truth() -> None:
    generator = np.random.default_rng(1)
    low = high = 0
    for seed in range(150):
        common = generator.gamma(2.0, 1.0, 300)
        a, b = 1.2 * common * generator.gamma(4, 0.25, 300), common * generator.gamma(4, 0.25, 300)
        interval = mean_ratio(a, b, resamples=400, seed=seed)
        low += interval.low <= 1.2
        high += interval.high >= 1.2
    assert min(low, high) / 150 > 0.88


def test_a_variant_against_itself_has_ratio_one_exactly_and_dealt_arms_show_nothing() -> None:
    generator = np.random.default_rng(2)
    errors = generator.gamma(2.0, 1.0, 1000)
    assert mean_ratio(errors, errors) == Interval(1.0, 1.0, 1.0)
    assert ratio_above_one(errors, errors, name="A/A").verdict is Verdict.UNDECIDED
    dealt = deal_at_random(3 * errors, errors, seed=3)
    assert ratio_above_one(*dealt, name="dealt", confidence=0.999).verdict is Verdict.UNDECIDED
    assert ratio_above_one(3 * errors, errors, name="tripled").verdict is Verdict.REPRODUCED
    assert ratio_above_one(errors, 3 * errors, name="a third").verdict is Verdict.REFUTED


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, math.nan]), np.array([1.0, -1.0])])
def test_errors_that_are_no_errors_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="errors must be"):
        mean_ratio(bad, bad)


def test_a_faultless_reference_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="no error at all"):
        mean_ratio(np.ones(3), np.zeros(3))
