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
Stopwatch = Callable[[Callable[[], object]], float]  # runs the call and returns its seconds


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

    @property
    def peak_spread(self) -> float:
        """Interquartile range of the peak rate relative to its median: how restless the machine was; 0 without a loop."""
        rates = np.concatenate([np.zeros(0), *self.peak.values()])
        if not len(rates):
            return 0.0
        low, middle, high = np.percentile(rates, (25, 50, 75))
        return float((high - low) / middle)


def time_paired(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 10.0,
    min_blocks: int = 15,
    warm_up: int = 2,
    seed: int = 0,
    peak: Callable[[], float] | None = None,
    clock: Clock = time.perf_counter_ns,
    watch: Callable[[float], object] | None = None,
    stopwatch: Stopwatch | None = None,
) -> Samples:
    """Time all candidates in blocks until `seconds` are over, but at least `min_blocks` blocks.

    `peak` runs a loop of known work and returns its rate; it runs before and after each sample, and the mean of the two
    counts. `watch` gets the seconds since the first block, between blocks. `stopwatch` times a call where the wall clock cannot:
    work that runs on after the call returns, as a GPU's does. Raises ValueError without candidates or blocks.
    """
    if not candidates:
        raise ValueError("nothing to time: give at least one candidate")
    if min_blocks < 1:
        raise ValueError(f"min_blocks must be at least 1, not {min_blocks}")
    names, coin = list(candidates), np.random.default_rng(seed)
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
            order.append(coin.permutation(len(names)))
            for index in order[-1]:
                name = names[index]
                before = peak() if peak else 0.0
                if stopwatch:
                    times[name].append(stopwatch(candidates[name]))
                else:
                    started = clock()
                    candidates[name]()
                    times[name].append((clock() - started) / 1e9)
                if peak:
                    rates[name].append((before + peak()) / 2)
            if watch:
                watch((clock() - begun) / 1e9)
    finally:
        if collecting:
            gc.enable()
    return Samples(
        {name: np.array(values) for name, values in times.items()},
        {name: np.array(values) for name, values in rates.items() if values},
        np.array(order),
    )


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
