"""Intervals for paired comparisons: two networks, the same images.

Notation for n paired 0/1 outcomes: `both` right, `lost` (only the reference right), `gained` (only the candidate right),
neither. All intervals are two one-sided bounds: at the default level each bound errs with probability 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, chi2, norm, t

ONE_SIDED = 0.95  # confidence of each bound
POWER = 0.80  # chance of deciding that `samples_to_decide` plans for


@dataclass(frozen=True)
class Interval:
    """Estimate with its lower and upper one-sided bound, in the unit of the estimate."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedCounts:
    """The 2x2 table of n paired 0/1 outcomes."""

    n: int
    both: int
    lost: int
    gained: int

    def __post_init__(self) -> None:
        if min(self.both, self.lost, self.gained) < 0 or self.both + self.lost + self.gained > self.n:
            raise ValueError(f"not a paired table: {self}")

    @staticmethod
    def of(reference: np.ndarray, candidate: np.ndarray) -> PairedCounts:
        """Count bool [N] against bool [N]. Raises ValueError for other shapes or dtypes."""
        if reference.shape != candidate.shape or reference.ndim != 1:
            raise ValueError(f"paired outcomes must be two vectors of one length, not {reference.shape} and {candidate.shape}")
        if reference.dtype != np.bool_ or candidate.dtype != np.bool_:
            raise ValueError("paired outcomes must be bool: pass `predictions == labels`")
        return PairedCounts(
            len(reference),
            int((reference & candidate).sum()),
            int((reference & ~candidate).sum()),
            int((~reference & candidate).sum()),
        )

    @property
    def discordant(self) -> int:
        return self.lost + self.gained


def paired_difference(counts: PairedCounts, *, confidence: float = ONE_SIDED) -> Interval:
    """Score interval for P(reference right) - P(candidate right), as a fraction of n (Tango, Stat. Med. 17, 1998).

    The bounds are the differences D at which the score test, with the variance under D, just rejects. Unlike Wald's, it
    keeps its coverage at few or no discordant pairs. n = 0 gives [-1, 1].
    """
    n, lost, gained = counts.n, counts.lost, counts.gained
    if n == 0:
        return Interval(0.0, -1.0, 1.0)
    z2 = norm.ppf(confidence) ** 2
    value = (lost - gained) / n

    def excess(d: float) -> float:
        # Maximum likelihood of P(gained) given the difference d: the positive root of A q^2 + B q + C.
        a = 2 * n
        b = -lost - gained + (2 * n - lost + gained) * d
        c = -gained * d * (1 - d)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        return (lost - gained - n * d) ** 2 - z2 * n * (2 * q + d * (1 - d))

    return Interval(value, _root(excess, value, -1.0), _root(excess, value, 1.0))


def relative_drop(counts: PairedCounts, *, confidence: float = ONE_SIDED) -> Interval:
    """Score interval for 1 - P(candidate right) / P(reference right) (Tang, Tang & Chan, Stat. Med. 22, 2003).

    Given the ratio, the likelihood has one free unknown, p = P(lost): the positive root of A p^2 + B p + C below. The
    variance of `candidate - ratio * reference`, ratio (ratio - 1) P(reference right) + 2 ratio p, follows from it.
    A reference that is never right gives (-inf, 1]: nothing can be said.
    """
    n, right, kept = counts.n, counts.both + counts.lost, counts.both + counts.gained
    if right == 0:
        return Interval(math.nan, -math.inf, 1.0)
    z2 = norm.ppf(confidence) ** 2
    union = counts.both + counts.lost + counts.gained
    value = kept / right

    def excess(ratio: float) -> float:
        a = n * (1 + ratio)
        b = right * ratio**2 - (counts.both + counts.gained + 2 * counts.lost)
        c = counts.lost * (1 - ratio) * union / n
        p = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        return (kept - ratio * right) ** 2 - z2 * (n * (1 + ratio) * p + union * (ratio - 1))

    top = max(2 * value, 2.0)
    while excess(top) < 0 and top < 1e9:
        top *= 2
    return Interval(1 - value, 1 - _root(excess, value, top), 1 - _root(excess, value, 0.0))


def _root(excess: Callable[[float], float], estimate: float, end: float) -> float:
    """The crossing of `excess` between the estimate, where it is <= 0, and the end of the parameter space.

    At zero variance the estimate itself is a second root; stepping 1e-10 off it leaves only the wanted one.
    """
    start = estimate + math.copysign(1e-10, end - estimate)
    if abs(end - estimate) <= 1e-10:
        return end
    if excess(start) >= 0:
        return estimate
    if excess(end) <= 0:
        return end
    return float(brentq(excess, start, end, xtol=1e-12))


def mcnemar_exact(counts: PairedCounts) -> float:
    """Two-sided exact p-value of "both networks are equally often right": a fair coin over the discordant pairs."""
    if counts.discordant == 0:
        return 1.0
    return float(binomtest(counts.lost, counts.discordant, 0.5).pvalue)


def samples_to_decide(distance: float, deviation: float, *, confidence: float = ONE_SIDED) -> int | None:
    """Samples at which a bound clears the margin with 80 % chance, if `distance` to it and the deviation stay as seen.

    None where no number of samples would do: the estimate lies on the margin, or nothing is known of the deviation.
    """
    if distance == 0 or not math.isfinite(distance) or not math.isfinite(deviation) or deviation <= 0:
        return None
    needed = ((norm.ppf(confidence) + norm.ppf(POWER)) * deviation / distance) ** 2
    return math.ceil(needed) if needed < 1e12 else None


def mean_ratio(
    candidate: np.ndarray,
    reference: np.ndarray,
    *,
    confidence: float = ONE_SIDED,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Paired percentile bootstrap of mean(candidate) / mean(reference) over float [N] errors of the same images.

    Each bound errs with probability 1 - confidence. Raises ValueError for empty, negative or non-finite errors and
    for a reference without any error (the ratio does not exist).
    """
    if candidate.shape != reference.shape or candidate.ndim != 1 or len(candidate) == 0:
        raise ValueError(f"errors must be two non-empty vectors of one length, not {candidate.shape} and {reference.shape}")
    if not (np.isfinite(candidate).all() and np.isfinite(reference).all()) or min(candidate.min(), reference.min()) < 0:
        raise ValueError("errors must be finite and not negative")
    if reference.sum() == 0:
        raise ValueError("the reference has no error at all: a ratio to it does not exist")
    generator = np.random.default_rng(seed)
    n = len(reference)
    ratios = []
    for _ in range(0, resamples, 100):
        # Row r holds how often each image was drawn in resample r; the same draw serves both variants, so the pairing stays.
        draws = generator.multinomial(n, np.full(n, 1 / n), size=100)  # int64 [100, N]
        ratios.append((draws @ candidate) / np.maximum(draws @ reference, np.finfo(float).tiny))
    low, high = np.quantile(np.concatenate(ratios), [1 - confidence, confidence])
    return Interval(float(candidate.mean() / reference.mean()), float(low), float(high))


def mean_difference(reference: np.ndarray, candidate: np.ndarray, *, confidence: float = ONE_SIDED) -> Interval:
    """Mean over runs of P(reference right) - P(candidate right), from bool [runs, N] each: Student's bounds over the images.

    The runs are taken as they are; how the mean varies over further runs is `student`'s to say.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or reference.size == 0:
        raise ValueError(f"outcomes must be two non-empty tables of one shape, not {reference.shape} and {candidate.shape}")
    return student(reference.mean(0) - candidate.mean(0), confidence=confidence)


def student(values: np.ndarray, *, confidence: float = ONE_SIDED) -> Interval:
    """Mean of float [n] with Student's one-sided bounds; infinite ones for a single value. ValueError for none."""
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values must be a non-empty vector, not of shape {values.shape}")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    reach = float(t.ppf(confidence, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - reach, mean + reach)


def deviation(values: np.ndarray, *, confidence: float = ONE_SIDED) -> Interval:
    """Standard deviation of float [n >= 2], taken as normal, with one-sided bounds from the chi-square of its square."""
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a deviation needs at least two values, not shape {values.shape}")
    freedom = len(values) - 1
    found = float(values.std(ddof=1))
    low, high = (found * math.sqrt(freedom / chi2.ppf(q, freedom)) for q in (confidence, 1 - confidence))
    return Interval(found, low, high)


def deal_at_random(a: np.ndarray, b: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Give each image's two errors to the two variants by a fair coin: an A/A pair with the data's own spread."""
    swap = np.random.default_rng(seed).integers(0, 2, len(a)).astype(bool)
    return np.where(swap, b, a), np.where(swap, a, b)
