"""Intervals on simulated noise: they cover as often as they promise, and a drifting clock does not widen them."""

from __future__ import annotations

import numpy as np
import pytest

from geluless.bench import intervals
from geluless.bench.paired import Samples

TRIALS = 300


def identical(seed: int, *, blocks: int = 25, drift: float = 0.0) -> Samples:
    """An A/A pair: noise of 1 % each, and a random walk that both follow."""
    rng = np.random.default_rng(seed)
    walk = np.exp(drift * np.cumsum(rng.standard_normal(blocks)) / np.sqrt(blocks))
    return Samples({name: walk * np.exp(0.01 * rng.standard_normal(blocks)) for name in "ab"}, {})


@pytest.mark.parametrize("drift", [0.0, 0.1])
def test_an_a_a_pair_is_covered_95_times_of_100(drift: float):
    covered = [not intervals.ratio(identical(s, drift=drift), "a", "b", seed=s).excludes(1.0) for s in range(TRIALS)]
    assert 0.90 <= np.mean(covered) <= 0.99  # three standard errors are 4 points


def test_drift_does_not_widen_a_ratio_but_a_median():
    still, drifting = identical(0, blocks=100), identical(0, blocks=100, drift=0.2)
    assert width(intervals.ratio(drifting, "a", "b")) == pytest.approx(width(intervals.ratio(still, "a", "b")))
    assert width(intervals.median(drifting, "a")) > 3 * width(intervals.median(still, "a"))


def width(interval: intervals.Interval) -> float:
    return interval.high - interval.low


def of_processes(seed: int, *, processes: int = 8, blocks: int = 12) -> Samples:
    """An A/A pair in processes each of which favours one side by about 1 %."""
    rng = np.random.default_rng(seed)
    favour = np.repeat(np.exp(0.01 * rng.standard_normal(processes)), blocks)
    times = {name: np.exp(0.005 * rng.standard_normal(processes * blocks)) for name in "ab"}
    times["a"] *= favour
    return Samples(times, {}, processes=(blocks,) * processes)


def test_processes_are_resampled_before_blocks():
    """Blocks of one process repeat its luck: taken as independent they promise far too much."""
    wrong = wrong_if_flat = 0
    for seed in range(100):
        samples = of_processes(seed)
        wrong += intervals.ratio(samples, "a", "b", seed=seed).excludes(1.0)
        wrong_if_flat += intervals.ratio(Samples(samples.seconds, {}), "a", "b", seed=seed).excludes(1.0)
    assert wrong <= 15
    assert wrong_if_flat >= 25


def test_processes_count_alike_however_many_blocks_they_had_time_for():
    times = np.concatenate([np.full(1000, 2.0), np.full(10, 4.0)])
    interval = intervals.median(Samples({"a": times}, {}, processes=(1000, 10)), "a")
    assert (interval.low, interval.high) == (2.0, 4.0), "half of the resamples hold the small process as often or more"


def test_many_blocks_are_resampled_piece_by_piece(monkeypatch: pytest.MonkeyPatch):
    samples, rows = identical(3, blocks=200), []
    whole = intervals.ratio(samples, "a", "b")
    monkeypatch.setattr(intervals, "DRAWS_AT_ONCE", 5000)
    median = np.median
    monkeypatch.setattr(np, "median", lambda values, axis: (rows.append(len(values)), median(values, axis=axis))[1])
    pieces = intervals.ratio(samples, "a", "b")
    assert max(rows) == 25
    assert sum(rows) == intervals.RESAMPLES + 1  # and the estimate itself
    assert pieces.value == whole.value
    assert width(pieces) == pytest.approx(width(whole), rel=0.2)


def test_share_of_peak_does_not_feel_the_clock():
    clock = np.exp(0.2 * np.random.default_rng(0).standard_normal(50))
    samples = Samples({"a": 2.0 / clock}, {"a": 100.0 * clock})
    share = intervals.share_of_peak(samples, "a", operations=150.0, threads=1)
    assert (share.value, share.low, share.high) == pytest.approx((0.75, 0.75, 0.75))
    assert intervals.share_of_peak(samples, "a", operations=150.0, threads=3).value == pytest.approx(0.25)


def test_a_share_without_a_peak_loop_is_an_error():
    with pytest.raises(KeyError):
        intervals.share_of_peak(identical(0), "a", operations=1.0)
