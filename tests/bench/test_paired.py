"""Paired timing under a clock of our own: what is recorded, how long it goes on, and samples of several processes."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from geluless.bench.paired import Samples, WallClock, joined, time_paired


class Bench:
    """Candidates of known cost, in nanoseconds, and the order in which they were called."""

    def __init__(self, **costs: int) -> None:
        self.now, self.costs, self.calls = 0, costs, []

    def clock(self) -> int:
        return self.now

    def candidates(self) -> dict[str, Callable[[], None]]:
        return {name: lambda name=name: self.work(name) for name in self.costs}

    def work(self, name: str) -> None:
        self.calls.append(name)
        self.now += self.costs[name]

    def time(self, **options: object) -> Samples:
        return time_paired(self.candidates(), clock=self.clock, **options)


def test_the_recorded_order_is_the_order_of_the_calls():
    bench = Bench(a=100, b=200, c=300)
    samples = bench.time(seconds=0, min_blocks=30, warm_up=0)
    assert [list(samples.seconds)[i] for i in samples.order.ravel()] == bench.calls
    assert (np.sort(samples.order) == [0, 1, 2]).all(), "every candidate once per block"
    assert len({tuple(block) for block in samples.order}) == 6, "all orders occur"


def test_the_seed_decides_the_order():
    first, again, other = (Bench(a=1, b=1).time(seconds=0, min_blocks=30, seed=seed).order for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_warm_up_leaves_no_samples():
    bench = Bench(a=100)
    samples = bench.time(seconds=0, min_blocks=4, warm_up=3)
    assert (samples.blocks, len(bench.calls)) == (4, 7)


def test_time_budget_and_minimum_of_blocks_are_both_kept():
    assert Bench(a=100, b=100).time(seconds=2e-6, min_blocks=3).blocks == 10
    assert Bench(a=100, b=100).time(seconds=2e-6, min_blocks=12).blocks == 12


def test_the_watcher_sees_the_time_pass():
    seen: list[float] = []
    Bench(a=100, b=150).time(seconds=0, min_blocks=3, watch=seen.append)
    assert seen == pytest.approx([250e-9, 500e-9, 750e-9])


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_while_sampling(enabled: bool):
    states: list[bool] = []
    (gc.enable if enabled else gc.disable)()
    try:
        time_paired({"a": lambda: states.append(gc.isenabled())}, seconds=0, min_blocks=3, warm_up=0)
        assert not any(states)
        assert gc.isenabled() == enabled
        with pytest.raises(ZeroDivisionError):
            time_paired({"a": lambda: 1 / 0}, seconds=0, min_blocks=3, warm_up=0)
        assert gc.isenabled() == enabled, "after an error too"
    finally:
        gc.enable()


def test_what_belongs_together_is_timed_one_right_after_the_other():
    bench = Bench(a1=1, b1=1, a2=1, b2=1, c1=1)
    samples = bench.time(seconds=0, min_blocks=300, warm_up=0, together=lambda name: name[0])
    names = [[list(samples.seconds)[i] for i in block] for block in samples.order]
    assert all(abs(block.index("a1") - block.index("a2")) == 1 == abs(block.index("b1") - block.index("b2")) for block in names)
    assert len({tuple(block) for block in names}) == 24, "three groups in any order, two of them in two orders"


def test_no_blocks_are_an_error():
    with pytest.raises(ValueError, match="min_blocks"):
        Bench(a=1).time(min_blocks=0)


def with_a_peak_of(rate: float, bench: Bench, blocks: int) -> Samples:
    stopwatch = WallClock(peak=lambda: rate, clock=bench.clock)
    return bench.time(seconds=0, min_blocks=blocks, seed=blocks, stopwatch=stopwatch)


def test_joined_samples_keep_processes_apart():
    parts = [with_a_peak_of(5.0, Bench(a=100, b=200), blocks) for blocks in (3, 5)]
    both = joined(parts)
    assert both.processes == (3, 5)
    assert both.blocks == len(both.order) == len(both.peak["a"]) == 8
    assert joined([both, parts[0]]).processes == (3, 5, 3)


def test_samples_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="other candidates"):
        joined([Bench(a=1).time(seconds=0), Bench(b=1).time(seconds=0)])
    with pytest.raises(ValueError, match="nothing to join"):
        joined([])
    with pytest.raises(ValueError, match="same number of samples"):
        Samples({"a": np.ones(3), "b": np.ones(2)}, {})
    with pytest.raises(ValueError, match="cannot come from"):
        Samples({"a": np.ones(3)}, {}, processes=(1, 1))
