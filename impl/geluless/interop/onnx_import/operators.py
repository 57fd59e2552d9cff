"""What operations do to tensors that depend on the image: each becomes a term, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.constants import reduction_axes
from geluless.interop.onnx_import.ir import (
    ANOTHER,
    Call,
    Known,
    LayerNorm,
    Linear,
    Mean,
    Product,
    Round,
    Softmax,
    Term,
    moved,
    positions,
)
from geluless.interop.onnx_import.norms import collapsed
from geluless.interop.onnx_import.reading import Node
from geluless.interop.onnx_import.subgraphs import BINARY, FUNCTIONS

Value = Known | Term
Inputs = Sequence["Value | None"]


def _term(node: Node, value: Value | None) -> Term:
    if not isinstance(value, Term):
        raise ArtifactError(f"{node}: its first input should depend on the image; {ANOTHER}")
    return value


def _numbers(node: Node, value: Value | None) -> NDArray[np.float64]:
    if not isinstance(value, Known) or value.values.dtype.kind != "f" or not np.isfinite(value.values).all():
        raise ArtifactError(f"{node}: its weights are not constant, or hold NaN or infinite values; quantize the network again")
    return value.values.astype(np.float64)


def _per_channel(node: Node, value: Value | None, channels: int) -> NDArray[np.float64]:
    numbers = _numbers(node, value)
    if numbers.size != channels:
        raise ArtifactError(f"{node}: {numbers.size} values for {channels} channels; export the model again")
    return numbers.reshape(-1)


def _bias(node: Node, inputs: Inputs, channels: int) -> NDArray[np.float64] | None:
    """The optional third input."""
    return _per_channel(node, inputs[2], channels) if len(inputs) > 2 and inputs[2] is not None else None


def _require_last_axis(node: Node, x: Term, otherwise: str) -> None:
    if node.attributes.get("axis", -1) % len(x.shape) != len(x.shape) - 1:
        raise ArtifactError(f"{node} {otherwise}; {ANOTHER}")


def _weight(node: Node, value: Value | None, *, inputs: int, transposed: bool) -> Known:
    """[N, K] with its grid, from [K, N], or from [N, K] where `transposed`."""
    numbers = _numbers(node, value)
    assert isinstance(value, Known)
    matrix = numbers.reshape(numbers.shape[-2:]) if numbers.ndim >= 2 and numbers.size == np.prod(numbers.shape[-2:]) else numbers
    if matrix.ndim != 2 or matrix.shape[1 if transposed else 0] != inputs:
        raise ArtifactError(f"{node}: a weight of shape {list(numbers.shape)} for {inputs} inputs; export the model again")

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        array = array.reshape(matrix.shape)
        return array if transposed else array.T

    return value.moved(turned)


def matmul(node: Node, inputs: Inputs) -> Term:
    left, right = inputs
    if isinstance(left, Term) and isinstance(right, Term):
        if left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-2]:
            raise ArtifactError(f"{node} multiplies {list(left.shape)} by {list(right.shape)}; {ANOTHER}")
        return Product((*left.shape[:-1], right.shape[-1]), node.name, left, right)
    x = _term(node, left)
    weight = _weight(node, right, inputs=x.shape[-1], transposed=False)
    return Linear((*x.shape[:-1], len(weight.values)), node.name, x, weight)


def gemm(node: Node, inputs: Inputs) -> Term:
    x = _term(node, inputs[0])
    attributes = node.attributes
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or len(x.shape) != 2:
        raise ArtifactError(f"{node} scales or transposes its input: export the model again")
    weight = _weight(node, inputs[1], inputs=x.shape[-1], transposed=bool(attributes.get("transB", 0)))
    outputs = len(weight.values)
    return Linear((x.shape[0], outputs), node.name, x, weight, _bias(node, inputs, outputs))


def convolution(node: Node, inputs: Inputs) -> Term:
    """A convolution whose stride is its kernel: a matrix product of patches."""
    x, weight = _term(node, inputs[0]), inputs[1]
    kernel = _numbers(node, weight)
    attributes = node.attributes
    plain = attributes.get("group", 1) == 1 and set(attributes.get("dilations", (1,))) == {1}
    unpadded = not any(attributes.get("pads", ())) and attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    apart = tuple(attributes.get("strides", (1, 1))) == kernel.shape[2:]
    if not (plain and unpadded and apart and kernel.ndim == len(x.shape) == 4):
        raise ArtifactError(f"{node} is a convolution whose patches overlap or are padded, as in a ResNet; {ANOTHER}")
    outputs, channels, ph, pw = kernel.shape
    if x.shape[:2] != (1, channels) or x.shape[2] % ph or x.shape[3] % pw:
        raise ArtifactError(f"{node} cuts {list(x.shape)} into patches of {channels}x{ph}x{pw}: export it for another image size")
    height, width = x.shape[2] // ph, x.shape[3] // pw
    patches = positions(x).reshape(1, channels, height, ph, width, pw).transpose(0, 2, 4, 1, 3, 5)
    rows = moved(x, patches.reshape(1, height, width, -1), node.name)
    assert isinstance(weight, Known)
    flat = weight.moved(lambda array: array.reshape(outputs, -1))
    product = Linear((1, height, width, outputs), node.name, rows, flat, _bias(node, inputs, outputs))
    return moved(product, positions(product).transpose(0, 3, 1, 2), node.name)


def layer_norm(node: Node, inputs: Inputs) -> Term:
    x = _term(node, inputs[0])
    _require_last_axis(node, x, "normalises over more than the channels")
    channels = x.shape[-1]
    gamma = _per_channel(node, inputs[1], channels)
    beta = _bias(node, inputs, channels)
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    return LayerNorm(x.shape, node.name, x, gamma, np.zeros(channels) if beta is None else beta, epsilon)


def softmax(node: Node, inputs: Inputs) -> Term:
    x = _term(node, inputs[0])
    _require_last_axis(node, x, "is no softmax over the last axis")
    return Softmax(x.shape, node.name, x)


def reduce_mean(node: Node, inputs: Inputs) -> Term:
    x = _term(node, inputs[0])
    parameters = [value.values if isinstance(value, Known) else None for value in inputs]
    return _mean(node, x, reduction_axes(node, parameters, len(x.shape)), keep=bool(node.attributes.get("keepdims", 1)))


def global_average_pool(node: Node, inputs: Inputs) -> Term:
    x = _term(node, inputs[0])
    return _mean(node, x, tuple(range(2, len(x.shape))), keep=True)


def _mean(node: Node, x: Term, axes: tuple[int, ...], *, keep: bool) -> Term:
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes)
    return Mean(shape, node.name, x, axes, keep)


def call(function: str, node: Node, values: Inputs) -> Term:
    """An elementwise function of terms and constants."""
    arguments = tuple(value.values if isinstance(value, Known) else value for value in values if value is not None)
    if len(arguments) != (2 if function in BINARY else 1):
        raise ArtifactError(f"{node} has {len(arguments)} inputs: export the model again")
    shape = np.broadcast_shapes(*(argument.shape for argument in arguments))
    if not any(isinstance(argument, Term) and argument.shape == shape for argument in arguments):
        raise ArtifactError(f"{node} spreads a tensor over more values than it has; {ANOTHER}")
    return Call(shape, node.name, function, arguments)


def add(node: Node, inputs: Inputs) -> Term:
    """A bias goes into its matrix product; the last step of a LayerNorm in pieces makes it one."""
    term, other = inputs if isinstance(inputs[0], Term) else reversed(inputs)
    result = call("Add", node, inputs)
    if not isinstance(term, Term) or not isinstance(other, Known) or result.shape != term.shape:
        return result
    if not other.values.shape or not other.values.size == other.values.shape[-1] == term.shape[-1]:
        return result
    product = term.of if isinstance(term, Round) else term
    if isinstance(product, Linear) and product.bias is None:
        bias = _per_channel(node, other, term.shape[-1])
        inner = term if isinstance(term, Round) else None
        return Linear(term.shape, node.name, product.of, product.weight, bias, inner)
    return collapsed(result)


def clip(node: Node, inputs: Inputs) -> Term:
    _, low, high = (*inputs, None, None, None)[:3]
    result = _term(node, inputs[0])
    if low is not None:
        result = call("Max", node, (result, low))
    return result if high is None else call("Min", node, (result, high))


def gelu(node: Node, inputs: Inputs) -> Term:
    return call("GeluTanh" if node.attributes.get("approximate", "none") == "tanh" else "Gelu", node, inputs)


def cast(node: Node, inputs: Inputs) -> Term:
    if node.attributes.get("to") not in (1, 10, 11):
        raise ArtifactError(f"{node} turns a live tensor into integers; {ANOTHER}")
    return _term(node, inputs[0])


OPERATORS: dict[str, Callable[[Node, Inputs], Term]] = {
    **{name: partial(call, name) for name in FUNCTIONS if name != "GeluTanh"},
    "Add": add,
    "Cast": cast,
    "Clip": clip,
    "Conv": convolution,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "LayerNormalization": layer_norm,
    "MatMul": matmul,
    "ReduceMean": reduce_mean,
    "Softmax": softmax,
    "com.microsoft::Gelu": gelu,
}
