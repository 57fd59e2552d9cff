"""Memory that refuses what hardware would let pass: every access lies inside one allocation and is naturally aligned."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptxsim.errors import PtxError
from ptxsim.operands import SHARED_BASE

GLOBAL_BASE = 0x7F00_0000_0000  # far from zero: an address cut to 32 bits leads nowhere
GUARD = 256  # bytes between allocations that belong to nobody; also the alignment, as cudaMalloc's
POISON = 0xA5  # in every byte of shared memory that nothing has written

Offsets = NDArray[np.int64]  # into a space's bytes


class Fault(Exception):
    """An illegal address: `position` is its place in the array of addresses."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class Space:
    """Bytes with aligned, vectorised access."""

    def __init__(self, size: int, fill: int) -> None:
        self._resize(np.full(-(-size // GUARD) * GUARD, fill, np.uint8))

    def _resize(self, contents: NDArray[np.uint8]) -> None:
        self.bytes = contents
        self._views = {width: contents.view(f"u{width}") for width in (1, 2, 4, 8)}

    def gather(self, offsets: Offsets, width: int, count: int = 1) -> NDArray[Any]:
        """unsigned [n, count]: `count` neighbours of `width` bytes at each offset, a multiple of width * count."""
        if count == 1:
            return self._views[width].take(offsets >> width.bit_length() - 1)[:, None]
        return self._views[width].reshape(-1, count).take(offsets >> (width * count).bit_length() - 1, axis=0)

    def scatter(self, offsets: Offsets, values: NDArray[Any]) -> None:
        """The inverse; where offsets repeat, the last value stays."""
        count, width = values.shape[1], values.itemsize
        if count == 1:
            self._views[width][offsets >> width.bit_length() - 1] = values[:, 0]
        else:
            self._views[width].reshape(-1, count)[offsets >> (width * count).bit_length() - 1] = values


def aligned(addresses: Offsets, size: int) -> None:
    """Raises Fault unless all addresses are multiples of `size`, a power of two."""
    if size > 1:
        wrong = addresses & size - 1
        if wrong.any():
            raise Fault(int(np.flatnonzero(wrong)[0]), f"is not a multiple of {size}")


class GlobalMemory(Space):
    """Allocations with guards between them."""

    def __init__(self) -> None:
        super().__init__(1 << 16, 0)
        self._starts: list[int] = []
        self._ends: list[int] = []

    def put(self, array: NDArray[Any]) -> int:
        """The address of a new allocation that holds a copy of `array`."""
        contents = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start = -(-(self._ends[-1] + GUARD) // GUARD) * GUARD if self._ends else GUARD
        end = start + contents.size
        if end + GUARD > self.bytes.size:
            grown = np.zeros(-(-max(end + GUARD, 2 * self.bytes.size) // GUARD) * GUARD, np.uint8)
            grown[: self.bytes.size] = self.bytes
            self._resize(grown)
        self.bytes[start:end] = contents
        self._starts.append(start)
        self._ends.append(end)
        return GLOBAL_BASE + start

    def get(self, address: int, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """A copy of what an allocation holds. Raises PtxError if [address, address + size) is not inside one."""
        kind = np.dtype(dtype)
        start = address - GLOBAL_BASE
        end = start + int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        i = bisect.bisect_right(self._starts, start) - 1
        if i < 0 or end > self._ends[i]:
            raise PtxError(f"{end - start} bytes at {address:#x} are not inside an allocation")
        return self.bytes[start:end].copy().view(kind).reshape(shape)

    def locate(self, addresses: Offsets, size: int) -> Offsets:
        """Offsets of accesses of `size` bytes, a power of two. Raises Fault."""
        aligned(addresses, size)
        offsets = addresses - GLOBAL_BASE
        low, high = int(offsets.min()), int(offsets.max()) + size
        i = bisect.bisect_right(self._starts, low) - 1
        if i >= 0 and high <= self._ends[i]:
            return offsets
        owners = np.searchsorted(np.array(self._starts, np.int64), offsets, side="right") - 1
        ends = np.array([*self._ends, 0], np.int64)[owners]  # the last element serves owner -1
        outside = (owners < 0) | (offsets + size > ends)
        if outside.any():
            raise Fault(int(np.flatnonzero(outside)[0]), f"is outside every allocation ({size} bytes)")
        return offsets


class SharedMemory(Space):
    """The shared memory of every thread block of a wave, side by side; addresses start at SHARED_BASE in each."""

    def __init__(self, size: int, blocks: int) -> None:
        self.size = size
        self.stride = -(-size // GUARD) * GUARD
        super().__init__(self.stride * blocks, POISON)

    def locate(self, addresses: Offsets, size: int, blocks: NDArray[np.int64]) -> Offsets:
        """Offsets of accesses of `size` bytes by threads of the given blocks. Raises Fault."""
        aligned(addresses, size)
        low, high = int(addresses.min()) - SHARED_BASE, int(addresses.max()) - SHARED_BASE + size
        if low < 0 or high > self.size:
            outside = (addresses < SHARED_BASE) | (addresses + size > SHARED_BASE + self.size)
            raise Fault(int(np.flatnonzero(outside)[0]), f"is outside the {self.size} bytes of shared memory ({size} bytes)")
        return addresses + (blocks * self.stride - SHARED_BASE)
