"""Window attention in an imported graph: from proj back to the LayerNorm in front of q, k and v."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.geometry import Size, bias_table, find_window
from geluless.interop.onnx_import.import_log import ImportLog, Reason
from geluless.interop.onnx_import.ir import LayerNorm, Linear, Product, Quantizer, Softmax, refusal, stacked
from geluless.interop.onnx_import.subgraphs import evaluate, roundings, sources
from geluless.interop.onnx_import.swin import ReadAttention, ReadLinear, read_linear
from geluless.interop.onnx_import.trace_back import Path, trace_back


def read_attention(proj: Linear, size: Size, log: ImportLog, *, name: str) -> tuple[ReadAttention, Path, LayerNorm]:
    """Everything between norm1 and proj's product, and the path from q, k and v back to norm1.

    Raises ArtifactError where it is not Swin's attention.
    """
    context = trace_back(proj.of)
    product = context.source
    if not isinstance(product, Product) or context.scalar != 1:
        raise refusal(proj, "its input is no attention")
    weights, value = trace_back(product.left), trace_back(product.right)
    soft = weights.source
    if not isinstance(soft, Softmax) or not weights.in_order or weights.rescaled:
        raise refusal(product, "what multiplies v is no softmax")
    if len(found := sources(soft.of)) != 1 or not isinstance(scores := found[0], Product):
        raise refusal(soft, "its input is no product of q and k plus a constant")
    query, key = trace_back(scores.left), trace_back(scores.right)
    tokens, head_dim = scores.left.shape[-2:]
    width = proj.weight.values.shape[1]
    if width % head_dim or scores.size % (width // head_dim * tokens * tokens) or scores.shape[-2:] != (tokens, tokens):
        raise refusal(scores, f"heads of {head_dim} channels do not fit {width}")
    heads = width // head_dim
    windows = scores.size // (heads * tokens * tokens)

    paths = (query, key, value)
    parts = [_part(path, (windows, heads, tokens, head_dim), transposed=path is key) for path in paths]
    inputs = [trace_back(part.of) for part in parts]
    _check_one_input(inputs)
    if context.vector is not None and len(context.vector) != width:
        raise refusal(context.end, "the factors of the context are not one per channel")
    if value.scalar != 1 or any(path.vector is not None for path in paths):
        raise ArtifactError(f"{product.where}: q, k or v are rescaled per channel; quantize without that")
    if not isinstance(norm := inputs[0].source, LayerNorm):
        raise refusal(parts[0], "q, k and v are not computed from a LayerNorm")
    window, shift = find_window(inputs[0].rows, size, tokens, where=parts[0].where)
    home = np.arange(product.size).reshape(windows, heads, tokens, head_dim).transpose(0, 2, 1, 3)
    if not np.array_equal(context.index.reshape(-1), home.reshape(-1)):
        raise refusal(proj, "heads are not put side by side as Swin does it")
    factor, added = _added(soft, scores)
    table = bias_table(added.reshape(windows, heads, tokens, tokens), size, window, shift, where=soft.where)

    for letter, path in zip("qkv", paths, strict=True):
        log.keep_last(f"{name}.qkv:{letter}", path.roundings)
    log.keep_last(f"{name}.proj:in", context.roundings, Reason.CONTEXT)
    log.drop(f"{name}.softmax", Reason.SOFTMAX, weights.roundings)
    log.drop(f"{name}.scores", Reason.SCORES, roundings(soft.of, scores))
    log.drop(f"{name}.qkv", Reason.BEFORE_BIAS, [part.inner for part in parts])
    attention = ReadAttention(
        qkv=_stacked(parts, paths, width, inputs[0].quantizer),
        heads=heads,
        window=window,
        shift=shift,
        factor=factor * query.scalar * key.scalar,
        bias_table=table,
        grids=(query.quantizer, key.quantizer, value.quantizer),
        proj=read_linear(proj, f"{name}.proj", context.quantizer, log),
        vector=context.vector,
    )
    return attention, inputs[0], norm


def _part(path: Path, shape: tuple[int, int, int, int], *, transposed: bool) -> Linear:
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
    random = np.random.default_rng(0).standard_normal(scores.shape)
    scaled, x = (evaluate(soft.of, {scores: random}, rounding=False) - nothing).reshape(-1), random.reshape(-1)
    if scaled.size != x.size or not np.isfinite(nothing).all():
        raise refusal(soft, "its input is no product of q and k plus a constant")
    factor = float(scaled @ x / (x @ x))
    if not factor > 0 or np.abs(scaled - factor * x).max() > 1e-6 * factor:
        raise refusal(soft, "the scores are not q k times one number plus a constant")
    return factor, nothing


def _stacked(parts: Sequence[Linear], paths: Sequence[Path], width: int, input_grid: Quantizer | None) -> ReadLinear:
    """One weight [3 * width, K] for q, k and v, whether the file has one linear layer or three."""
    weights, biases = [], []
    for part, path in zip(parts, paths, strict=True):
        first = int(path.index.reshape(-1)[0]) % part.shape[-1]
        weights.append(part.weight.moved(lambda array, first=first: array[first : first + width]))  # type: ignore[misc]
        biases.append(np.zeros(width) if part.bias is None else part.bias[first : first + width])
    bias = None if all(part.bias is None for part in parts) else np.concatenate(biases)
    grids = {part.inner.grid for part in parts if part.inner}
    return ReadLinear(stacked(weights), bias, input_grid, grids.pop() if len(grids) == 1 else None)
