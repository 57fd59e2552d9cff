"""Paired, interleaved timing: every contender is timed in every block, in random order.

What is measured: the wall-clock time of one call, on one machine, with caches warmed by the calls before it. Clocks drift
by several percent within seconds; two contenders are comparable only block by block, and a rate only against a peak loop
that was timed right beside it. What is not measured: cold starts, memory, anything under load from other processes (the
spread of the peak loop tells when that happened).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]  # nanoseconds


@dataclass(frozen=True)
class Samples:
    """Times of one comparison.

    seconds: float64 [blocks] per contender, in the order of the blocks. peak: operations per second of the peak loop around
    each of those samples, float64 [blocks] per contender; empty without a peak loop.
    """

    seconds: dict[str, NDArray[np.float64]]
    peak: dict[str, NDArray[np.float64]]

    @property
    def blocks(self) -> int:
        return len(next(iter(self.seconds.values())))

    @property
    def peak_spread(self) -> float:
        """Interquartile range of the peak rate relative to its median: how restless the machine was; 0 without a loop."""
        rates = np.concatenate([np.zeros(0), *self.peak.values()])
        if not len(rates):
            return 0.0
        low, middle, high = np.percentile(rates, (25, 50, 75))
        return float((high - low) / middle)


def time_paired(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 10.0,
    min_blocks: int = 15,
    warm_up: int = 2,
    seed: int = 0,
    peak: Callable[[], float] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Samples:
    """Time all contenders in blocks until `seconds` are over, but at least `min_blocks` blocks.

    `peak` runs a loop of known work and returns its rate; it runs before and after each sample, and the mean of the two
    counts. Raises ValueError without contenders.
    """
    if not contenders:
        raise ValueError("nothing to time: give at least one contender")
    names, order = list(contenders), np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warm_up):
        for call in contenders.values():
            call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = clock() + int(seconds * 1e9)
        while len(times[names[0]]) < min_blocks or clock() < deadline:
            for index in order.permutation(len(names)):
                name = names[index]
                before = peak() if peak else 0.0
                started = clock()
                contenders[name]()
                times[name].append((clock() - started) / 1e9)
                if peak:
                    rates[name].append((before + peak()) / 2)
    finally:
        if collecting:
            gc.enable()
    return Samples(
        {name: np.array(values) for name, values in times.items()},
        {name: np.array(values) for name, values in rates.items() if values},
    )
