"""Medians, ratios of medians and shares of peak, with bootstrap intervals over blocks.

A block is resampled whole: its contenders stay together, so drift that moves a block moves both sides of a ratio alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geluless.bench.paired import Samples

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval at CONFIDENCE."""

    value: float
    low: float
    high: float

    def excludes(self, point: float) -> bool:
        return not self.low <= point <= self.high


def median(samples: Samples, name: str, *, seed: int = 0) -> Interval:
    """Median time of a contender in seconds."""
    return _bootstrap(samples.blocks, lambda rows: np.median(samples.seconds[name][rows], axis=-1), seed=seed)


def ratio(samples: Samples, name: str, against: str, *, seed: int = 0) -> Interval:
    """Median over the blocks of time(name) / time(against): below 1 means `name` is faster."""
    quotients = samples.seconds[name] / samples.seconds[against]
    return _bootstrap(samples.blocks, lambda rows: np.median(quotients[rows], axis=-1), seed=seed)


def share_of_peak(samples: Samples, name: str, *, operations: float, threads: int = 1, seed: int = 0) -> Interval:
    """Median of (operations / time) / (threads x the peak rate beside that sample). Raises KeyError without a peak loop."""
    shares = operations / samples.seconds[name] / (samples.peak[name] * threads)
    return _bootstrap(samples.blocks, lambda rows: np.median(shares[rows], axis=-1), seed=seed)


def _bootstrap(blocks: int, statistic: Callable[[NDArray[np.intp]], NDArray[np.float64]], *, seed: int) -> Interval:
    rows = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistic(rows), (tail, 1 - tail))
    return Interval(float(statistic(np.arange(blocks))), float(low), float(high))
