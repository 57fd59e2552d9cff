"""Medians, ratios of medians and shares of peak, with intervals.

Within a process, blocks are resampled (bootstrap). A block is resampled whole: its candidates stay together, so drift that moves
a block moves both sides of a ratio alike. For the same reason a ratio is the median of the blocks' quotients, not the quotient of
two medians, which needs twice the width where the clock drifts.

A process keeps its memory layout for life, and layouts differ by a percent or two: what matters for a claim is the next process.
`ratio_over_processes` is therefore Student's interval over the processes' own medians, on the log scale. A bootstrap of processes
and then blocks is no substitute: of five processes it covers between 86 and 97 % where it says 90, depending on which of the two
varies more; Student's covers 88 to 93 (tests/bench/test_interval_coverage.py simulates both).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geluless.bench.paired import Samples

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST = 3  # processes: fewer say nothing about the next one
DRAWS_AT_ONCE = 1 << 22  # bounds the memory of a resampling, whatever the number of blocks


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval at CONFIDENCE."""

    value: float
    low: float
    high: float

    def excludes(self, point: float) -> bool:
        return not self.low <= point <= self.high


def median(samples: Samples, name: str, *, seed: int = 0) -> Interval:
    """Median time of a candidate in seconds."""
    return _bootstrap(samples, lambda rows: np.median(samples.seconds[name][rows], axis=-1), seed=seed)


def ratio(samples: Samples, name: str, against: str, *, seed: int = 0) -> Interval:
    """Median over the blocks of time(name) / time(against): below 1 means `name` is faster."""
    quotients = samples.seconds[name] / samples.seconds[against]
    return _bootstrap(samples, lambda rows: np.median(quotients[rows], axis=-1), seed=seed)


def process_contrasts(samples: Samples, weights: Mapping[str, float]) -> NDArray[np.float64]:
    """float64 [processes]: each process's median over its blocks of sum(weight * log time)."""
    logs = sum((weight * np.log(samples.seconds[name]) for name, weight in weights.items()), np.zeros(samples.blocks))
    ends = np.cumsum(samples.processes or (samples.blocks,))
    return np.array([np.median(part) for part in np.split(logs, ends[:-1])])


def contrast_over_processes(samples: Samples, weights: Mapping[str, float], *, confidence: float = CONFIDENCE) -> Interval:
    """exp(sum(weight * log time)) of a process yet to come, two-sided at `confidence`. {a: 1, b: -1} is the ratio of a to b.

    Raises ValueError for fewer than three processes.
    """
    logs = process_contrasts(samples, weights)
    if len(logs) < FEWEST:
        raise ValueError(f"{len(logs)} processes say nothing about the next one: time at least three")
    from scipy import stats

    half = stats.t.ppf((1 + confidence) / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    middle = logs.mean()
    return Interval(float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half)))


def ratio_over_processes(samples: Samples, name: str, against: str, *, confidence: float = CONFIDENCE) -> Interval:
    """time(name) / time(against) of a process yet to come: below 1 means `name` is faster."""
    return contrast_over_processes(samples, {name: 1.0, against: -1.0}, confidence=confidence)


def best_ratio(samples: Samples, name: str, against: str) -> Interval:
    """Over processes where there are enough of them; else `ratio`, which is about these very processes alone."""
    enough = len(samples.processes) >= FEWEST
    return ratio_over_processes(samples, name, against) if enough else ratio(samples, name, against)


def share_of_peak(samples: Samples, name: str, *, operations: float, threads: int = 1, seed: int = 0) -> Interval:
    """Median of (operations / time) / (threads x the peak rate beside that sample). Raises KeyError without a peak loop.

    The peak loop runs on one thread: where a processor slows down with every busy core, or two threads share one, the share
    of several threads comes out too low.
    """
    shares = operations / samples.seconds[name] / (samples.peak[name] * threads)
    return _bootstrap(samples, lambda rows: np.median(shares[rows], axis=-1), seed=seed)


def _bootstrap(samples: Samples, statistic: Callable[[NDArray[np.intp]], NDArray[np.float64]], *, seed: int) -> Interval:
    """`statistic` maps rows of block numbers, int64 [R, N], to one value each, float64 [R]."""
    generator = np.random.default_rng(seed)
    sizes = np.array(samples.processes or (samples.blocks,))
    starts = np.cumsum(sizes) - sizes
    per_process = -(-samples.blocks // len(sizes))  # processes count alike, however many blocks each had time for
    together = max(1, DRAWS_AT_ONCE // (len(sizes) * per_process))
    values: list[NDArray[np.float64]] = []
    for done in range(0, RESAMPLES, together):
        resamples = min(together, RESAMPLES - done)
        process = generator.integers(0, len(sizes), (resamples, len(sizes), 1))
        rows = starts[process] + generator.integers(0, sizes[process], (resamples, len(sizes), per_process))
        values.append(statistic(rows.reshape(resamples, -1)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(values), (tail, 1 - tail))
    return Interval(float(statistic(np.arange(samples.blocks)[None])[0]), float(low), float(high))
