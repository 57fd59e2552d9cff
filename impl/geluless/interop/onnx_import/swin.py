"""A Swin Transformer as an imported file describes it: float weights, the integers behind them, and the grids of its activations.

Quantizers are the file's, in units of the tensor that the rebuilt network has; None where the file keeps a tensor in float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geluless.interop.onnx_import.activations import ReadActivation
from geluless.interop.onnx_import.import_log import ImportLog, Reason
from geluless.interop.onnx_import.ir import Known, Linear, Quantizer, Round

Float64 = NDArray[np.float64]
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ReadNorm:
    """LayerNorm with any factors per channel that follow it folded in."""

    gamma: Float64
    beta: Float64
    epsilon: float


@dataclass(frozen=True, eq=False)
class ReadLinear:
    """weight [N, K] with its grid; `input_grid` is that of its input, `product_grid` that of its product without the bias."""

    weight: Known
    bias: Float64 | None
    input_grid: Quantizer | None
    product_grid: Quantizer | None


@dataclass(frozen=True, eq=False)
class ReadAttention:
    """qkv with q, k and v one after the other, and everything up to the input of proj.

    `factor` multiplies q k, `vector` the context per channel (SmoothQuant), `bias_table` is [positions, heads].
    """

    qkv: ReadLinear
    heads: int
    window: Size
    shift: Size
    factor: float
    bias_table: Float64
    grids: tuple[Quantizer | None, Quantizer | None, Quantizer | None]  # of q, k, v
    proj: ReadLinear
    vector: Float64 | None


@dataclass(frozen=True, eq=False)
class ReadBlock:
    """The grid of fc1's output and the factors behind the activation are the activation's."""

    norm1: ReadNorm
    attention: ReadAttention
    norm2: ReadNorm
    fc1: ReadLinear
    activation: ReadActivation
    fc2: ReadLinear


@dataclass(frozen=True, eq=False)
class ReadMerge:
    norm: ReadNorm
    reduction: ReadLinear


@dataclass(frozen=True, eq=False)
class ReadStage:
    """`reach` is the largest magnitude that the file's grids hold of the residual stream; None if it is float anywhere."""

    size: Size
    channels: int
    merge: ReadMerge | None
    blocks: tuple[ReadBlock, ...]
    reach: float | None


@dataclass(frozen=True, eq=False)
class ReadSwin:
    """`embedding_reach` and `norm_reach` are as a stage's reach, of the embedding and of the last LayerNorm."""

    image: tuple[int, int, int]
    patch: Size
    embed: ReadLinear
    embedding_reach: float | None
    embed_norm: ReadNorm
    stages: tuple[ReadStage, ...]
    norm: ReadNorm
    norm_reach: float | None
    fc: ReadLinear

    def named_blocks(self) -> Iterator[tuple[str, ReadBlock]]:
        """Every block by its name in timm."""
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage.blocks):
                yield f"layers.{i}.blocks.{j}", block

    def named_merges(self) -> Iterator[tuple[str, ReadMerge]]:
        for i, stage in enumerate(self.stages):
            if stage.merge:
                yield f"layers.{i}.downsample", stage.merge


def read_linear(linear: Linear, name: str, input_grid: Quantizer | None, log: ImportLog) -> ReadLinear:
    log.drop(name, Reason.BEFORE_BIAS, [linear.inner])
    return ReadLinear(linear.weight, linear.bias, input_grid, grid_of(linear.inner))


def grid_of(rounding: Round | None) -> Quantizer | None:
    return None if rounding is None else rounding.grid
