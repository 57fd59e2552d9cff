"""From what a file says to what an artifact can hold: the grids of activations in the plan's terms, every difference noted."""

from __future__ import annotations

from geluless.integer.plan import Activation
from geluless.integer.schema import POOLED
from geluless.interop.onnx_import.import_log import Ledger, Reason
from geluless.interop.onnx_import.ir import Quantizer
from geluless.interop.onnx_import.swin import ReadBlock, ReadSwin
from geluless.interop.onnx_import.weights import score_ratio
from geluless.ptq.folding import Side

INT8, UINT8 = (-128, 127), (0, 255)
# A grid around zero keeps the file's step while no more than this part of the file's range falls off int8; beyond, it is widened.
CLIPPED = 1 / 8


def given_sides(read: ReadSwin, ledger: Ledger) -> dict[str, Side]:
    """The file's grids by the names of `ptq.given.Given`; tensors that the file keeps in float are missing."""
    sides: dict[str, Side | None] = {"patch_embed.proj:in": _unsigned(read.embed.side)}
    for i, stage in enumerate(read.stages):
        if stage.merge:
            sides[f"layers.{i}.downsample.norm:out"] = _signed(stage.merge.reduction.side)
        for j, block in enumerate(stage.blocks):
            sides |= _block_sides(f"layers.{i}.blocks.{j}", block, ledger)
    pooled = read.fc.side
    # 12 bits hold the differences q - zero_point of any 8-bit grid
    sides["head.fc:in"] = None if pooled is None else Side(pooled.scale, 0, *POOLED)
    return {name: side for name, side in sides.items() if side is not None}


def _block_sides(name: str, block: ReadBlock, ledger: Ledger) -> dict[str, Side | None]:
    attention, mlp = block.attention, block.mlp
    ratio = score_ratio(block)
    query, key, value = attention.grids
    context = _signed(attention.proj.side)
    sides = {
        f"{name}.norm1:out": _signed(attention.qkv.side),
        f"{name}.attn.qkv:q": None if query is None else _scaled(_around_zero(query, f"{name}.attn.qkv:q", ledger), ratio),
        f"{name}.attn.qkv:k": _signed(key),
        f"{name}.attn.proj:in": context,
        f"{name}.norm2:out": _signed(mlp.fc1.side),
    }
    if value is not None and attention.vector is None:
        sides[f"{name}.attn.qkv:v"] = _value(value, context, f"{name}.attn.qkv:v", ledger)
    activation = mlp.activation
    hidden = None if activation.hidden is None else activation.hidden.grid
    if activation.kind is Activation.RELU:
        sides[f"{name}.mlp.fc2:in"] = None if hidden is None else _relu(hidden, f"{name}.mlp.fc2:in", ledger)
    else:
        if activation.vector is None:
            sides[f"{name}.mlp.fc2:in"] = _unsigned(hidden)
        sides[f"{name}.mlp.fc1:out"] = None if activation.pre is None else _unsigned(activation.pre.grid)
    return sides


def _signed(grid: Quantizer | None) -> Side | None:
    if grid is None:
        return None
    return Side(grid.scale, grid.zero_point - grid.low + INT8[0], *INT8)


def _unsigned(grid: Quantizer | None) -> Side | None:
    return None if grid is None else Side(grid.scale, grid.zero_point - grid.low, *UINT8)


def _scaled(side: Side, ratio: float) -> Side:
    return Side(side.scale * ratio, side.zero_point, side.low, side.high)


def _relu(grid: Quantizer, name: str, ledger: Ledger) -> Side:
    """A non-negative tensor: uint8 from zero, or int8 of which only the upper half is used."""
    top = grid.high - grid.zero_point
    if top == INT8[1]:
        return Side(grid.scale, 0, *INT8)
    if top != UINT8[1]:
        ledger.change(name, Reason.RELU_TOP)
    return Side(grid.scale, 0, *UINT8)


def _around_zero(grid: Quantizer, name: str, ledger: Ledger, *, offset: float = 0.0) -> Side:
    """int8 without a zero point for the grid's values plus `offset`: its own step, or a wider one where that clips too much."""
    widest = max(-(grid.lowest + offset), grid.highest + offset)
    steps = widest / grid.scale
    lost = (steps - 128) / 255
    if lost <= CLIPPED:
        if grid.zero_point - grid.low != 128 and not offset:
            ledger.change(name, Reason.QUERY_ZERO)
        return Side(grid.scale, 0, *INT8)
    ledger.change(name, Reason.VALUE_SHIFT if offset else Reason.QUERY_WIDER)
    return Side(widest / 127, 0, *INT8)


def _value(grid: Quantizer, context: Side | None, name: str, ledger: Ledger) -> Side:
    """v is stored with the context's zero point added as a real number; its own grid is then moved by a part of a step."""
    offset = 0.0 if context is None else context.zero_point * context.scale
    if offset:
        ledger.change(name, Reason.VALUE_SHIFT)
    return _around_zero(grid, name, ledger, offset=offset)
