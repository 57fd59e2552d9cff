"""The weights of a read network: as floats for the rebuilt one, and as the file's integers wherever int8 can hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geluless.integer.plan import Activation
from geluless.interop.onnx_import.import_log import Ledger, Reason
from geluless.interop.onnx_import.ir import Known
from geluless.interop.onnx_import.swin import Float64, ReadBlock, ReadLinear, ReadSwin
from geluless.ptq.overrides import GivenWeight


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer of the rebuilt network. `given` holds the file's integers; None where it has to be quantized here."""

    name: str
    weight: Float64  # [N, K]
    bias: Float64 | None
    given: GivenWeight | None


def layers(read: ReadSwin, ledger: Ledger) -> Iterator[Layer]:
    """Every linear layer by its name in timm, with the factors that a file has outside of it folded in."""
    yield _layer("patch_embed.proj", read.embed, ledger)
    for i, stage in enumerate(read.stages):
        if stage.merge:
            yield _layer(f"layers.{i}.downsample.reduction", stage.merge.reduction, ledger)
        for j, block in enumerate(stage.blocks):
            yield from _block_layers(f"layers.{i}.blocks.{j}", block, ledger)
    yield _layer("head.fc", read.fc, ledger)


def score_ratio(block: ReadBlock) -> float:
    """What is left of the factor of q k after the plan's own 1 / sqrt(head_dim); q takes it."""
    attention = block.attention
    head_dim = len(attention.qkv.weight.values) // (3 * attention.heads)
    return attention.factor * head_dim**0.5


def _block_layers(name: str, block: ReadBlock, ledger: Ledger) -> Iterator[Layer]:
    """Factors per channel of the context go into v: softmax mixes tokens, not channels. Those behind a ReLU go into fc1."""
    attention, activation = block.attention, block.mlp.activation
    width = len(attention.qkv.weight.values) // 3
    rows = np.ones(3 * width)
    rows[:width] = score_ratio(block)
    if attention.vector is not None:
        rows[2 * width :] = attention.vector
    yield _layer(f"{name}.attn.qkv", attention.qkv, ledger, rows=rows)
    yield _layer(f"{name}.attn.proj", attention.proj, ledger)
    if activation.vector is None:
        yield _layer(f"{name}.mlp.fc1", block.mlp.fc1, ledger)
        yield _layer(f"{name}.mlp.fc2", block.mlp.fc2, ledger)
    elif activation.kind is Activation.RELU:
        yield _layer(f"{name}.mlp.fc1", block.mlp.fc1, ledger, rows=activation.vector)
        yield _layer(f"{name}.mlp.fc2", block.mlp.fc2, ledger)
    else:
        ledger.change(f"{name}.mlp.fc2", Reason.GELU_FACTORS)
        yield _layer(f"{name}.mlp.fc1", block.mlp.fc1, ledger)
        yield Layer(f"{name}.mlp.fc2", _real(block.mlp.fc2.weight) * activation.vector, block.mlp.fc2.bias, None)


def _layer(name: str, read: ReadLinear, ledger: Ledger, *, rows: Float64 | None = None) -> Layer:
    rows = np.ones(len(read.weight.values)) if rows is None else rows
    held = _integers(name, read.weight, ledger)
    given = None if held is None else GivenWeight(held[0], held[1] * rows)
    return Layer(name, _real(read.weight) * rows[:, None], None if read.bias is None else read.bias * rows, given)


def _real(weight: Known) -> Float64:
    if weight.grid is None:
        return weight.values.astype(np.float64)
    return (weight.grid.steps - weight.grid.zero) * weight.grid.scale


def _integers(name: str, weight: Known, ledger: Ledger) -> tuple[NDArray[np.int8], Float64] | None:
    """(steps [N, K], scale [N]), or None with the reason in the ledger."""
    grid = weight.grid
    if grid is None:
        ledger.change(name, Reason.WEIGHT_FLOAT)
        return None
    if (grid.scale != grid.scale[:, :1]).any():
        ledger.change(name, Reason.WEIGHT_INPUT_CHANNELS)
        return None
    steps = grid.steps - grid.zero
    if steps.min(initial=0) < -128 or steps.max(initial=0) > 127:
        ledger.change(name, Reason.WEIGHT_ZERO_POINT)
        return None
    if (steps == -128).any():
        ledger.change(name, Reason.WEIGHT_LOWEST)
    return np.maximum(steps, -127).astype(np.int8), grid.scale[:, 0].copy()
