"""Parts of a graph as functions: an activation, a LayerNorm or a mask is what it computes, however it is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

from geluless.errors import ArtifactError
from geluless.integer.gelu import gelu_erf, gelu_tanh
from geluless.interop.onnx_import.ir import Call, Mean, Move, Round, Term, children

MAX_SUBGRAPH = 4096  # terms; a LayerNorm in pieces has about twenty
MAX_VALUES = 1 << 28  # of all terms of a subgraph together: the masked and rounded scores of Swin-L at 384 have 2^26

# By ONNX's names; GeluTanh is a Gelu whose attribute says tanh.
FUNCTIONS: dict[str, Callable[..., NDArray[Any]]] = {
    "Abs": np.abs,
    "Add": np.add,
    "Div": np.divide,
    "Erf": erf,
    "Exp": np.exp,
    "Gelu": gelu_erf,
    "GeluTanh": gelu_tanh,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": expit,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tanh": np.tanh,
}
BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})
TRANSPARENT = (Call, Mean, Move, Round)


def subgraph(term: Term, stop: Collection[Term]) -> list[Term] | None:
    """Everything between `term` and `stop`, what is needed first coming first; None if something else feeds it."""
    ordered: list[Term] = []
    seen: set[Term] = set()
    stack: list[tuple[Term, bool]] = [(term, False)]
    while stack:
        current, done = stack.pop()
        if done:
            ordered.append(current)
        elif current not in seen and current not in stop:
            if not isinstance(current, TRANSPARENT) or len(seen) > MAX_SUBGRAPH:
                return None
            seen.add(current)
            stack.append((current, True))
            stack += [(child, False) for child in children(current)]
    return ordered


def roundings(term: Term, source: Term) -> tuple[Round, ...]:
    """Those of the subgraph between."""
    return tuple(step for step in subgraph(term, {source}) or () if isinstance(step, Round))


def sources(term: Term) -> list[Term]:
    """The terms that feed the subgraph of movement, rounding and elementwise functions in front of `term`."""
    found: dict[Term, None] = {}
    seen: set[Term] = set()
    stack = [term]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if isinstance(current, TRANSPARENT) and len(seen) <= MAX_SUBGRAPH:
            stack += children(current)
        else:
            found[current] = None
    return list(found)


def evaluate(term: Term, values: Mapping[Term, NDArray[Any]], *, rounding: bool, in_place: bool = False) -> NDArray[Any]:
    """The value of `term` where the terms of `values` have the given ones, in their precision; `rounding=False` leaves grids out.

    With `in_place` nothing may change places, and the values may have any shape that ends in the real last axis (or, for a
    function of single values, any shape at all). Raises ArtifactError where that does not hold.
    """
    steps = subgraph(term, values.keys())
    if steps is None or (not in_place and sum(step.size for step in steps) > MAX_VALUES):
        raise ArtifactError(f"{term.where}: something unexpected feeds it; only a Swin as timm exports it is read")
    results: dict[Term, NDArray[Any]] = dict(values)
    kind = next(iter(values.values())).dtype
    with np.errstate(all="ignore"):
        for step in steps:
            results[step] = _value(step, results, kind, rounding=rounding, in_place=in_place)
    return results[term]


def _value(step: Term, results: Mapping[Term, NDArray[Any]], kind: np.dtype, *, rounding: bool, in_place: bool) -> NDArray[Any]:
    match step:
        case Round():
            return step.grid.round(results[step.of]) if rounding else results[step.of]
        case Move() if in_place:
            if not step.in_order:
                raise ArtifactError(f"{step.where}: values change places where a Swin keeps them; export timm's model")
            return results[step.of]
        case Move():
            taken = results[step.of].reshape(-1)[np.maximum(step.index, 0)]
            return np.where(step.index >= 0, taken, kind.type(0))
        case Mean():
            axes = (-1,) if in_place and step.axes == (len(step.of.shape) - 1,) else step.axes
            if in_place and axes != (-1,):
                raise ArtifactError(f"{step.where}: a mean over other axes than the channels; export timm's model")
            return results[step.of].mean(axes, keepdims=step.keepdims)
        case Call():
            return FUNCTIONS[step.function](
                *(results[a] if isinstance(a, Term) else _constant(a, step, kind, in_place=in_place) for a in step.arguments)
            )
    raise AssertionError(step)


def _constant(values: NDArray[Any], step: Term, kind: np.dtype, *, in_place: bool) -> NDArray[Any]:
    if in_place and values.size > 1 and values.shape[-1] != values.size:
        raise ArtifactError(f"{step.where}: its constant of shape {list(values.shape)} is neither one number nor one per channel")
    if in_place:
        values = values.reshape(-1) if values.size > 1 else values.reshape(())
    return values.astype(kind)
