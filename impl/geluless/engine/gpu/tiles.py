"""How the kernels are cut into tiles, per architecture: a table, and what a GPU's own measurements may put in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MIN_DOT_K = 32  # of tl.dot on bytes


@dataclass(frozen=True)
class Tile:
    """Of the linear kernel: a thread block computes block_m x block_n outputs in steps of block_k."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Chunk:
    """Of an elementwise kernel: a thread block takes `block` elements in a row."""

    block: int
    warps: int


# What a kernel's time depends on: (rows, outputs, inputs, epilogue) of a linear layer; (elements, channels, kernel) of an
# activation in a kernel of its own, with 1 for channels where it treats all alike.
Shape = tuple[int, int, int, str] | tuple[int, int, str]
WARPS = 4

KIB = 1 << 10
RESERVED = 1 * KIB  # shared memory that the driver takes of every thread block


@dataclass(frozen=True)
class Architecture:
    """Limits and preferences of one GPU generation (or of the interpreter, which likes few, large programs)."""

    name: str
    capability: int | None  # 89 for sm_89; None for the interpreter
    multiprocessors: int  # of the card the table was made for: fewer thread blocks than this leave some idle
    shared: int = 100 * KIB  # bytes of shared memory of a multiprocessor; a thread block gets all but RESERVED at most
    resident_warps: int = 48  # of a multiprocessor, at most
    registers: int = 64 * KIB  # of a multiprocessor
    block_m: tuple[int, ...] = (128, 64, 32, 16)
    block_n: tuple[int, ...] = (128, 64, 32)
    stages: int = 3
    elementwise: int = 1024
    norm_elements: int = 4096  # of a LayerNorm program


# Shared memory and warps: "Technical specifications per compute capability" of the CUDA programming guide. Preferences are the
# same everywhere because none has been measured on any of these: the smallest shared memory (sm_86, sm_89, sm_120) holds three
# stages of the largest tile twice, and more stages where there is more room are a guess. `geluless tune` measures.
ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("sm_80", 80, 108, shared=164 * KIB, resident_warps=64),
        Architecture("sm_86", 86, 84),
        Architecture("sm_89", 89, 128),
        Architecture("sm_90", 90, 132, shared=228 * KIB, resident_warps=64),
        Architecture("sm_120", 120, 170),
        Architecture(
            "interpreter",
            None,
            1,
            block_m=(2048, 512, 128, 32),
            block_n=(512, 128, 32),
            elementwise=1 << 17,
            norm_elements=1 << 17,
        ),
    )
}


def power_of_two(n: int, *, at_least: int = 1) -> int:
    """The smallest power of two that is no smaller than n."""
    return max(at_least, 1 << max(0, n - 1).bit_length())


@dataclass(frozen=True)
class Tiles:
    """The choice for every kernel. `tuned` holds what a GPU found fastest."""

    architecture: Architecture
    tuned: Mapping[Shape, Tile | Chunk] = field(default_factory=dict)

    def linear(self, rows: int, outputs: int, inputs: int, epilogue: str) -> Tile:
        if isinstance(tuned := self.tuned.get((rows, outputs, inputs, epilogue)), Tile):
            return tuned
        # Channels computed in vain cost as much as useful ones; a narrow tile loads its rows more often (the second factor).
        # A residual epilogue holds the stream beside the accumulators: half as many columns, or registers run out.
        widest = self.architecture.block_n[0] // (2 if epilogue.endswith("residual") else 1)
        blocks = [block for block in self.architecture.block_n if block <= widest]
        block_n = min(blocks, key=lambda block: (-(-outputs // block) * block * (1 + 16 / block), -block))
        block_k = 64 if inputs % 64 == 0 else MIN_DOT_K
        columns = -(-outputs // block_n)
        enough = [
            block for block in self.architecture.block_m if -(-rows // block) * columns >= self.architecture.multiprocessors
        ]
        block_m = enough[0] if enough else self.architecture.block_m[-1]
        # Eight warps share a 128 x 128 tile: with four a GELU epilogue does not fit the registers.
        warps = 8 if block_m * block_n >= 128 * 128 else WARPS
        return Tile(block_m, block_n, block_k, warps, self.architecture.stages)

    def elementwise(self, elements: int, channels: int, kernel: str) -> Chunk:
        if isinstance(tuned := self.tuned.get((elements, channels, kernel)), Chunk):
            return tuned
        return Chunk(min(self.architecture.elementwise, power_of_two(elements)), WARPS)

    def attention(self, tokens: int) -> tuple[int, int]:
        """(queries, keys) of a block: the whole window up to 64 tokens, else steps that waste little of it."""
        whole = power_of_two(tokens, at_least=MIN_DOT_K)
        if whole <= 64 or self.architecture.capability is None:
            return min(whole, 64), min(whole, 64)
        return min((64, 32), key=lambda block: (-(-tokens // block) * block, -block)), 32

    def norm_rows(self, width: int) -> int:
        """Rows per LayerNorm program for rows of `width` (a power of two) elements."""
        return max(1, self.architecture.norm_elements // width)
