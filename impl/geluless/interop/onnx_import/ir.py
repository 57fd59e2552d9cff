"""What an imported graph computes, reduced to the few things a Swin consists of.

A term is a tensor that depends on the image. Whatever the exporter wrote, it is one of: the image; values of another term moved
to other places; a term rounded to 8 bits; a matrix product with constant weights, or of two terms; softmax; LayerNorm; a mean; an
elementwise function. Terms point at what they are made of, so that a network is read from its logits backwards.

Two rules keep different ways of writing the same thing the same: rounding goes below movement (padding is zero, which every grid
holds), and equal roundings of one term are one object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError

ANOTHER = "is this a Swin v1, as timm has it?"  # how a refusal ends

Index = NDArray[np.int32]
Movement = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Quantizer:
    """An 8-bit grid: real = scale * (q - zero_point), q in [low, high]."""

    scale: float
    zero_point: int
    low: int
    high: int

    def round(self, x: NDArray[Any]) -> NDArray[Any]:
        """The nearest values of the grid, half to even, computed in the precision of x."""
        scale = x.dtype.type(self.scale)
        steps = np.clip(np.rint(x / scale) + self.zero_point, self.low, self.high)
        return scale * (steps - self.zero_point)

    @property
    def lowest(self) -> float:
        return self.scale * (self.low - self.zero_point)

    @property
    def highest(self) -> float:
        return self.scale * (self.high - self.zero_point)

    @property
    def reach(self) -> float:
        """The largest magnitude."""
        return max(-self.lowest, self.highest)


@dataclass(frozen=True, eq=False)
class Grid:
    """The integers that a constant was dequantized from; scale and zero are broadcast to the shape of steps."""

    steps: NDArray[np.int32]
    scale: NDArray[np.float64]
    zero: NDArray[np.int32]

    def moved(self, movement: Movement) -> Grid:
        return Grid(movement(self.steps), movement(self.scale), movement(self.zero))


@dataclass(frozen=True, eq=False)
class Known:
    """A tensor that does not depend on the image's pixels."""

    values: NDArray[Any]
    grid: Grid | None = None

    def moved(self, movement: Movement) -> Known:
        """The constant in another place or shape, its integers with it."""
        return Known(movement(self.values), None if self.grid is None else self.grid.moved(movement))


def stacked(constants: Sequence[Known]) -> Known:
    """Along the first axis; integers remain if all have them."""
    grids = [constant.grid for constant in constants if constant.grid is not None]
    grid = None
    if len(grids) == len(constants):
        steps, scales, zeros = zip(*((grid.steps, grid.scale, grid.zero) for grid in grids), strict=True)
        grid = Grid(np.concatenate(steps), np.concatenate(scales), np.concatenate(zeros))
    return Known(np.concatenate([constant.values for constant in constants]), grid)


@dataclass(frozen=True, eq=False)
class Term:
    """`where` is the node that made it, for messages."""

    shape: tuple[int, ...]
    where: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Image(Term):
    """float32 [1, channels, height, width]."""


@dataclass(frozen=True, eq=False)
class Move(Term):
    """Each value is the one at `index` in the flattened `of`, or zero where the index is -1."""

    of: Term
    index: Index = field(repr=False)

    @property
    def in_order(self) -> bool:
        """Whether it only gives the tensor another shape."""
        return self.of.size == self.size and bool((self.index.reshape(-1) == np.arange(self.size)).all())


@dataclass(frozen=True, eq=False)
class Round(Term):
    of: Term
    grid: Quantizer


@dataclass(frozen=True, eq=False)
class Linear(Term):
    """[..., K] -> [..., N]. `inner` is a rounding between product and bias."""

    of: Term
    weight: Known  # [N, K]
    bias: NDArray[np.float64] | None = None  # [N]
    inner: Round | None = None


@dataclass(frozen=True, eq=False)
class Product(Term):
    left: Term
    right: Term


@dataclass(frozen=True, eq=False)
class Softmax(Term):
    """Over the last axis."""

    of: Term


@dataclass(frozen=True, eq=False)
class LayerNorm(Term):
    """Over the last axis. `inner` are the roundings of a LayerNorm that was written as several operations."""

    of: Term
    gamma: NDArray[np.float64]
    beta: NDArray[np.float64]
    epsilon: float
    inner: tuple[Round, ...] = ()


@dataclass(frozen=True, eq=False)
class Mean(Term):
    of: Term
    axes: tuple[int, ...]  # non-negative
    keepdims: bool


@dataclass(frozen=True, eq=False)
class Call(Term):
    """An elementwise function by its name in `subgraphs.FUNCTIONS`."""

    function: str
    arguments: tuple[Term | NDArray[Any], ...]


def children(term: Term) -> tuple[Term, ...]:
    """What a term is made of."""
    match term:
        case Move() | Round() | Linear() | Softmax() | LayerNorm() | Mean():
            return (term.of,)
        case Product():
            return (term.left, term.right)
        case Call():
            return tuple(argument for argument in term.arguments if isinstance(argument, Term))
    return ()


def inner_roundings(term: Term) -> tuple[Round, ...]:
    """Roundings that became part of a term."""
    match term:
        case LayerNorm():
            return term.inner
        case Linear() if term.inner is not None:
            return (term.inner,)
    return ()


class Rounding:
    """Makes roundings: below movement, and one object for equal ones of one term."""

    def __init__(self) -> None:
        self._made: dict[tuple[Term, Quantizer], Round] = {}

    def rounded(self, term: Term, grid: Quantizer, where: str) -> Term:
        if isinstance(term, Move):
            return Move(term.shape, term.where, self.rounded(term.of, grid, where), term.index)
        if isinstance(term, Round) and term.grid == grid:
            return term
        if (term, grid) not in self._made:
            self._made[term, grid] = Round(term.shape, where, term, grid)
        return self._made[term, grid]


def moved(term: Term, index: Index, where: str) -> Term:
    """The values of `term` at `index`, an array that holds positions in the flattened term and -1 for zeros."""
    if isinstance(term, Move):
        inside = term.index.reshape(-1)
        index = np.where(index >= 0, inside[index], np.int32(-1)) if (index < 0).any() else inside[index]
        term = term.of
    result = Move(index.shape, where, term, index)
    return term if result.shape == term.shape and result.in_order else result


def positions(term: Term) -> Index:
    """The index array that moves nothing."""
    return np.arange(term.size, dtype=np.int32).reshape(term.shape)


def refusal(term: Term, reason: str) -> ArtifactError:
    """The error for a term that is not what a Swin has in its place."""
    return ArtifactError(f"{term.where}: {reason}; {ANOTHER}")
