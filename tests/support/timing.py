"""Simulated timing studies whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geluless.bench.harness import Findings, Row
from geluless.bench.paired import Samples
from geluless.verdicts.timed import AGAIN, HANDICAP, RELU, SLOWED, Timed

PROCESSES, BLOCKS = 5, 16


def findings(
    times: Mapping[str, float], *, noise: float = 0.01, layout: float = 0.002, seed: int = 0, processes: int = PROCESSES
) -> Findings:
    """Log-normal noise per block, a layout per process and entry, and a drift that all share."""
    rng = np.random.default_rng(seed)
    blocks = processes * BLOCKS
    drift = np.cumsum(rng.standard_normal(blocks)) * 0.01
    seconds = {
        name: value
        * np.exp(drift + noise * rng.standard_normal(blocks) + np.repeat(layout * rng.standard_normal(processes), BLOCKS))
        for name, value in times.items()
    }
    rows = tuple(Row(name, name, "test", "0", "equal", isa="test") for name in times)
    environment = {"cpu": "simulated", "cores": 1}
    return Findings(Samples(seconds, {}, processes=(BLOCKS,) * processes), 0, rows, 1.0, environment=environment)


def timed(times: Mapping[str, float], *, layout: float = 0.002, seed: int = 0) -> Timed:
    """Two runs of RELU at 1, AGAIN at 1, SLOWED at 1 + HANDICAP, unless `times` says otherwise, and of what else it names."""
    every = {RELU: 1.0, AGAIN: 1.0, SLOWED: 1 + HANDICAP, **times}
    return Timed(tuple(findings(every, layout=layout, seed=2 * seed + run) for run in range(2)))
