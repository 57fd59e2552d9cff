"""What one step of every integer tensor is worth in real units.

A plan holds ratios: multiplier = source scale * weight scale / target scale. Where neither the plan nor its tensors name a real
unit (inside attention, behind a LayerNorm with an affine part, in the embedding), any unit gives the same network; UNIT is ours.
The weight scales follow from the multipliers as the engines apply them, so a file's scales give back each multiplier to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ExportError
from geluless.integer import plan as p
from geluless.integer.schema import SOFTMAX_STEP

Tensors = Mapping[str, NDArray[Any]]
Reals = NDArray[np.float64]
Scale = float | Reals  # of a whole tensor, or per channel

UNIT = 2.0**-4


@dataclass(frozen=True)
class LinearScales:
    """Of one layer's weights, of its accumulator, and of the 8-bit value between FasterTransformer's two roundings: each [N]."""

    weight: Reals
    step: Reals
    middle: Reals


def linear_scales(name: str, spec: p.Linear, tensors: Tensors, *, source: float, target: float) -> LinearScales:
    """From the multipliers of `name`. Raises ExportError for a multiplier of zero, which no scale expresses."""
    if spec.rounding is p.Rounding.SINGLE:
        exponent = -15 - tensors[f"{name}.shift"].astype(np.int64)
        step = positive(name, np.ldexp(tensors[f"{name}.multiplier"].astype(np.float64), exponent) * target)
        return LinearScales(step / source, step, step)
    alpha, gain = (positive(name, tensors[f"{name}.{part}"].astype(np.float64)) for part in ("alpha", "gain"))
    return LinearScales(alpha * gain * target / source, alpha * gain * target, gain * target)


def fc1_scales(name: str, mlp: p.Mlp, tensors: Tensors, *, source: float) -> LinearScales:
    """Of fc1 for variants that take the accumulator in real units, past the law: the middle is FasterTransformer's int8."""
    step = positive(name, tensors[f"{name}.accumulator_scale"].astype(np.float64))
    return LinearScales(step / source, step, np.full_like(step, mlp.after_gemm_scale))


def norm_scale(norm: p.Norm) -> float:
    """Of a LayerNorm's output: its factor is the inverse."""
    return UNIT if norm.affine else 1.0 / norm.factor


def norm_epsilon(norm: p.Norm, source: float) -> float:
    """In real units, for an input whose step is `source`."""
    return norm.epsilon_term * source**2 / norm.channels**2


def embedding_scale(stem: p.Stem) -> float:
    """Of the tensor between patch projection and its LayerNorm, which makes up for any unit: this one makes epsilon 1e-5."""
    return float(np.sqrt(1e-5 / stem.norm.epsilon_term) * stem.norm.channels)


def score_scales(name: str, tensors: Tensors) -> tuple[Reals, Reals]:
    """([heads] of a score step, [heads] of an accumulator step of q times k), both in units of the exponent."""
    score = tensors[f"{name}.score_multiplier"].astype(np.float64) * 2.0**-15 * SOFTMAX_STEP
    positive(f"{name}.score", score)
    return score, score * np.exp2(-tensors[f"{name}.score_shift"].astype(np.float64))


def pooled_scale(head: p.Head) -> float:
    """Of the pooled features."""
    if head.pool_multiplier == 0:
        raise ExportError("head: a pooling multiplier of zero has no real scale; quantize again")
    return norm_scale(head.norm) / head.tokens * 2.0**head.pool_shift / (head.pool_multiplier * 2.0**-15)


def positive(name: str, values: Reals) -> Reals:
    """The values themselves. Raises ExportError where one is zero or negative: a multiplier that no scale expresses."""
    if not (values > 0).all():
        raise ExportError(f"{name}: channel {int(np.argmin(values))} has a multiplier of zero, which no scale expresses")
    return values
