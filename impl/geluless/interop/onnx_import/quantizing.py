"""QuantizeLinear and DequantizeLinear: of constants, where they give a weight its integers, and of what depends on the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.integer.schema import SCALES
from geluless.interop.onnx_import.ir import Grid, Known, Quantizer, Rounding, Term
from geluless.interop.onnx_import.reading import Node

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}


@dataclass(frozen=True, eq=False)
class Stored:
    """The integers of a rounded term, on their way from QuantizeLinear to DequantizeLinear."""

    real: Term
    grid: Quantizer


def quantized(node: Node, x: Known | Term, scale: Known, zero: Known | None, rounding: Rounding) -> Known | Stored:
    """Integers of a constant as they are, of a term as the term rounded to its grid."""
    steps = np.zeros(1, np.uint8) if zero is None else zero.values
    if isinstance(x, Term):
        grid = _quantizer(node, scale.values, steps)
        return Stored(rounding.rounded(x, grid, node.name), grid)
    low, high = _limits(node, steps)
    step, offset = _along(node, x.values, scale.values), _along(node, x.values, steps)
    _check_scale(node, step)
    q = np.rint(x.values.astype(np.float32) / step.astype(np.float32)) + offset  # as a runtime does, in float32
    return Known(np.clip(q, low, high).astype(steps.dtype))


def dequantized(node: Node, x: Known | Stored, scale: Known, zero: Known | None) -> Known | Term:
    """scale * (q - zero_point); a constant remembers q."""
    if isinstance(x, Stored):
        default = np.zeros(1, np.uint8 if x.grid.low == 0 else np.int8)
        if _quantizer(node, scale.values, default if zero is None else zero.values) != x.grid:
            raise ArtifactError(f"{node} reads integers with another scale or zero point than wrote them: quantize again")
        return x.real
    if str(x.values.dtype) not in LIMITS:
        raise ArtifactError(f"{node} dequantizes {x.values.dtype}: quantize weights to 8 bits, biases to 8 or 32")
    steps = x.values.astype(np.int32)
    offset = np.zeros((), np.int32) if zero is None else _along(node, steps, zero.values).astype(np.int32)
    step = _along(node, steps, scale.values)
    _check_scale(node, step)
    grid = Grid(steps, np.broadcast_to(step.astype(np.float64), steps.shape), np.broadcast_to(offset, steps.shape))
    real = (steps.astype(np.int64) - offset).astype(np.float64) * step
    return Known(real.astype(np.float32), grid)


def _quantizer(node: Node, scale: NDArray[Any], zero: NDArray[Any]) -> Quantizer:
    """The grid of an activation: 8 bits and one scale, since engines have one multiplier per tensor."""
    low, high = _limits(node, zero)
    if str(zero.dtype) not in ("int8", "uint8"):
        raise ArtifactError(f"{node} makes {zero.dtype} activations: quantize them to 8 bits")
    if scale.size != 1 or zero.size != 1:
        raise ArtifactError(f"{node} has {scale.size} scales for one activation: quantize activations per tensor")
    _check_scale(node, scale)
    return Quantizer(float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), low, high)


def _limits(node: Node, zero: NDArray[Any]) -> tuple[int, int]:
    if str(zero.dtype) not in LIMITS:
        raise ArtifactError(f"{node} makes integers of type {zero.dtype}: quantize to 8 bits")
    return LIMITS[str(zero.dtype)]


def _check_scale(node: Node, scale: NDArray[Any]) -> None:
    if scale.dtype.kind != "f" or not np.isfinite(scale).all() or (scale < SCALES[0]).any() or (scale > SCALES[1]).any():
        worst = scale.reshape(-1)[np.argmin(np.nan_to_num(scale, nan=-1.0).reshape(-1))] if scale.size else "missing"
        raise ArtifactError(f"{node} has the scale {worst}: scales are positive numbers of sane size; quantize the network again")


def _along(node: Node, x: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """One value for all, or one per index of the node's axis, shaped to broadcast against x."""
    if values.size == 1:
        return values.reshape(())
    axis = int(node.attributes.get("axis", 1))
    if node.attributes.get("block_size", 0) or values.ndim != 1 or not -x.ndim <= axis < x.ndim or values.size != x.shape[axis]:
        sizes = f"{list(values.shape)} scales or zero points for {list(x.shape)} along axis {axis}"
        raise ArtifactError(f"{node} has {sizes}: quantize per tensor or per channel")
    shape = [1] * x.ndim
    shape[axis] = values.size
    return values.reshape(shape)
