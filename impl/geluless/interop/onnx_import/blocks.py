"""One block, or one merging of patches, of a foreign network."""

from __future__ import annotations

import numpy as np

from geluless.integer.plan import Activation
from geluless.interop.onnx_import.activations import ReadActivation, read_activation
from geluless.interop.onnx_import.attention import read_attention
from geluless.interop.onnx_import.geometry import Size, grid_rows
from geluless.interop.onnx_import.import_log import Ledger, Reason
from geluless.interop.onnx_import.ir import LayerNorm, Linear, Quantizer, Term, refusal
from geluless.interop.onnx_import.paths import Path, peel
from geluless.interop.onnx_import.stream import Step, Stream
from geluless.interop.onnx_import.swin import ReadBlock, ReadLinear, ReadMerge, ReadMlp, ReadNorm


def read_linear(linear: Linear, name: str, side: Quantizer | None, ledger: Ledger) -> ReadLinear:
    """A linear layer whose input has the grid `side`."""
    ledger.drop(name, Reason.BEFORE_BIAS, [] if linear.inner is None else [linear.inner])
    return ReadLinear(linear.weight, linear.bias, side, None if linear.inner is None else linear.inner.grid)


def read_norm(norm: LayerNorm, name: str, factors: Path | None, ledger: Ledger) -> ReadNorm:
    """A LayerNorm with the factors that its reader multiplies it by."""
    ledger.drop(name, Reason.INSIDE_NORM, norm.inner)
    scale = np.ones(len(norm.gamma))
    if factors is not None:
        scale = scale * factors.scalar
        if factors.vector is not None and len(factors.vector) != len(scale):
            raise refusal(factors.end, "its factors are not one per channel")
        scale = scale if factors.vector is None else scale * factors.vector
    return ReadNorm(norm.gamma * scale, norm.beta * scale, norm.epsilon)


def normed_side(path: Path, name: str, ledger: Ledger) -> Quantizer | None:
    """The grid of a LayerNorm's output in front of a linear layer, in units that include the factors between them."""
    for rounding in path.last:
        ledger.keep(f"{name}:out", rounding)
    ledger.drop(f"{name}:out", Reason.TWICE, path.earlier)
    return path.last[0].grid if path.last else None


def read_block(name: str, attention: Step, mlp: Step, before: Term, size: Size, stream: Stream, ledger: Ledger) -> ReadBlock:
    """A block that reads the stream at `before` and ends with the sums of its two steps."""
    found = read_attention(attention.linear, size, ledger, name=f"{name}.attn")
    _require_same(stream.point(found.norm.of), before, found.norm)
    window, shift = found.attention.window, found.attention.shift
    assert attention.branch is not None
    _check_branch(attention.branch, grid_rows(size, window, shift), f"{name}.attn.proj", ledger)
    norm1 = read_norm(found.norm, f"{name}.norm1", found.path, ledger)
    normed_side(found.path, f"{name}.norm1", ledger)

    activation = read_activation(mlp.linear.of)
    path = peel(activation.fc1.of)
    if not isinstance(norm := path.source, LayerNorm) or not path.in_order:
        raise refusal(activation.fc1, "fc1 does not read a LayerNorm")
    _require_same(stream.point(norm.of), attention.total, norm)
    assert mlp.branch is not None
    _check_branch(mlp.branch, np.arange(size[0] * size[1]), f"{name}.mlp.fc2", ledger)
    norm2 = read_norm(norm, f"{name}.norm2", path, ledger)
    fc1 = read_linear(activation.fc1, f"{name}.mlp.fc1", normed_side(path, f"{name}.norm2", ledger), ledger)
    _account(activation, f"{name}.mlp", ledger)
    fc2 = read_linear(mlp.linear, f"{name}.mlp.fc2", None if activation.hidden is None else activation.hidden.grid, ledger)
    return ReadBlock(norm1, found.attention, norm2, ReadMlp(fc1, activation, fc2))


def read_merge(name: str, step: Step, before: Term, size: Size, stream: Stream, ledger: Ledger) -> ReadMerge:
    path = peel(step.linear.of)
    if not isinstance(norm := path.source, LayerNorm) or not path.in_order:
        raise refusal(step.linear, "merged patches do not go through a LayerNorm")
    _require_same(stream.merged(norm, size), before, norm)
    side = normed_side(path, f"{name}.norm", ledger)
    return ReadMerge(read_norm(norm, f"{name}.norm", path, ledger), read_linear(step.linear, f"{name}.reduction", side, ledger))


def _require_same(found: Term, expected: Term, where: Term) -> None:
    if found is not expected:
        raise refusal(where, "a LayerNorm does not read the residual stream where its block begins")


def _check_branch(branch: Path, rows: np.ndarray, name: str, ledger: Ledger) -> None:
    """Every token must come back to where it was taken from."""
    if not np.array_equal(branch.rows, rows):
        raise refusal(branch.end, "tokens do not come back to their places behind a block")
    ledger.drop(name, Reason.BRANCH, [rounding for rounding, _ in branch.roundings])


def _account(activation: ReadActivation, name: str, ledger: Ledger) -> None:
    if activation.hidden is not None:
        ledger.keep(f"{name}.fc2:in", activation.hidden)
    if activation.kind is Activation.RELU:
        ledger.drop(f"{name}.fc1:out", Reason.PRE_RELU, [*activation.inner, *([activation.pre] if activation.pre else [])])
    else:
        if activation.pre is not None:
            ledger.keep(f"{name}.fc1:out", activation.pre)
        for index, rounding in enumerate(activation.inner):
            ledger.keep(f"{name}.act:{index}", rounding)  # the table is the file's own function, roundings included
