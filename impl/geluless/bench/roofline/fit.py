"""The model's parameters: what FasterTransformer's published latencies say, what they do not, and how far off the model is.

Three parameters are fitted: the gap between kernels, and share and depth of the tensor cores. The others are assumed, as ranges:
the table fits about equally well wherever in them they stand (tests/bench/test_roofline.py), so it says nothing about them.
Fitted along with the rest they ran to the ends of what is possible, and their uncertainty was lost.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from geluless.bench.roofline import fastertransformer
from geluless.bench.roofline.devices import DEVICES
from geluless.bench.roofline.work import Parameters, Work, seconds

TABLE = Path(__file__).with_name("fastertransformer_int8.csv")

# Fitted: (smallest, start, largest), physically possible values.
FITTED = {"gap": (1e-6, 4e-6, 20e-6), "tensor_share": (0.05, 0.5, 1.0), "half_depth": (1.0, 128.0, 2000.0)}


@dataclass(frozen=True)
class Assumed:
    """A range that kernels of this kind lie in, and why."""

    low: float
    central: float
    high: float
    reason: str


ASSUMED = {
    "bandwidth_share": Assumed(0.7, 0.8, 0.9, "simple kernels stream 70 to 90 % of a data sheet's DRAM bandwidth"),
    "l2_gain": Assumed(1.0, 2.0, 3.0, "a level-2 cache gives two to three times DRAM's bandwidth, if data are still there"),
    "overlap": Assumed(0.5, 0.75, 1.0, "two resident blocks hide at least half of what is not the bottleneck"),
    "issue_share": Assumed(0.4, 0.65, 0.9, "dependencies leave some issue slots empty"),
}


@dataclass(frozen=True)
class Published:
    """One entry of the table."""

    device: str
    size: str
    batch: int
    milliseconds: float


def published() -> list[Published]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [Published(r["device"], r["size"], int(r["batch"]), float(r["milliseconds"])) for r in csv.DictReader(lines)]


def works_of(entry: Published) -> list[Work]:
    return fastertransformer.forward(entry.size, entry.batch, DEVICES[entry.device])


def assume(coin: np.random.Generator | None = None) -> dict[str, float]:
    """Values of what is assumed: central, or drawn evenly from the ranges."""
    return {
        name: assumed.central if coin is None else float(coin.uniform(assumed.low, assumed.high))
        for name, assumed in ASSUMED.items()
    }


class _Table:
    """Entries as arrays: `work.seconds` of all of them at once, and much faster. The tests compare the two."""

    def __init__(self, entries: Sequence[Published]) -> None:
        rows: list[tuple[float, ...]] = []
        starts: list[int] = []
        for entry in entries:
            device = DEVICES[entry.device]
            starts.append(len(rows))
            for work in works_of(entry):
                size = work.read + work.written
                cached = size <= device.l2_bytes / 2
                rows.append((work.launches, size / device.bandwidth, cached, work.macs / device.int8_macs, work.depth))
        self.launches, self.memory, self.cached, self.tensor, self.depth = np.array(rows, np.float64).T
        self.starts = np.array(starts)
        self.logarithms = np.log([entry.milliseconds / 1000 for entry in entries])

    def seconds(self, p: Parameters) -> NDArray[np.float64]:
        """[entries]"""
        memory = self.memory / (p.bandwidth_share * np.where(self.cached > 0, p.l2_gain, 1.0))
        tensor = self.tensor * (self.depth + p.half_depth) / (p.tensor_share * self.depth)
        longest = np.maximum(memory, tensor)
        kernels = self.launches * (p.gap + longest + (1 - p.overlap) * (memory + tensor - longest))
        return np.add.reduceat(kernels, self.starts)


def fit(entries: Sequence[Published], assumed: dict[str, float] | None = None) -> Parameters:
    """Least squares of the logarithms, with a soft loss: a few entries of the table contradict their neighbours."""
    table, known = _Table(entries), assumed or assume()
    low, start, high = np.log(np.array(list(FITTED.values()))).T

    def parameters(logarithms: NDArray[np.float64]) -> Parameters:  # all are scales
        return Parameters(**dict(zip(FITTED, map(float, np.exp(logarithms)), strict=True)), **known)

    def residuals(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(table.seconds(parameters(logarithms))) - table.logarithms

    return parameters(least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1).x)


def at_bounds(parameters: Parameters) -> list[str]:
    """Fitted parameters that ended where they were not allowed to go on: the table does not determine those either."""
    ends = ((name, getattr(parameters, name), low, high) for name, (low, _, high) in FITTED.items())
    return [name for name, value, low, high in ends if min(value / low, high / value) < 1.01]


@dataclass(frozen=True)
class HeldOut:
    """Errors of entries that the fit did not see: predicted over published, minus one."""

    group: str
    entries: int
    median: float  # of the absolute values
    worst: float  # largest absolute value
    logarithms: tuple[float, ...]  # of predicted over published


def held_out(entries: Sequence[Published], by: Callable[[Published], str]) -> list[HeldOut]:
    """Leave out one group (a device, a size) at a time and predict it from the others."""
    results = []
    for group in dict.fromkeys(map(by, entries)):
        parameters = fit([entry for entry in entries if by(entry) != group])
        errors = np.array([relative_error(entry, parameters) for entry in entries if by(entry) == group])
        logarithms = tuple(map(float, np.log1p(errors)))
        results.append(HeldOut(group, len(errors), float(np.median(np.abs(errors))), float(np.abs(errors).max()), logarithms))
    return results


def relative_error(entry: Published, parameters: Parameters) -> float:
    return seconds(works_of(entry), DEVICES[entry.device], parameters) * 1000 / entry.milliseconds - 1


def resampled(entries: Sequence[Published], count: int, *, seed: int = 0) -> list[Parameters]:
    """Parameters of bootstrap samples of whole devices and sizes, each under other assumptions: what else could be true."""
    coin = np.random.default_rng(seed)
    groups = sorted({(entry.device, entry.size) for entry in entries})
    found = []
    for _ in range(count):
        chosen = [groups[i] for i in coin.integers(0, len(groups), len(groups))]
        sample = [entry for group in chosen for entry in entries if (entry.device, entry.size) == group]
        found.append(fit(sample, assume(coin)))
    return found
