"""The ranges of an artifact's activations: the file's grids in the plan's terms, every difference noted, and calibration for the
tensors that a file keeps in float. Tensors go by their names in `ptq.calibrate.Observations`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformer

from geluless.errors import CalibrationError
from geluless.integer.plan import Activation
from geluless.integer.schema import POOLED
from geluless.interop.onnx_import.import_log import ImportLog, Reason
from geluless.interop.onnx_import.ir import Quantizer
from geluless.interop.onnx_import.rebuilding import score_ratio
from geluless.interop.onnx_import.swin import ReadBlock, ReadSwin, grid_of
from geluless.ptq.calibrate import Observations, observe
from geluless.ptq.folding import QuantParams
from geluless.ptq.observers import RangeObserver
from geluless.ptq.quantize import digested

INT8, UINT8 = (-128, 127), (0, 255)
# A grid around zero keeps the file's step while no more than this part of the file's range falls off int8; beyond, it is widened.
CLIPPED = 1 / 8


def needed(read: ReadSwin) -> list[str]:
    """The tensors whose ranges make an artifact of this network."""
    names = ["patch_embed.proj:in", "patch_embed.proj:out"]
    for i, stage in enumerate(read.stages):
        names += [f"layers.{i}.downsample.norm:out"] if stage.merge else []
        names.append(f"layers.{i}:residual")
        for j, block in enumerate(stage.blocks):
            name = f"layers.{i}.blocks.{j}"
            names += [f"{name}.norm1:out", *(f"{name}.attn.qkv:{part}" for part in "qkv"), f"{name}.attn.proj:in"]
            names += [f"{name}.norm2:out", f"{name}.mlp.fc2:in"]
            names += [f"{name}.mlp.fc1:out"] if block.activation.kind is Activation.GELU else []
    return [*names, "norm:out", "head.fc:in"]


# ------------------------------------------------------------------------------------------------------- from the file


def file_qparams(read: ReadSwin, log: ImportLog) -> dict[str, QuantParams]:
    """The file's grids of 8-bit tensors; those that the file keeps in float are missing."""
    found: dict[str, QuantParams | None] = {"patch_embed.proj:in": _unsigned(read.embed.input_grid)}
    for name, merge in read.named_merges():
        found[f"{name}.norm:out"] = _signed(merge.reduction.input_grid)
    for name, block in read.named_blocks():
        found |= _block_qparams(name, block, log)
    if (pooled := read.fc.input_grid) is not None:
        # 12 bits hold the differences q - zero_point of any 8-bit grid.
        found["head.fc:in"] = QuantParams(pooled.scale, 0, *POOLED)
    return {name: qparams for name, qparams in found.items() if qparams is not None}


def _block_qparams(name: str, block: ReadBlock, log: ImportLog) -> dict[str, QuantParams | None]:
    attention, activation = block.attention, block.activation
    query, key, value = attention.grids
    context = _signed(attention.proj.input_grid)
    found = {
        f"{name}.norm1:out": _signed(attention.qkv.input_grid),
        f"{name}.attn.qkv:k": _signed(key),
        f"{name}.attn.proj:in": context,
        f"{name}.norm2:out": _signed(block.fc1.input_grid),
    }
    if query is not None:
        around_zero = _around_zero(query, f"{name}.attn.qkv:q", log)
        found[f"{name}.attn.qkv:q"] = QuantParams(around_zero.scale * score_ratio(block), 0, *INT8)
    if value is not None and attention.vector is None:
        found[f"{name}.attn.qkv:v"] = _value(value, context, f"{name}.attn.qkv:v", log)
    hidden = grid_of(activation.hidden)
    if activation.kind is Activation.RELU:
        found[f"{name}.mlp.fc2:in"] = None if hidden is None else _relu(hidden, f"{name}.mlp.fc2:in", log)
        return found
    if activation.vector is None:
        found[f"{name}.mlp.fc2:in"] = _unsigned(hidden)
    found[f"{name}.mlp.fc1:out"] = _unsigned(grid_of(activation.pre))
    return found


def _signed(grid: Quantizer | None) -> QuantParams | None:
    return None if grid is None else QuantParams(grid.scale, grid.zero_point - grid.low + INT8[0], *INT8)


def _unsigned(grid: Quantizer | None) -> QuantParams | None:
    return None if grid is None else QuantParams(grid.scale, grid.zero_point - grid.low, *UINT8)


def _relu(grid: Quantizer, name: str, log: ImportLog) -> QuantParams:
    """A non-negative tensor: uint8 from zero, or int8 of which only the upper half is used."""
    top = grid.high - grid.zero_point
    if top == INT8[1]:
        return QuantParams(grid.scale, 0, *INT8)
    if top != UINT8[1]:
        log.change(name, Reason.RELU_TOP)
    return QuantParams(grid.scale, 0, *UINT8)


def _around_zero(grid: Quantizer, name: str, log: ImportLog, *, offset: float = 0.0) -> QuantParams:
    """int8 without a zero point for the grid's values plus `offset`: its own step, or a wider one where that clips too much."""
    widest = max(-(grid.lowest + offset), grid.highest + offset)
    steps = widest / grid.scale
    lost = (steps - 128) / 255
    if lost <= CLIPPED:
        if grid.zero_point - grid.low != 128 and not offset:
            log.change(name, Reason.QUERY_ZERO)
        return QuantParams(grid.scale, 0, *INT8)
    log.change(name, Reason.VALUE_SHIFT if offset else Reason.QUERY_WIDER)
    return QuantParams(widest / 127, 0, *INT8)


def _value(grid: Quantizer, context: QuantParams | None, name: str, log: ImportLog) -> QuantParams:
    """v is stored with the context's zero point added as a real number; its own grid is then moved by a part of a step."""
    offset = 0.0 if context is None else context.zero_point * context.scale
    if offset:
        log.change(name, Reason.VALUE_SHIFT)
    return _around_zero(grid, name, log, offset=offset)


def reaches(read: ReadSwin) -> dict[str, float]:
    """Largest magnitudes, where the file tells them, of tensors that are int16 here whatever the file's grid is."""
    found = {"patch_embed.proj:out": read.embedding_reach, "norm:out": read.norm_reach}
    found |= {f"layers.{i}:residual": stage.reach for i, stage in enumerate(read.stages)}
    return {name: reach for name, reach in found.items() if reach is not None}


# --------------------------------------------------------------------------------------------------- from calibration


def observations(
    read: ReadSwin, swin: SwinTransformer, batches: Iterable[torch.Tensor] | None, *, given: Collection[str]
) -> tuple[Observations, dict[str, str]]:
    """What calibration sees, with the file's own reaches in it, and the calibration's part of the artifact's parents.

    Raises CalibrationError when a tensor outside of `given` has no range and there are no batches.
    """
    known = reaches(read)
    missing = [name for name in needed(read) if name not in given and name not in known]
    seen, parents = Observations(), {}
    if batches is not None:
        digest = hashlib.sha256()
        seen = observe(swin, digested(batches, digest))
        parents = {"calibration": digest.hexdigest(), "calibration_images": str(seen.images)}
    elif missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise CalibrationError(f"the file keeps {named} in float, without a range: pass calibration images (batches=)")
    for name, block in read.named_blocks():
        if batches is None or block.fc1.product_grid is not None:
            known[f"{name}.mlp.fc1:gemm"] = _after_gemm(block)
    for name, reach in known.items():  # a range known otherwise is that of an observer which saw its two ends
        seen.ranges[name] = RangeObserver(name)
        seen.ranges[name].update(torch.tensor([-reach, reach]))
    return seen, parents


def _after_gemm(block: ReadBlock) -> float:
    """The magnitude of fc1's product without its bias, for FasterTransformer's variant: from the file's grid or those behind."""
    if block.fc1.product_grid is not None:
        return block.fc1.product_grid.reach
    if (behind := block.activation.pre or block.activation.hidden) is None:
        return 1.0
    return behind.grid.reach + (0.0 if block.fc1.bias is None else float(np.abs(block.fc1.bias).max()))
