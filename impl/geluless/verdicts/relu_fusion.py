"""ReLU fused into an INT8 GEMM against GEMM then ReLU, as cases whose differing outputs are counted.

    fused:                    y = requantize(acc, low = zero point)
    ReLU on the accumulator:  y = requantize(max(acc + bias, 0))       the int32 level
    ReLU after it:            y = max(requantize(acc), zero point)     the 16-bit level

The unfused forms are written here once more in int64, straight from the formula, so that both sides of the comparison
cannot share a defect of the engine's epilogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.integer.requantization import Requant, requantize

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GemmCase:
    """One INT8 GEMM with its requantization; `high` is the upper clamp of the output."""

    x: Int64  # 8-bit values [M, K]
    weight: Int64  # int8 values [N, K]
    requant: Requant
    high: int

    @property
    def acc(self) -> Int64:
        return self.x @ self.weight.T  # exact: far below 2^63

    def fused(self, *, zero_point_offset: int = 0) -> Int64:
        """The engine's epilogue with ReLU as its lower clamp; the offset is a deliberate defect."""
        requant = replace(self.requant, zero_point=self.requant.zero_point + zero_point_offset)
        return requantize(self.acc.astype(np.int32), requant, low=requant.zero_point, high=self.high).astype(np.int64)

    def relu_on_accumulator(self) -> Int64:
        return np.minimum(self._rescaled(np.maximum(self.acc + self.requant.bias, 0)), self.high)

    def relu_after_requantization(self, *, clamp_offset: int = 0) -> Int64:
        wide = self._rescaled(self.acc + self.requant.bias)
        return np.minimum(np.maximum(wide, self.requant.zero_point + clamp_offset), self.high)

    def _rescaled(self, biased: Int64) -> Int64:
        """((sat16((biased + half) >> s) * m + 2^14) >> 15) + zero point, in int64."""
        shift = self.requant.shift.astype(np.int64)
        half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
        narrow = np.clip((biased + half) >> shift, -(2**15), 2**15 - 1)
        return ((narrow * self.requant.multiplier + 2**14) >> 15) + self.requant.zero_point


def random_gemms(count: int, *, seed: int) -> Iterator[GemmCase]:
    """Seeded cases, many of them extreme: largest operands, one-element shapes, K of every Swin layer, all useful shifts."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        m, n = (int(size) for size in generator.integers(1, 13, 2))
        k = int(generator.choice([1, 2, 3, 4, 31, 48, 64, 96, 192, 384, 768, 1536, 3072]))
        unsigned = bool(generator.integers(2))
        low, high = (0, 255) if unsigned else (-128, 127)
        if index % 4 == 0:
            x = generator.choice([low, high], (m, k))
            weight = generator.choice([-128, -127, 127], (n, k))
        else:
            x = generator.integers(low, high + 1, (m, k))
            weight = generator.integers(-127, 128, (n, k))
        bias = generator.integers(-(2 ** int(generator.integers(1, 25))), 2 ** int(generator.integers(1, 25)), n)
        spread = max(int(np.abs(x @ weight.T + bias).max()), 1)
        # Around the shift that just fits 16 bits: some outputs saturate, some vanish.
        shift = np.clip(int(spread).bit_length() - 15 + generator.integers(-2, 4, n), 0, 22)
        requant = Requant(
            bias.astype(np.int32),
            generator.integers(1, 2 ** int(generator.integers(4, 16)), n).astype(np.int32),
            shift.astype(np.uint8),
            int(generator.choice([0, 0, 1, 7, 128, 200])),
        )
        yield GemmCase(x.astype(np.int64), weight.astype(np.int64), requant, 255)


def every_pair_differences(*, clamp_offset: int) -> int:
    """Of all 256 x 256 pairs (stored value, zero point): how many differ from ReLU computed in real numbers.

    The engine's requantization is made the identity (twice the value times 2^14 over 2^15), so that only its lower clamp,
    at zero point + clamp_offset, is at work.
    """
    stored = np.arange(256)
    differences = 0
    for zero_point in range(256):
        requant = Requant(np.zeros(1, np.int32), np.array([2**14], np.int32), np.zeros(1, np.uint8), zero_point)
        acc = (2 * (stored - zero_point)).astype(np.int32)[:, None]
        fused = requantize(acc, requant, low=zero_point + clamp_offset, high=255)[:, 0]
        scale = 0.0625  # any power of two keeps the real numbers exact
        real = np.maximum(scale * (stored - zero_point), 0.0)
        differences += count_differences(fused, np.rint(real / scale) + zero_point)
    return differences


def count_differences(a: NDArray[Any], b: NDArray[Any]) -> int:
    return int((a != b).sum())
