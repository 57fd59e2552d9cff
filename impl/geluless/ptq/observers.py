"""What calibration remembers of a tensor, and the range each rule reads from it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from geluless.errors import CalibrationError
from geluless.ptq.profiles import RangeRule

BINS = 4096
PERCENTILE = 99.99  # FasterTransformer's
SAMPLE = 1 << 20  # values per update that enter the histogram; extremes are taken over all of them


class RangeObserver:
    """Histogram over [-limit, limit], with exact extremes; the limit doubles when a value falls outside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.minimum, self.maximum = np.inf, -np.inf
        self._limit = 0.0
        self._counts = np.zeros(BINS)

    def update(self, x: torch.Tensor) -> None:
        """Any float tensor. Raises CalibrationError for NaN or infinite values."""
        low, high = (float(v) for v in torch.aminmax(x))
        if not np.isfinite(low + high):
            raise CalibrationError(f"{self.name} became NaN or infinite during calibration: check the checkpoint and the images")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._grow(max(-low, high))
        flat = x.reshape(-1)
        step = sampling_step(flat.numel(), x.shape[-1])
        if self._limit > 0:
            counts = torch.histc(flat[::step].float(), BINS, -self._limit, self._limit)
            self._counts += counts.double().numpy() * step

    def _grow(self, needed: float) -> None:
        if self._limit == 0:
            self._limit = needed
        while needed > self._limit:
            quarter, pairs = BINS // 4, self._counts.reshape(-1, 2).sum(1)
            self._counts = np.concatenate([np.zeros(quarter), pairs, np.zeros(quarter)])
            self._limit *= 2

    def symmetric(self, rule: RangeRule, *, levels: int = 127) -> float:
        """The absolute value that the largest of `levels` steps should stand for; positive."""
        if self.maximum == -np.inf:
            raise CalibrationError(f"{self.name} has no range: calibration saw no images")
        largest = max(-self.minimum, self.maximum)
        if largest == 0:
            return 1e-6  # a tensor that is zero on all calibration images: any scale is exact
        if rule is RangeRule.MIN_MAX:
            return largest
        magnitude = self._counts.reshape(2, -1)
        magnitude = magnitude[1] + magnitude[0][::-1]
        edges = (np.arange(BINS // 2) + 1) * (2 * self._limit / BINS)
        if rule is RangeRule.PERCENTILE:
            reached = np.searchsorted(np.cumsum(magnitude), PERCENTILE / 100 * magnitude.sum())
            return min(float(edges[min(reached, len(edges) - 1)]), largest)
        return _least_error(edges - self._limit / BINS, magnitude, largest, levels)

    def interval(self, rule: RangeRule) -> tuple[float, float]:
        """(low, high) containing zero, for an asymmetric 8-bit tensor; the longer side is chosen by the rule."""
        amplitude = self.symmetric(rule)
        low, high = max(min(self.minimum, 0.0), -amplitude), min(max(self.maximum, 0.0), amplitude)
        return low, high if high > low else low + 1e-6


def _least_error(values: NDArray, counts: NDArray, largest: float, levels: int) -> float:
    """The clip that minimises rounding (step^2 / 12 per value inside) plus clipping (squared excess outside)."""
    clips = largest * np.linspace(0.2, 1.0, 81)
    rounding = np.array([counts[values <= clip].sum() * (clip / levels) ** 2 / 12 for clip in clips])
    clipping = np.array([(counts * np.maximum(values - clip, 0) ** 2).sum() for clip in clips])
    return float(clips[np.argmin(rounding + clipping)])


def sampling_step(values: int, channels: int) -> int:
    """Every how many-th value enters a histogram: coprime to the channels, which lie innermost, so that all of them are seen."""
    step = max(1, values // SAMPLE)
    while math.gcd(step, channels) > 1:
        step += 1
    return step


class HeadObserver:
    """Largest absolute value per attention head."""

    def __init__(self, heads: int) -> None:
        self.largest = np.zeros(heads)

    def update(self, x: torch.Tensor) -> None:
        """float [..., heads, head_dim]."""
        self.largest = np.maximum(self.largest, x.abs().flatten(0, -3).amax((0, 2)).double().numpy())
