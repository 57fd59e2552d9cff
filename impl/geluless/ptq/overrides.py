"""Numbers that another quantizer has chosen, in the place of those that calibration would choose here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geluless.ptq.folding import QuantParams

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class WeightOverride:
    """int8 weights and the real value of one step of each output channel."""

    steps: NDArray[np.int8]  # [N, K]
    scale: NDArray[np.float64]  # [N]


@dataclass(frozen=True, eq=False)
class QuantOverrides:
    """What is missing here is chosen from what was observed.

    weights: by layer.
    qparams: of 8-bit tensors, by their names in `Observations`: `NAME:in` of linear layers, `NAME:out` of norms and fc1, and q, k
        and v. q has no zero point, that of v is the context's, and that of a ReLU's output is zero.
    activations: by the name of the MLP, functions of the pre-activation in the place of GELU.
    fold_head: whether the classifier takes the last LayerNorm's affine part; given weights have to stay as they are.
    """

    weights: Mapping[str, WeightOverride] = field(default_factory=dict)
    qparams: Mapping[str, QuantParams] = field(default_factory=dict)
    activations: Mapping[str, Function] = field(default_factory=dict)
    fold_head: bool = True
