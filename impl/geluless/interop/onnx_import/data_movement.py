"""Operations that only move values: the same functions move constants, their quantization grids, and the indices of live tensors.

What a chain of them does is known by what it does to an array of indices; no exporter's way of writing it matters then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.reading import MAX_ELEMENTS, Node

Parameters = Sequence["NDArray[Any] | None"]  # of a node's inputs after the first; None where absent


def bounded(node: Node, *sizes: float) -> None:
    """Refuse a tensor of these sizes before it is made."""
    if np.prod(sizes, dtype=np.float64) > MAX_ELEMENTS:
        raise ArtifactError(f"{node} makes a tensor of more than {MAX_ELEMENTS:,} elements: is it a Swin?")


def move(node: Node, x: NDArray[Any], parameters: Parameters, *, fill: float) -> list[NDArray[Any]]:
    """Every output of the node for the input x; padding is made of `fill`."""
    if node.op == "Pad":
        return [_pad(node, x, parameters, fill)]
    return MOVES[node.op](node, x, parameters)


def concatenate(node: Node, pieces: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concat, whose inputs are all data."""
    bounded(node, sum(piece.size for piece in pieces))
    return np.concatenate(pieces, axis=int(node.attributes.get("axis", 0)))


def integers(node: Node, parameters: Parameters, position: int, attribute: str | None = None) -> tuple[int, ...] | None:
    """An integer list that newer opsets take as input `position` (counted after the data) and older ones as an attribute."""
    if position < len(parameters) and (given := parameters[position]) is not None:
        if given.dtype.kind not in "iu":
            raise ArtifactError(f"{node}: its parameter {position + 1} holds {given.dtype}, not integers; export the model again")
        return tuple(int(value) for value in given.reshape(-1))
    if attribute is None or attribute not in node.attributes:
        return None
    value = node.attributes[attribute]
    return tuple(int(item) for item in value) if isinstance(value, tuple) else (int(value),)


def _needed(node: Node, values: tuple[int, ...] | None) -> tuple[int, ...]:
    if values is None:
        raise ArtifactError(f"{node} has no parameters: export the model again")
    return values


def _reshape(node: Node, x: NDArray[Any], parameters: Parameters) -> list[NDArray[Any]]:
    sizes = list(_needed(node, integers(node, parameters, 0)))
    if not node.attributes.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return [x.reshape(sizes)]


def _flatten(node: Node, x: NDArray[Any], parameters: Parameters) -> list[NDArray[Any]]:
    axis = int(node.attributes.get("axis", 1))
    rows = int(np.prod(x.shape[: axis if axis >= 0 else axis + x.ndim], dtype=np.int64))
    return [x.reshape(rows, -1)]


def _split(node: Node, x: NDArray[Any], parameters: Parameters) -> list[NDArray[Any]]:
    axis = int(node.attributes.get("axis", 0))
    sizes = integers(node, parameters, 0, "split")
    if sizes is None:
        share = -(-x.shape[axis] // len(node.outputs))
        sizes = tuple(min(share, x.shape[axis] - index * share) for index in range(len(node.outputs)))
    if len(sizes) != len(node.outputs) or min(sizes) < 0 or sum(sizes) != x.shape[axis]:
        raise ArtifactError(f"{node} splits {x.shape[axis]} into {list(sizes)}: export the model again")
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _slice(node: Node, x: NDArray[Any], parameters: Parameters) -> list[NDArray[Any]]:
    starts, ends = (_needed(node, integers(node, parameters, position)) for position in (0, 1))
    axes = integers(node, parameters, 2) or tuple(range(len(starts)))
    steps = integers(node, parameters, 3) or (1,) * len(starts)
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(*_bounds(start, end, step, x.shape[axis]))
    return [x[tuple(cut)]]


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int, int | None, int]:
    """ONNX clamps both ends to the axis; Python needs None to walk down past the first element."""
    start, end = (value + size if value < 0 else value for value in (start, end))
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size), step
    end = min(max(end, -1), size - 1)
    return min(max(start, 0), size - 1), None if end < 0 else end, step


def _gather(node: Node, x: NDArray[Any], parameters: Parameters) -> list[NDArray[Any]]:
    indices, axis = parameters[0], int(node.attributes.get("axis", 0))
    if indices is None:
        raise ArtifactError(f"{node} has no indices: export the model again")
    bounded(node, indices.size, x.size // max(x.shape[axis], 1))
    return [np.take(x, indices.astype(np.int64), axis)]


def _expand(node: Node, x: NDArray[Any], parameters: Parameters) -> list[NDArray[Any]]:
    sizes = _needed(node, integers(node, parameters, 0))
    shape = np.broadcast_shapes(x.shape, sizes)
    bounded(node, *shape)
    return [np.broadcast_to(x, shape)]


def _pad(node: Node, x: NDArray[Any], parameters: Parameters, fill: float) -> NDArray[Any]:
    if node.attributes.get("mode", "constant") != "constant":
        raise ArtifactError(f"{node} pads by {node.attributes['mode']!r}: a Swin pads with zeros")
    pads = _needed(node, integers(node, parameters, 0, "pads"))
    axes = integers(node, parameters, 2) or tuple(range(x.ndim))
    widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
        widths[axis] = (before, after)
    if min(min(width) for width in widths) < 0:
        raise ArtifactError(f"{node} cuts values off instead of padding: export the model again")
    bounded(node, *(size + sum(width) for size, width in zip(x.shape, widths, strict=True)))
    return np.pad(x, widths, constant_values=fill)


MOVES: dict[str, Callable[[Node, NDArray[Any], Parameters], list[NDArray[Any]]]] = {
    "Dropout": lambda node, x, parameters: [x],
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda node, x, parameters: [x],
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": lambda node, x, parameters: [x.squeeze(integers(node, parameters, 0, "axes"))],
    "Transpose": lambda node, x, parameters: [x.transpose(node.attributes.get("perm"))],
    "Unsqueeze": lambda node, x, parameters: [np.expand_dims(x, _needed(node, integers(node, parameters, 0, "axes")))],
}
MOVING = frozenset({*MOVES, "Pad"})
