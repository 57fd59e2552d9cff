"""How often the intervals hold the truth, simulated where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from geluless.bench.intervals import ratio, ratio_over_processes
from geluless.bench.paired import Samples

PROCESSES, BLOCKS = 5, 12
TRIALS = 2000
# Standard deviations of log time, between processes and between blocks: from a quiet machine to a restless one.
WORLDS = [(0.0, 0.01), (0.002, 0.01), (0.005, 0.005), (0.01, 0.005)]


def simulated(truth: float, between: float, within: float, rng: np.random.Generator, *, heavy: bool = False) -> Samples:
    """Two candidates whose times have the ratio `truth`; drift moves both."""
    blocks = PROCESSES * BLOCKS
    noise = rng.standard_t(3, (2, blocks)) if heavy else rng.standard_normal((2, blocks))
    layout = np.repeat(rng.standard_normal(PROCESSES) * between, BLOCKS)
    drift = np.cumsum(rng.standard_normal(blocks)) * 0.01
    a = np.exp(drift + noise[0] * within / np.sqrt(2) + layout) * truth
    b = np.exp(drift + noise[1] * within / np.sqrt(2))
    return Samples({"a": a, "b": b}, {}, processes=(BLOCKS,) * PROCESSES)


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
@pytest.mark.parametrize(("between", "within"), WORLDS)
def test_the_interval_over_processes_covers_what_it_says(between: float, within: float, heavy: bool) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(TRIALS):
        interval = ratio_over_processes(simulated(1.1, between, within, rng, heavy=heavy), "a", "b", confidence=0.95)
        hits += interval.low <= 1.1 <= interval.high
    assert 0.93 <= hits / TRIALS <= 0.97


def test_a_bootstrap_of_few_processes_does_not() -> None:
    """Why it is not used for claims: where processes differ more than blocks it is far too narrow."""
    rng = np.random.default_rng(2)
    trials, hits = 200, 0
    for _ in range(trials):
        interval = ratio(simulated(1.1, 0.01, 0.005, rng), "a", "b")
        hits += interval.low <= 1.1 <= interval.high
    assert hits / trials < 0.92


def test_two_processes_are_too_few() -> None:
    samples = Samples({"a": np.ones(4), "b": np.ones(4)}, {}, processes=(2, 2))
    with pytest.raises(ValueError, match="at least three"):
        ratio_over_processes(samples, "a", "b")
