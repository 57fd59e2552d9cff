"""Window attention in a foreign graph: from proj back to the LayerNorm in front of q, k and v."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.geometry import Size, bias_table, find_window
from geluless.interop.onnx_import.import_log import Ledger, Reason
from geluless.interop.onnx_import.ir import LayerNorm, Linear, Product, Round, Softmax, refusal, stacked
from geluless.interop.onnx_import.paths import Path, peel
from geluless.interop.onnx_import.subgraphs import evaluate, frontier, region
from geluless.interop.onnx_import.swin import ReadAttention, ReadLinear


@dataclass(frozen=True, eq=False)
class FoundAttention:
    """What was read, and the path from q, k and v back to the LayerNorm in front of them."""

    attention: ReadAttention
    path: Path
    norm: LayerNorm


def read_attention(proj: Linear, size: Size, ledger: Ledger, *, name: str) -> FoundAttention:
    """Everything between norm1 and proj's product. Raises ArtifactError where it is not Swin's attention."""
    context = peel(proj.of)
    product = context.source
    if not isinstance(product, Product) or context.scalar != 1:
        raise refusal(proj, "its input is no attention")
    weights, value = peel(product.left), peel(product.right)
    soft = weights.source
    if not isinstance(soft, Softmax) or not weights.in_order or weights.scalar != 1 or weights.vector is not None:
        raise refusal(product, "what multiplies v is no softmax")
    if len(found := frontier(soft.of)) != 1 or not isinstance(scores := found[0], Product):
        raise refusal(soft, "its input is no product of q and k plus a constant")
    query, key = peel(scores.left), peel(scores.right)
    tokens, head_dim = scores.left.shape[-2:]
    width = proj.weight.values.shape[1]
    if width % head_dim or scores.size % (width // head_dim * tokens * tokens) or scores.shape[-2:] != (tokens, tokens):
        raise refusal(scores, f"heads of {head_dim} channels do not fit {width}")
    heads = width // head_dim
    windows = scores.size // (heads * tokens * tokens)

    parts = [_part(path, (windows, heads, tokens, head_dim), k) for path, k in ((query, False), (key, True), (value, False))]
    inputs = [peel(part.of) for part in parts]
    _check_one_input(inputs)
    if context.vector is not None and len(context.vector) != width:
        raise refusal(context.end, "the factors of the context are not one per channel")
    if value.scalar != 1 or any(path.vector is not None for path in (query, key, value)):
        raise ArtifactError(f"{product.where}: q, k or v are rescaled per channel; quantize without that")
    if not isinstance(norm := inputs[0].source, LayerNorm):
        raise refusal(parts[0], "q, k and v are not computed from a LayerNorm")
    window, shift = find_window(inputs[0].rows, size, tokens, where=parts[0].where)
    home = np.arange(product.size).reshape(windows, heads, tokens, head_dim).transpose(0, 2, 1, 3)
    if not np.array_equal(context.index.reshape(-1), home.reshape(-1)):
        raise refusal(proj, "heads are not put side by side as Swin does it")
    factor, added = _added(soft, scores)
    table = bias_table(added.reshape(windows, heads, tokens, tokens), size, window, shift, where=soft.where)

    _account(ledger, name, paths=(query, key, value), context=context, weights=weights, soft=soft, scores=scores)
    for part in dict.fromkeys(parts):
        ledger.drop(f"{name}.qkv", Reason.BEFORE_BIAS, [part.inner] if part.inner else [])
    ledger.drop(f"{name}.proj", Reason.BEFORE_BIAS, [proj.inner] if proj.inner else [])
    attention = ReadAttention(
        qkv=_stacked(parts, (query, key, value), width, side=inputs[0]),
        heads=heads,
        window=window,
        shift=shift,
        factor=factor * query.scalar * key.scalar,
        bias_table=table,
        grids=(query.quantizer, key.quantizer, value.quantizer),
        proj=ReadLinear(proj.weight, proj.bias, context.quantizer, proj.inner.grid if proj.inner else None),
        vector=context.vector,
    )
    return FoundAttention(attention, inputs[0], norm)


def _part(path: Path, shape: tuple[int, int, int, int], transposed: bool) -> Linear:
    """The linear layer that q, k or v comes from, after a check that every value is where it belongs."""
    linear, (windows, heads, tokens, head_dim) = path.source, shape
    if not isinstance(linear, Linear):
        raise refusal(path.end, "q, k or v is not the output of a linear layer")
    outputs, first = linear.shape[-1], int(path.index.reshape(-1)[0])
    rows = np.arange(windows * tokens).reshape(windows, 1, tokens, 1) * outputs
    expected = rows + first % outputs + np.arange(heads)[:, None, None] * head_dim + np.arange(head_dim)
    if transposed:
        expected = expected.swapaxes(-1, -2)
    if linear.size != windows * tokens * outputs or not np.array_equal(path.index.reshape(-1), expected.reshape(-1)):
        raise refusal(path.end, "q, k or v is not cut into heads as Swin does it")
    return linear


def _check_one_input(inputs: Sequence[Path]) -> None:
    first = inputs[0]
    for other in inputs[1:]:
        same = other.source is first.source and other.quantizer == first.quantizer and np.array_equal(other.index, first.index)
        mine, theirs = (np.ones(1) if path.vector is None else path.vector for path in (first, other))
        if not same or other.scalar != first.scalar or not np.array_equal(mine, theirs):
            raise refusal(other.end, "q, k and v are not computed from one tensor")


def _added(soft: Softmax, scores: Product) -> tuple[float, NDArray[np.float64]]:
    """The constant factor of the scores, and what is added to them, by the values of two inputs."""
    nothing = evaluate(soft.of, {scores: np.zeros(scores.shape)}, rounding=False)
    probe = np.random.default_rng(0).standard_normal(scores.shape)
    scaled = (evaluate(soft.of, {scores: probe}, rounding=False) - nothing).reshape(-1)
    if scaled.size != probe.size or not np.isfinite(nothing).all():
        raise refusal(soft, "its input is no product of q and k plus a constant")
    factor = float(scaled @ probe.reshape(-1) / (probe.reshape(-1) @ probe.reshape(-1)))
    if not factor > 0 or np.abs(scaled - factor * probe.reshape(-1)).max() > 1e-6 * factor:
        raise refusal(soft, "the scores are not q k times one number plus a constant")
    return factor, nothing


def _stacked(parts: Sequence[Linear], paths: Sequence[Path], width: int, *, side: Path) -> ReadLinear:
    """One weight [3 * width, K] for q, k and v, whether the file has one linear layer or three."""
    weights, biases = [], []
    for part, path in zip(parts, paths, strict=True):
        first = int(path.index.reshape(-1)[0]) % part.shape[-1]
        weights.append(part.weight.moved(lambda array, first=first: array[first : first + width]))  # type: ignore[misc]
        biases.append(np.zeros(width) if part.bias is None else part.bias[first : first + width])
    bias = None if all(part.bias is None for part in parts) else np.concatenate(biases)
    inner = {part.inner.grid for part in parts if part.inner}
    return ReadLinear(stacked(weights), bias, side.quantizer, inner.pop() if len(inner) == 1 else None)


def _account(
    ledger: Ledger, name: str, *, paths: Sequence[Path], context: Path, weights: Path, soft: Softmax, scores: Product
) -> None:
    for letter, path in zip("qkv", paths, strict=True):
        for rounding in path.last:
            ledger.keep(f"{name}.qkv:{letter}", rounding)
        ledger.drop(f"{name}.qkv:{letter}", Reason.TWICE, path.earlier)
    for rounding in context.last:
        ledger.keep(f"{name}.proj:in", rounding)
    ledger.drop(f"{name}.proj:in", Reason.CONTEXT, context.earlier)
    ledger.drop(f"{name}.softmax", Reason.SOFTMAX, [rounding for rounding, _ in weights.roundings])
    between = region(soft.of, {scores}) or []
    ledger.drop(f"{name}.scores", Reason.SCORES, [step for step in between if isinstance(step, Round)])
