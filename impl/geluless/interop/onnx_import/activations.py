"""What happens between fc1 and fc2, recognised by its values: GELU in any form, ReLU, or a ReLU that a quantizer does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.integer.gelu import gelu_erf
from geluless.integer.plan import Activation
from geluless.interop.onnx_import.ir import Call, Linear, Move, Round, Term, refusal
from geluless.interop.onnx_import.subgraphs import evaluate, roundings, sources, subgraph
from geluless.interop.onnx_import.trace_back import constant_factor

GRID = np.linspace(-8, 8, 4097)
# The tanh form differs from erf by 0.0005, constants that were quantized add up to 0.002; x sigmoid(1.702 x) differs by 0.02.
GELU_TOLERANCE = 0.005


@dataclass(frozen=True, eq=False)
class ReadActivation:
    """fc1 -> pre -> output -> times `vector` -> hidden -> fc2. `inner` are roundings inside the function other than `pre`."""

    kind: Activation
    fc1: Linear
    output: Term
    pre: Round | None
    inner: tuple[Round, ...]
    vector: NDArray[np.float64] | None  # [channels]
    hidden: Round | None

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The file's own function of the pre-activation, with every rounding it does inside, in float32 as a runtime does it."""
        source = self.fc1 if self.pre is None else self.pre
        return evaluate(self.output, {source: x.astype(np.float32)}, rounding=True, in_place=True).astype(np.float64)


def read_activation(end: Term) -> ReadActivation:
    """The function that leads to `end`, fc2's input. Raises ArtifactError for any other than GELU and ReLU."""
    current, hidden, vector = end, None, None
    while True:
        if isinstance(current, Move) and current.in_order:
            current = current.of
        elif isinstance(current, Round) and hidden is None and vector is None:
            hidden, current = current, current.of
        elif vector is None and isinstance(current, Call) and (step := constant_factor(current)) and step[1].size > 1:
            current, vector = step[0], step[1].reshape(-1)
        else:
            break
    fed_by = sources(current)
    fc1 = fed_by[0]
    if len(fed_by) != 1 or not isinstance(fc1, Linear) or not (vector is None or (vector > 0).all()):
        raise refusal(end, "fc2's input is no function of one linear layer")
    inside = roundings(current, fc1)
    pre = next((step for step in inside if step.of is fc1 and subgraph(current, {step}) is not None), None)
    values = evaluate(current, {fc1: GRID}, rounding=False, in_place=True)
    kind = _kind(values, clamps=hidden is not None and hidden.grid.zero_point == hidden.grid.low)
    if kind is None:
        raise ArtifactError(f"{end.where}: the activation before it is neither GELU nor ReLU, and only these are handled")
    return ReadActivation(kind, fc1, current, pre, tuple(step for step in inside if step is not pre), vector, hidden)


def _kind(values: NDArray[np.float64], *, clamps: bool) -> Activation | None:
    """`clamps`: the quantizer behind starts at zero, which makes it a ReLU; ONNX Runtime's tool leaves the operation out then."""
    if values.shape != GRID.shape or not np.isfinite(values).all():
        return None
    if (values == np.maximum(GRID, 0)).all() or (clamps and (values == GRID).all()):
        return Activation.RELU
    return Activation.GELU if np.abs(values - gelu_erf(GRID)).max() < GELU_TOLERANCE else None
