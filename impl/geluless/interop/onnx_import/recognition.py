"""A Swin in the terms of a foreign graph: read from the logits back to the image, checked from the image on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from geluless.interop.onnx_import.blocks import read_block, read_linear, read_merge, read_norm
from geluless.interop.onnx_import.geometry import Size, patch_index
from geluless.interop.onnx_import.import_log import Ledger, Reason
from geluless.interop.onnx_import.ir import Image, LayerNorm, Linear, Round, Term, refusal
from geluless.interop.onnx_import.paths import Path, peel
from geluless.interop.onnx_import.stream import Step, Stream
from geluless.interop.onnx_import.subgraphs import evaluate, frontier, region
from geluless.interop.onnx_import.swin import ReadBlock, ReadLinear, ReadMerge, ReadNorm, ReadStage, ReadSwin

ImageSize = tuple[int, int, int]


def recognise(logits: Term, ledger: Ledger) -> ReadSwin:
    """The network behind the logits; `ledger` learns what becomes of each rounding.

    Raises ArtifactError naming the first node that is not where a Swin has it.
    """
    fc, norm, norm_reach, end = _head(logits, ledger)
    stream = Stream(end)
    image, patch, embed, embedding_reach, embed_norm = _stem(stream.start, ledger)
    stages = _stages(stream, (image[1] // patch[0], image[2] // patch[1]), ledger)
    ledger.close(logits)
    return ReadSwin(image, patch, embed, embedding_reach, embed_norm, stages, norm, norm_reach, fc)


def _reach(roundings: Iterable[Round]) -> float | None:
    """The largest magnitude on the grids; None without any."""
    return max((max(-rounding.grid.lowest, rounding.grid.highest) for rounding in roundings), default=None)


def _head(logits: Term, ledger: Ledger) -> tuple[ReadLinear, ReadNorm, float | None, Term]:
    """fc, the last LayerNorm with the reach of its output, and the end of the stream."""
    out = peel(logits)
    if not isinstance(fc := out.source, Linear) or not out.in_order or out.scalar != 1 or out.vector is not None:
        raise refusal(logits, "the logits are not the output of a linear layer")
    ledger.drop("logits", Reason.LOGITS, [rounding for rounding, _ in out.roundings])
    pooled = peel(fc.of)
    sources = frontier(pooled.source)
    if len(sources) != 1 or not isinstance(norm := sources[0], LayerNorm) or not pooled.in_order:
        raise refusal(fc, "the classifier does not read the mean of a LayerNorm")
    probe = np.random.default_rng(0).standard_normal(norm.shape)
    expected = probe.reshape(-1, norm.shape[-1]).mean(0)
    mean = pooled.scalar * evaluate(pooled.source, {norm: probe}, rounding=False).reshape(-1)
    if mean.shape != expected.shape or np.abs(mean - expected).max() > 1e-6:
        raise refusal(fc, "the classifier does not read the mean over all tokens")
    for rounding in pooled.last:
        ledger.keep("head.fc:in", rounding)
    inside = [step for step in region(pooled.source, {norm}) or [] if isinstance(step, Round)]
    ledger.drop("norm:out", Reason.FINAL_NORM, [*pooled.earlier, *inside])
    side = pooled.last[0].grid if pooled.last else None
    factors = None if pooled.vector is None else Path(pooled.end, pooled.source, pooled.index, 1.0, pooled.vector, ())
    return read_linear(fc, "head.fc", side, ledger), read_norm(norm, "norm", factors, ledger), _reach(inside), norm.of


def _stem(norm: LayerNorm, ledger: Ledger) -> tuple[ImageSize, Size, ReadLinear, float | None, ReadNorm]:
    """Image size, patch size, the embedding with the reach of its output, and the LayerNorm behind it."""
    path = peel(norm.of)
    if not isinstance(embed := path.source, Linear) or path.scalar != 1 or path.vector is not None:
        raise refusal(norm, "the first LayerNorm does not follow the patch embedding")
    if not np.array_equal(path.rows, np.arange(embed.size // embed.shape[-1])):
        raise refusal(norm, "the patches are not in the order of the image")
    pixels = peel(embed.of)
    if not isinstance(image := pixels.source, Image) or pixels.scalar != 1 or pixels.vector is not None:
        raise refusal(embed, "the patch embedding does not read the image")
    patch = _patch(pixels, image, embed)
    for rounding in pixels.last:
        ledger.keep("patch_embed.proj:in", rounding)
    ledger.drop("patch_embed.proj:in", Reason.TWICE, pixels.earlier)
    rounded = [rounding for rounding, _ in path.roundings]
    ledger.drop("patch_embed.proj:out", Reason.EMBEDDING, rounded)
    linear = read_linear(embed, "patch_embed.proj", pixels.quantizer, ledger)
    _, channels, height, width = image.shape
    return (channels, height, width), patch, linear, _reach(rounded), read_norm(norm, "patch_embed.norm", None, ledger)


def _patch(pixels: Path, image: Image, embed: Linear) -> Size:
    _, channels, height, width = image.shape
    inputs = embed.weight.values.shape[1]
    for rows in range(1, inputs // channels + 1):
        columns = inputs // (channels * rows)
        if rows * columns * channels == inputs and height % rows == 0 and width % columns == 0:
            index = patch_index((channels, height, width), (rows, columns))
            if index.size == pixels.index.size and (index == pixels.index.reshape(-1)).all():
                return rows, columns
    raise refusal(embed, "the patch embedding does not read the image in patches")


def _stages(stream: Stream, size: Size, ledger: Ledger) -> tuple[ReadStage, ...]:
    stages: list[ReadStage] = []
    merge: ReadMerge | None = None
    current: Term = stream.start
    rest = list(stream.steps)
    while rest or not stages:
        name, points = f"layers.{len(stages)}", [current]
        blocks: list[ReadBlock] = []
        while [step.kind for step in rest[:2]] == ["attention", "mlp"]:
            attention, mlp = rest[:2]
            block = read_block(f"{name}.blocks.{len(blocks)}", attention, mlp, current, size, stream, ledger)
            blocks.append(block)
            current, rest = mlp.total, rest[2:]
            points += [attention.total, mlp.total]
        if not blocks or (rest and rest[0].kind != "merge"):
            raise refusal(current, "attention and MLP do not take turns behind it")
        rounded = stream.roundings(points)
        ledger.drop(f"{name}:residual", Reason.STREAM, [rounding for at in rounded for rounding in at])
        reach = _reach(rounding for at in rounded for rounding in at) if all(rounded) else None
        stages.append(ReadStage(size, points[0].shape[-1], merge, tuple(blocks), reach))
        if rest:
            step: Step = rest.pop(0)
            merge = read_merge(f"layers.{len(stages)}.downsample", step, current, size, stream, ledger)
            size, current = (-(-size[0] // 2), -(-size[1] // 2)), step.total
            if not rest:
                raise refusal(step.linear, "no blocks follow the last merging of patches")
    return tuple(stages)
