"""The terms of an imported graph evaluated in float64, batch and all: an oracle for what an importer has read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geluless.interop.onnx_import.ir import (
    Call,
    Image,
    LayerNorm,
    Linear,
    Mean,
    Move,
    Product,
    Round,
    Softmax,
    Term,
    children,
)
from geluless.interop.onnx_import.subgraphs import FUNCTIONS

Values = dict[Term, NDArray[np.float64]]


def in_order(end: Term) -> list[Term]:
    """Every term behind `end`, what is needed first coming first."""
    ordered: list[Term] = []
    seen: set[Term] = set()
    stack = [(end, False)]
    while stack:
        term, done = stack.pop()
        if done:
            ordered.append(term)
        elif term not in seen:
            seen.add(term)
            stack.append((term, True))
            stack += [(child, False) for child in children(term)]
    return ordered


def evaluated(end: Term, pixels: NDArray[np.float32], *, rounding: bool = True) -> Values:
    """All terms for pixels [B, C, H, W]; each has B in front of its own shape."""
    values: Values = {}
    for term in in_order(end):
        values[term] = RULES[type(term)](term, values, pixels) if rounding or not isinstance(term, Round) else values[term.of]
    return values


def _moved(term: Move, values: Values, pixels: NDArray) -> NDArray:
    flat = values[term.of].reshape(len(pixels), -1)
    return np.where(term.index >= 0, flat[:, np.maximum(term.index, 0)], 0.0)


def _linear(term: Linear, values: Values, pixels: NDArray) -> NDArray:
    product = values[term.of] @ term.weight.values.astype(np.float64).T
    if term.inner is not None:
        product = term.inner.grid.round(product)
    return product if term.bias is None else product + term.bias


def _softmax(term: Softmax, values: Values, pixels: NDArray) -> NDArray:
    weights = np.exp(values[term.of] - values[term.of].max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _norm(term: LayerNorm, values: Values, pixels: NDArray) -> NDArray:
    centred = values[term.of] - values[term.of].mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + term.epsilon) * term.gamma + term.beta


def _call(term: Call, values: Values, pixels: NDArray) -> NDArray:
    return FUNCTIONS[term.function](*(values[a] if isinstance(a, Term) else a.astype(np.float64) for a in term.arguments))


RULES: dict[type[Term], Callable[..., NDArray]] = {
    Call: _call,
    Image: lambda term, values, pixels: pixels[:, None].astype(np.float64),
    LayerNorm: _norm,
    Linear: _linear,
    Mean: lambda term, values, pixels: values[term.of].mean(tuple(axis + 1 for axis in term.axes), keepdims=term.keepdims),
    Move: _moved,
    Product: lambda term, values, pixels: values[term.left] @ values[term.right],
    Round: lambda term, values, pixels: term.grid.round(values[term.of]),
    Softmax: _softmax,
}
