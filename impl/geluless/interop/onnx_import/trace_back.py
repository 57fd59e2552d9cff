"""From a tensor back to what it is made of, through everything that only moves, rounds or rescales it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.ir import Call, Index, Move, Quantizer, Round, Term, positions


@dataclass(frozen=True, eq=False)
class Path:
    """`end` = scalar * vector * source, moved; `roundings` lie between, the one nearest to the end first."""

    end: Term
    source: Term
    index: Index  # of the end's shape, into the flattened source; -1 is zero
    scalar: float
    vector: NDArray[np.float64] | None  # one factor per channel; whoever uses it checks of what
    roundings: tuple[Round, ...]
    inner_scalar: float  # between the source and the first rounding

    @property
    def in_order(self) -> bool:
        return self.source.size == self.end.size and bool((self.index.reshape(-1) == np.arange(self.end.size)).all())

    @property
    def rescaled(self) -> bool:
        return self.scalar != 1 or self.vector is not None

    @property
    def quantizer(self) -> Quantizer | None:
        """The last grid before the end, in units of the source times the vector."""
        if not self.roundings:
            return None
        grid = self.roundings[0].grid
        return replace(grid, scale=grid.scale / self.inner_scalar)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Where whole rows of channels move: for each row of the end the row of the source, or -1.

        Raises ArtifactError where channels do not stay together.
        """
        channels = self.source.shape[-1]
        if self.end.size % channels == 0:
            index = self.index.reshape(-1, channels)
            rows = np.where(index[:, 0] < 0, -1, index[:, 0] // channels).astype(np.int64)
            if (index == np.where(rows[:, None] < 0, -1, rows[:, None] * channels + np.arange(channels))).all():
                return rows
        raise ArtifactError(f"{self.end.where}: channels are taken apart where a Swin moves whole tokens")


def trace_back(end: Term) -> Path:
    """From `end` as far as nothing but movement, rounding and constant factors lies between."""
    index, scalar, vector, outer_scalar = positions(end), 1.0, None, 1.0
    roundings: list[Round] = []
    current: Term = end
    while True:
        if isinstance(current, Round):
            outer_scalar = outer_scalar if roundings else scalar
            roundings.append(current)
            current = current.of
        elif isinstance(current, Move):
            inside = current.index.reshape(-1)
            index = np.where(index >= 0, inside[np.maximum(index, 0)], np.int32(-1))
            current = current.of
        elif isinstance(current, Call) and (step := constant_factor(current)) is not None:
            current, factor = step
            if factor.size == 1:
                scalar *= float(factor.reshape(()))
            elif vector is None or len(vector) == factor.size:
                vector = factor.reshape(-1) * (1.0 if vector is None else vector)
            else:
                raise ArtifactError(f"{end.where}: it is rescaled per channel of two kinds; quantize the network again")
        else:
            break
    if not np.isfinite(scalar) or scalar <= 0:
        raise ArtifactError(f"{end.where}: it is multiplied by {scalar}, which is no scale of a Swin; export the model again")
    if vector is not None and not (np.isfinite(vector).all() and (vector > 0).all()):
        raise ArtifactError(f"{end.where}: its factors per channel are not all positive numbers; quantize the network again")
    return Path(end, current, index, scalar, vector, tuple(roundings), scalar / outer_scalar)


def constant_factor(call: Call) -> tuple[Term, NDArray[np.float64]] | None:
    """(term, factor) of a multiplication or division by one constant, or by one per channel."""
    if call.function not in ("Mul", "Div") or len(call.arguments) != 2:
        return None
    left, right = call.arguments
    if isinstance(right, Term):
        if call.function == "Div" or isinstance(left, Term):
            return None
        left, right = right, left
    if not isinstance(left, Term) or left.shape != call.shape or (right.size > 1 and right.shape[-1] != right.size):
        return None
    with np.errstate(all="ignore"):
        factor = np.asarray(right, np.float64)
        return left, factor if call.function == "Mul" else 1 / factor
