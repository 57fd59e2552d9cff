"""The residual stream of a foreign network, followed from the last LayerNorm back to the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geluless.interop.onnx_import.geometry import Size, merge_rows
from geluless.interop.onnx_import.ir import Call, LayerNorm, Linear, Product, Round, Term, refusal
from geluless.interop.onnx_import.paths import Path, peel

MAX_STEPS = 8192


@dataclass(frozen=True, eq=False)
class Step:
    """One link: `kind` is "attention", "mlp" or "merge", `linear` its last layer, `branch` the path from the sum to it."""

    kind: str
    linear: Linear
    branch: Path | None
    total: Term  # the point of the stream behind it


class Stream:
    """`start` is the LayerNorm after the patch embedding, `steps` come in the order of the forward pass."""

    def __init__(self, end: Term) -> None:
        self._roundings: dict[Term, list[Round]] = {}
        steps: list[Step] = []
        current = self.point(end)
        while not isinstance(current, LayerNorm):
            if len(steps) > MAX_STEPS:
                raise refusal(current, "it has more blocks than any Swin")
            step, before = self._merge(current) if isinstance(current, Linear) else self._branch(current)
            steps.append(step)
            current = before
        self.start = current
        self.steps = tuple(steps[::-1])

    def point(self, term: Term) -> Term:
        """The point of the stream that `term` is; how the file rounds it there is remembered."""
        path = peel(term)
        if not path.in_order:
            raise refusal(term, "the residual stream changes its order where a Swin keeps it")
        return self._seen(path)

    def roundings(self, points: list[Term]) -> list[list[Round]]:
        """Per point what was seen of its roundings."""
        return [self._roundings.get(point, []) for point in points]

    def merged(self, norm: LayerNorm, size: Size) -> Term:
        """The point of the stream whose tokens, four at a time, are what `norm` reads."""
        path = peel(norm.of)
        if not np.array_equal(path.rows, merge_rows(size)):
            raise refusal(norm, f"the {size[0]}x{size[1]} patches are not merged as Swin does it")
        return self._seen(path)

    def _seen(self, path: Path) -> Term:
        if path.scalar != 1 or path.vector is not None:
            raise refusal(path.end, "the residual stream is rescaled")
        self._roundings.setdefault(path.source, []).extend(rounding for rounding, _ in path.roundings)
        return path.source

    def _merge(self, reduction: Linear) -> tuple[Step, Term]:
        norm = peel(reduction.of).source
        if not isinstance(norm, LayerNorm):
            raise refusal(reduction, "no LayerNorm stands before the merging of patches")
        return Step("merge", reduction, None, reduction), self._seen(peel(norm.of))

    def _branch(self, total: Term) -> tuple[Step, Term]:
        if isinstance(total, Call) and total.function == "add":
            for branch, before in (total.arguments, total.arguments[::-1]):
                if isinstance(branch, Term) and isinstance(before, Term):
                    path = peel(branch)
                    if isinstance(linear := path.source, Linear) and path.scalar == 1 and path.vector is None:
                        source = peel(linear.of).source
                        if not isinstance(source, LayerNorm):
                            kind = "attention" if isinstance(source, Product) else "mlp"
                            return Step(kind, linear, path, total), self.point(before)
        raise refusal(total, "the residual stream is no sum of itself and a branch")
