"""The model's few parameters from FasterTransformer's published latencies, and how far it is from those it has not seen."""

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
# gap in seconds, then shares of peaks, inputs, and the cache's gain: physically possible values
LOW = np.array([1e-6, 0.2, 0.1, 1.0, 1.0])
HIGH = np.array([20e-6, 1.0, 1.0, 2000.0, 6.0])
START = np.array([4e-6, 0.7, 0.5, 128.0, 2.0])


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


def fit(entries: Sequence[Published]) -> Parameters:
    """Least squares of the logarithms, with a soft loss: a few entries of the table contradict their neighbours."""
    works = [works_of(entry) for entry in entries]
    measured = np.log([entry.milliseconds / 1000 for entry in entries])
    devices = [DEVICES[entry.device] for entry in entries]

    def residuals(unit: NDArray[np.float64]) -> NDArray[np.float64]:
        parameters = _parameters(unit)
        return np.log([seconds(w, d, parameters) for w, d in zip(works, devices, strict=True)]) - measured

    found = least_squares(residuals, _to_unit(START), bounds=(0, 1), loss="soft_l1", f_scale=0.1)
    return _parameters(found.x)


def _parameters(unit: NDArray[np.float64]) -> Parameters:
    """From [0, 1]^5, geometrically between the limits: all are scales."""
    return Parameters(*map(float, LOW * (HIGH / LOW) ** unit))


def _to_unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(values / LOW) / np.log(HIGH / LOW)


@dataclass(frozen=True)
class HeldOut:
    """Errors of entries that the fit did not see: predicted over published, minus one."""

    group: str
    entries: int
    median: float  # of the absolute values
    worst: float  # largest absolute value


def held_out(entries: Sequence[Published], by: Callable[[Published], str]) -> list[HeldOut]:
    """Leave out one group (a device, a size) at a time and predict it from the others."""
    results = []
    for group in dict.fromkeys(map(by, entries)):
        parameters = fit([entry for entry in entries if by(entry) != group])
        errors = np.array([relative_error(entry, parameters) for entry in entries if by(entry) == group])
        results.append(HeldOut(group, len(errors), float(np.median(np.abs(errors))), float(np.abs(errors).max())))
    return results


def relative_error(entry: Published, parameters: Parameters) -> float:
    return seconds(works_of(entry), DEVICES[entry.device], parameters) * 1000 / entry.milliseconds - 1


def resampled(entries: Sequence[Published], count: int, *, seed: int = 0) -> list[Parameters]:
    """Parameters of bootstrap samples of whole devices and sizes: what other tables of this kind would have said."""
    coin = np.random.default_rng(seed)
    groups = sorted({(entry.device, entry.size) for entry in entries})
    found = []
    for _ in range(count):
        chosen = [groups[i] for i in coin.integers(0, len(groups), len(groups))]
        found.append(fit([entry for group in chosen for entry in entries if (entry.device, entry.size) == group]))
    return found
