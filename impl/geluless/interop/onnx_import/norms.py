"""LayerNorm that was exported as several operations, recognised by its values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.ir import LayerNorm, Mean, Round, Term, children
from geluless.interop.onnx_import.subgraphs import TRANSPARENT, evaluate, subgraph

ROWS = 4  # rows of random channels
LARGE, SMALL = 2.0**16, 2.0**-8  # inputs so large that epsilon vanishes beside the variance, and so small that it shows
MAX_PIECES = 48  # nine operations, each with its rounding, and room for other ways to write them
TOLERANCE = 1e-6  # of the largest gamma; the function is evaluated in float64 with the file's float32 constants


def collapsed(term: Term) -> Term:
    """The LayerNorm that `term` computes, or `term` itself.

    f(x) = gamma n(x) + beta with n(-x) = -n(x): two opposite inputs give beta and gamma n, large ones gamma, small ones epsilon.
    Random inputs then decide whether it is one at all.
    """
    for source in _candidates(term):
        if (steps := subgraph(term, {source})) is not None and source.shape == term.shape and len(steps) <= MAX_PIECES:
            try:
                fitted = _fit(term, source)
            except ArtifactError:
                fitted = None
            if fitted is None:
                return term
            inner = tuple(step for step in steps if isinstance(step, Round))
            return LayerNorm(term.shape, term.where, source, *fitted, inner)
    return term


def _candidates(term: Term) -> list[Term]:
    """The terms whose mean over the last axis is taken on the way to `term`, the nearest first."""
    found: dict[Term, None] = {}
    seen, level = {term}, [term]
    while level and len(seen) < 64:
        following = []
        for current in level:
            if isinstance(current, Mean) and current.keepdims and current.axes == (len(current.of.shape) - 1,):
                found[current.of] = None
            if isinstance(current, TRANSPARENT):
                following += [child for child in children(current) if child not in seen]
                seen.update(children(current))
        level = following
    return list(found)


def _fit(term: Term, source: Term) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | None:
    """(gamma, beta, epsilon) of the LayerNorm that leads from source to term; None if another function does."""
    channels = source.shape[-1]
    x = np.random.default_rng(0).standard_normal((ROWS, channels))

    def f(values: NDArray[Any]) -> NDArray[Any]:
        return evaluate(term, {source: values}, rounding=False, in_place=True)

    def normalized(values: NDArray[Any], epsilon: float) -> NDArray[Any]:
        centred = values - values.mean(-1, keepdims=True)
        return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon)

    with np.errstate(all="ignore"):
        large, opposite = f(LARGE * x), f(-LARGE * x)
        if large.shape != x.shape:
            return None
        beta = (large + opposite).mean(0) / 2
        row, column = np.abs(normalized(x, 0.0)).argmax(0), np.arange(channels)  # of every channel its farthest value
        gamma = ((large - opposite) / 2)[row, column] / normalized(x, 0.0)[row, column]
        centred = SMALL * (x - x.mean(-1, keepdims=True))
        slope = (f(SMALL * x) - f(-SMALL * x)) / 2
        at = np.unravel_index(np.abs(gamma * centred).argmax(), x.shape)
        deviation = gamma[at[1]] * centred[at] / slope[at]
        epsilon = float(deviation**2 - np.square(centred[at[0]]).mean())
        y = np.random.default_rng(1).standard_normal((ROWS, channels)) * np.array([[1.0], [1e-3], [30.0], [1e-2]]) + 0.5
        error = np.abs(f(y) - (gamma * normalized(y, max(epsilon, 0.0)) + beta)).max()
    if not (epsilon > 0 and np.isfinite(error) and error <= TOLERANCE * (np.abs(gamma).max() + np.abs(beta).max())):
        return None
    return gamma, beta, epsilon
