"""Paired, interleaved timing: every candidate is timed in every block, in random order.

What is measured: the wall-clock time of one call, on one machine, with caches warmed by the calls before it. Clocks drift
by several percent within seconds; two candidates are comparable only block by block, and a rate only against a peak loop
that was timed right beside it. What is not measured: cold starts, memory, anything under load from other processes (the
spread of the peak loop tells when that happened).

A process keeps the memory layout it started with, and layouts differ by a percent or two. Samples of several fresh processes,
each timed with a seed of its own, are put together by `joined`; the intervals then resample processes before blocks.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]  # nanoseconds
Reading = float | tuple[float, float]  # seconds; or seconds, and the rate of the peak loop beside them or 0
Stopwatch = Callable[[Callable[..., object]], Reading]  # runs the call


@dataclass(frozen=True)
class Samples:
    """Times of one comparison.

    seconds: float64 [blocks] per candidate, in the order of the blocks. peak: operations per second of the peak loop around
    each of those samples, float64 [blocks] per candidate; empty without a peak loop. order: int64 [blocks, candidates], the
    candidates of a block (by their place in `seconds`) as they ran; empty where it is not known. processes: the number of
    blocks of each process, one process after the other; () means that all blocks are of one.
    """

    seconds: dict[str, NDArray[np.float64]]
    peak: dict[str, NDArray[np.float64]]
    order: NDArray[np.intp] = field(default_factory=lambda: np.zeros((0, 0), np.intp))
    processes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (*self.seconds.values(), *self.peak.values())}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"every candidate needs the same number of samples, at least one: not {sorted(lengths)}")
        if self.processes and (sum(self.processes) != self.blocks or min(self.processes) < 1):
            raise ValueError(f"{self.blocks} blocks cannot come from processes with {list(self.processes)}")

    @property
    def blocks(self) -> int:
        return len(next(iter(self.seconds.values())))

    def only(self, names: Sequence[str]) -> Samples:
        """Without the other candidates."""
        if list(names) == list(self.seconds):
            return self
        peak = {name: self.peak[name] for name in names} if self.peak else {}
        return Samples({name: self.seconds[name] for name in names}, peak, processes=self.processes)

    @property
    def peak_spread(self) -> float:
        """Interquartile range of the peak rate relative to its median: how restless the machine was; 0 without a loop."""
        rates = np.concatenate([np.zeros(0), *self.peak.values()])
        if not len(rates):
            return 0.0
        low, middle, high = np.percentile(rates, (25, 50, 75))
        return float((high - low) / middle)


@dataclass(frozen=True)
class WallClock:
    """Times a call of this process. `peak` runs a loop of known work and returns its rate; it runs before and after the call, and
    the mean of the two counts."""

    peak: Callable[[], float] | None = None
    clock: Clock = time.perf_counter_ns

    def __call__(self, call: Callable[..., object], warm_up: Callable[[], object] = lambda: None) -> tuple[float, float]:
        before = self.peak() if self.peak else 0.0
        warm_up()  # between the loop and the call: what the loop did to the clock and the caches is no matter of the call
        started = self.clock()
        call()
        seconds = (self.clock() - started) / 1e9
        return seconds, (before + self.peak()) / 2 if self.peak else 0.0


def time_paired(
    candidates: Mapping[str, Callable[..., object]],
    *,
    seconds: float = 10.0,
    min_blocks: int = 15,
    warm_up: int = 2,
    seed: int = 0,
    stopwatch: Stopwatch | None = None,
    clock: Clock = time.perf_counter_ns,
    watch: Callable[[float], object] | None = None,
    together: Callable[[str], str] = str,
) -> Samples:
    """Time all candidates in blocks until `seconds` are over, but at least `min_blocks` blocks.

    `stopwatch` times one call (default: `WallClock`). `watch` gets the seconds since the first block, between blocks. Names
    of which `together` says the same are timed one right after the other, in random order as everything is. Raises ValueError
    without candidates or blocks.
    """
    if not candidates:
        raise ValueError("nothing to time: give at least one candidate")
    if min_blocks < 1:
        raise ValueError(f"min_blocks must be at least 1, not {min_blocks}")
    names, coin, measure = list(candidates), np.random.default_rng(seed), stopwatch or WallClock(clock=clock)
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(together(name), []).append(place)
    order: list[NDArray[np.intp]] = []
    times: dict[str, list[float]] = {name: [] for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warm_up):
        for call in candidates.values():
            call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        begun = clock()
        while len(order) < min_blocks or clock() - begun < seconds * 1e9:
            order.append(_shuffled(list(groups.values()), coin))
            for index in order[-1]:
                took, rate = both(measure(candidates[names[index]]))
                times[names[index]].append(took)
                rates[names[index]].append(rate)
            if watch:
                watch((clock() - begun) / 1e9)
    finally:
        if collecting:
            gc.enable()
    return Samples(
        {name: np.array(values) for name, values in times.items()},
        {name: np.array(values) for name, values in rates.items()} if all(map(all, rates.values())) else {},
        np.array(order),
    )


def both(reading: Reading) -> tuple[float, float]:
    return reading if isinstance(reading, tuple) else (float(reading), 0.0)


def _shuffled(groups: Sequence[Sequence[int]], coin: np.random.Generator) -> NDArray[np.intp]:
    """Groups in random order, and so the members of each."""
    return np.concatenate([coin.permutation(groups[index]) for index in coin.permutation(len(groups))])


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of several processes as one. Raises ValueError unless all timed the same candidates in the same way."""
    if not parts:
        raise ValueError("nothing to join: give the samples of at least one process")
    first = parts[0]
    for part in parts:
        if list(part.seconds) != list(first.seconds) or list(part.peak) != list(first.peak):
            raise ValueError(f"these samples are of other candidates: {list(part.seconds)}, not {list(first.seconds)}")
    known = all(len(part.order) for part in parts)
    return Samples(
        {name: np.concatenate([part.seconds[name] for part in parts]) for name in first.seconds},
        {name: np.concatenate([part.peak[name] for part in parts]) for name in first.peak},
        np.concatenate([part.order for part in parts]) if known else np.zeros((0, 0), np.intp),
        tuple(blocks for part in parts for blocks in part.processes or (part.blocks,)),
    )


def kept(samples: Samples, keep: NDArray[np.bool_]) -> Samples:
    """The blocks where `keep`, bool [blocks], holds. Raises ValueError when none is left; a process may lose all of its own."""
    sizes = samples.processes or (samples.blocks,)
    ends = np.cumsum(sizes)
    counts = [int(keep[end - size : end].sum()) for size, end in zip(sizes, ends, strict=True)]
    return Samples(
        {name: values[keep] for name, values in samples.seconds.items()},
        {name: values[keep] for name, values in samples.peak.items()},
        samples.order[keep] if len(samples.order) else samples.order,
        tuple(count for count in counts if count),
    )
