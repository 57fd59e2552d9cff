"""What calibration remembers of a tensor, and the range each rule reads from it."""

from __future__ import annotations

import math
from typing import Any

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
        self._zeros = 0.0  # exact ones: after a ReLU most values; every grid here holds zero, so rounding never touches them

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
            sample = flat[::step].float()
            self._counts += torch.histc(sample, BINS, -self._limit, self._limit).double().numpy() * step
            self._zeros += int((sample == 0).sum()) * step

    def _grow(self, needed: float) -> None:
        if self._limit == 0:
            self._limit = needed
        while needed > self._limit:
            quarter, pairs = BINS // 4, self._counts.reshape(-1, 2).sum(1)
            self._counts = np.concatenate([np.zeros(quarter), pairs, np.zeros(quarter)])
            self._limit *= 2

    def symmetric(self, rule: RangeRule, *, levels: int = 127) -> float:
        """The absolute value that the largest of `levels` steps should stand for; positive."""
        self._require_values()
        largest = max(-self.minimum, self.maximum)
        if largest == 0:
            return 1e-6  # a tensor that is zero on all calibration images: any scale is exact
        if rule is RangeRule.MIN_MAX:
            return largest
        magnitude = self._counts.reshape(2, -1)
        magnitude = magnitude[1] + magnitude[0][::-1]
        width = 2 * self._limit / BINS
        edges = (np.arange(BINS // 2) + 1) * width
        if rule is RangeRule.PERCENTILE:
            reached = np.searchsorted(np.cumsum(magnitude), PERCENTILE / 100 * magnitude.sum())
            return min(float(edges[min(reached, len(edges) - 1)]), largest)
        magnitude[0] -= self._zeros
        clips = _clips(largest)
        outside, clipping = _beyond(edges - width / 2, magnitude, clips)
        rounding = (magnitude.sum() - outside) * (clips / levels) ** 2 / 12
        return float(clips[np.argmin(rounding + clipping)])

    def interval(self, rule: RangeRule, *, levels: int = 255) -> tuple[float, float]:
        """(low, high) containing zero, `levels` steps apart: both ends are chosen by the rule."""
        self._require_values()
        low, high = min(self.minimum, 0.0), max(self.maximum, 0.0)
        if high == low:
            return low, low + 1e-6  # a tensor that is zero on all calibration images: any scale is exact
        if rule is RangeRule.MIN_MAX:
            return low, high
        if rule is RangeRule.PERCENTILE:
            amplitude = self.symmetric(rule)
            return max(low, -amplitude), min(high, amplitude)
        counts = self._counts.copy()
        counts[BINS // 2] -= self._zeros
        values = (np.arange(BINS) + 0.5) * (2 * self._limit / BINS) - self._limit
        lows, highs = _clips(-low), _clips(high)
        below, clipped_below = _beyond(-values, counts, lows)
        above, clipped_above = _beyond(values, counts, highs)
        inside = counts.sum() - below[:, None] - above
        error = inside * ((lows[:, None] + highs) / levels) ** 2 / 12 + clipped_below[:, None] + clipped_above
        best = np.unravel_index(np.argmin(error), error.shape)
        return -float(lows[best[0]]), float(highs[best[1]])

    def _require_values(self) -> None:
        if self.maximum == -np.inf:
            raise CalibrationError(f"{self.name} has no range: calibration saw no images")


def _clips(largest: float) -> NDArray[Any]:
    """Where the MSE rule looks for the end of a range; only [0] for a side that holds nothing."""
    return largest * np.linspace(0.2, 1.0, 81) if largest > 0 else np.zeros(1)


def _beyond(values: NDArray[Any], counts: NDArray[Any], clips: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For every clip: how many values lie above it, and the sum of their squared excesses."""
    outside = np.array([counts[values > clip].sum() for clip in clips])
    return outside, np.array([(counts * np.maximum(values - clip, 0) ** 2).sum() for clip in clips])


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
