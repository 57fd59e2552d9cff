"""Operations on what does not depend on the pixels: shapes, masks, weights. A Swin exported by tracing has thousands of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.data_movement import bounded, integers
from geluless.interop.onnx_import.reading import DTYPES, Node
from geluless.interop.onnx_import.subgraphs import FUNCTIONS

Inputs = Sequence["NDArray[Any] | None"]


def _quotient(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Integers are divided towards zero, as in C."""
    if a.dtype.kind not in "iu":
        return a / b
    if not b.all():
        raise ZeroDivisionError("division of integers by zero")
    whole = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -whole, whole).astype(a.dtype)


UNARY = {name: FUNCTIONS[name] for name in ("Abs", "Exp", "Neg", "Reciprocal", "Sqrt")}
UNARY |= {"Ceil": np.ceil, "Floor": np.floor, "Not": np.logical_not, "Round": np.rint}
BINARY = {name: FUNCTIONS[name] for name in ("Add", "Max", "Min", "Mul", "Pow", "Sub")}
BINARY |= {
    "And": np.logical_and,
    "Div": _quotient,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Mod": np.mod,  # of integers: the sign of the divisor
    "Or": np.logical_or,
}
REDUCTIONS: dict[str, Callable[..., NDArray[Any]]] = {
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
}


def computable(op: str) -> bool:
    return op in UNARY or op in BINARY or op in REDUCTIONS or op in OTHERS


def compute(node: Node, inputs: Inputs) -> NDArray[Any]:
    """The node's only output. Whatever numpy raises is the caller's to name."""
    if node.op in OTHERS:
        return OTHERS[node.op](node, inputs)
    given = [array for array in inputs if array is not None]
    bounded(node, *np.broadcast_shapes(*(array.shape for array in given)))
    if node.op in REDUCTIONS:
        x, keep = _data(node, inputs), bool(node.attributes.get("keepdims", 1))
        return np.asarray(REDUCTIONS[node.op](x, axis=reduction_axes(node, inputs, x.ndim), keepdims=keep)).astype(x.dtype)
    if node.op in UNARY:
        (x,) = given
        return np.asarray(UNARY[node.op](x))
    result = given[0]
    for other in given[1:]:
        result = np.asarray(BINARY[node.op](result, other))
    return result


def reduction_axes(node: Node, inputs: Inputs, rank: int) -> tuple[int, ...]:
    """The axes of a Reduce operation, counted from the front; all of them where none are named."""
    axes = integers(node, inputs[1:], 0, "axes")
    return tuple(range(rank)) if not axes else tuple(sorted(axis % rank for axis in axes))


def _data(node: Node, inputs: Inputs) -> NDArray[Any]:
    if not inputs or inputs[0] is None:
        raise ArtifactError(f"{node} has no input: export the model again")
    return inputs[0]


def _constant(node: Node, inputs: Inputs) -> NDArray[Any]:
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            return np.array(node.attributes[name], np.float32 if "float" in name else np.int64)
    value = node.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise ArtifactError(f"{node} holds no numbers: export the model again")
    return value


def _constant_of_shape(node: Node, inputs: Inputs) -> NDArray[Any]:
    sizes = [int(size) for size in _data(node, inputs)]
    bounded(node, *sizes)
    value = node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(sizes, value.reshape(-1)[0], value.dtype)


def _range(node: Node, inputs: Inputs) -> NDArray[Any]:
    start, limit, step = (array.reshape(-1)[0] for array in inputs if array is not None)
    if step == 0:
        raise ZeroDivisionError("a range in steps of zero")
    bounded(node, abs((float(limit) - float(start)) / float(step)))
    return np.arange(start, limit, step, dtype=_data(node, inputs).dtype)


def _tile(node: Node, inputs: Inputs) -> NDArray[Any]:
    x, repeats = _data(node, inputs), integers(node, inputs[1:], 0) or ()
    bounded(node, x.size, *repeats)
    return np.tile(x, repeats)


def _cast(node: Node, inputs: Inputs) -> NDArray[Any]:
    kind = DTYPES.get(node.attributes.get("to", 0))
    if kind is None:
        raise ArtifactError(f"{node} casts to a data type that is not handled: export the model in float32")
    return _data(node, inputs).astype(kind)


def _where(node: Node, inputs: Inputs) -> NDArray[Any]:
    condition, yes, no = (array for array in inputs if array is not None)
    bounded(node, *np.broadcast_shapes(condition.shape, yes.shape, no.shape))
    return np.where(condition, yes, no)


def _clip(node: Node, inputs: Inputs) -> NDArray[Any]:
    _, low, high = (*inputs, None, None, None)[:3]
    return np.clip(_data(node, inputs), low, high)


def _shape(node: Node, inputs: Inputs) -> NDArray[Any]:
    sizes = _data(node, inputs).shape
    return np.array(sizes[slice(node.attributes.get("start", 0), node.attributes.get("end"))], np.int64)


OTHERS: dict[str, Callable[[Node, Inputs], NDArray[Any]]] = {
    "Cast": _cast,
    "Clip": _clip,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Shape": _shape,
    "Size": lambda node, inputs: np.array(_data(node, inputs).size, np.int64),
    "Tile": _tile,
    "Where": _where,
}
