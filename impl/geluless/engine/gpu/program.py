"""A GPU program: buffers and launches, as plain values that three executors run (interpreter, PTX on the CPU, CUDA).

The program knows neither torch nor triton. It is made by `lowering`, examined by `codegen_check`, and run by an executor; what
is verified on one executor is therefore what runs on another, launch by launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Constant = int | str
Tap = Callable[[str, NDArray[Any]], None]  # gets an intermediate tensor by its name in the reference: int32 [rows, width]
GRID_LIMITS = (2**31 - 1, 2**16 - 1, 2**16 - 1)  # thread blocks along x, y and z, of every CUDA device


@dataclass(frozen=True)
class Buffer:
    """Device memory. With `data` it is a constant of the program (weights, tables); without, scratch of `shape`."""

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Float:
    """A scalar argument of type fp32; integers are passed as they are."""

    value: float


@dataclass(frozen=True)
class Launch:
    """One kernel call. `arguments` maps parameters to buffer names, scalars or None, `constants` the compile-time ones.

    Raises ValueError for a grid that no device takes, so that no executor runs what another could not.
    """

    name: str  # of the place in the network: "layers.0.blocks.1.mlp.fc1"
    kernel: str
    grid: tuple[int, int, int]
    arguments: Mapping[str, str | int | Float | None]
    constants: Mapping[str, Constant]
    warps: int
    stages: int
    fp_fusion: bool  # may the compiler contract a multiplication and an addition? Not where bits are specified
    writes: str  # the buffer that holds the result

    def __post_init__(self) -> None:
        if not all(1 <= count <= limit for count, limit in zip(self.grid, GRID_LIMITS, strict=True)):
            raise ValueError(f"{self.name}: a grid of {self.grid} where a device takes {GRID_LIMITS} blocks: use smaller batches")

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the buffers among its arguments, each once, in their order."""
        return tuple(dict.fromkeys(value for value in self.arguments.values() if isinstance(value, str)))

    @property
    def programs(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class TapPoint:
    """An intermediate tensor that the reference names too: the first `shape` elements of a buffer, plus `offset`."""

    name: str
    buffer: str
    shape: tuple[int, int]
    offset: int


@dataclass(frozen=True, eq=False)
class Program:
    """Launches in order. The caller fills `images` and reads `logits` and `unusable` (non-zero: NaN or infinite pixels).

    A program equals itself alone: executors keep what they prepared for it as long as it lives.
    """

    batch: int
    buffers: Mapping[str, Buffer]
    launches: tuple[Launch, ...]
    tap_points: Mapping[int, TapPoint]  # by index of the launch after which the tensor is complete


IMAGES, LOGITS, UNUSABLE = "images", "logits", "unusable"
