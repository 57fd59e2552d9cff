"""An imported graph as a Swin: read from the logits back to the image, checked from the image on.

The residual stream is followed from the last LayerNorm back to the first: it is a sum of itself and a branch, or a merging of
patches. A branch is recognised by what it computes, and its LayerNorm must read the stream where a Swin's does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from geluless.integer.plan import Activation
from geluless.integer.window_index import merge_sources
from geluless.interop.onnx_import.activations import ReadActivation, read_activation
from geluless.interop.onnx_import.attention import read_attention
from geluless.interop.onnx_import.geometry import Rows, grid_rows, patch_index
from geluless.interop.onnx_import.import_log import ImportLog, Reason
from geluless.interop.onnx_import.ir import Call, Image, LayerNorm, Linear, Product, Quantizer, Round, Term, refusal
from geluless.interop.onnx_import.subgraphs import evaluate, roundings, sources
from geluless.interop.onnx_import.swin import (
    ReadBlock,
    ReadLinear,
    ReadMerge,
    ReadNorm,
    ReadStage,
    ReadSwin,
    Size,
    grid_of,
    read_linear,
)
from geluless.interop.onnx_import.trace_back import Path, trace_back

MAX_STEPS = 8192


@dataclass(frozen=True, eq=False)
class Step:
    """One link of the stream: "attention", "mlp" or "merge".

    linear: its last layer. path: from the sum back to `linear`; of a merging from `linear` back to the LayerNorm in front of it.
    total: the point of the stream behind it.
    """

    kind: str
    linear: Linear
    path: Path
    total: Term


def recognise(logits: Term, log: ImportLog) -> ReadSwin:
    """The network behind the logits; `log` learns what becomes of each rounding.

    Raises ArtifactError naming the first node that is not where a Swin has it.
    """
    reader = _Reader(log)
    fc, norm, norm_reach, end = reader.head(logits)
    start, steps = reader.stream(end)
    image, patch, embed, embedding_reach, embed_norm = reader.stem(start)
    stages = reader.stages(start, steps, (image[1] // patch[0], image[2] // patch[1]))
    log.close(logits)
    return ReadSwin(image, patch, embed, embedding_reach, embed_norm, stages, norm, norm_reach, fc)


class _Reader:
    def __init__(self, log: ImportLog) -> None:
        self.log = log
        self.rounded: dict[Term, list[Round]] = {}  # by point of the stream, how the file rounds it there

    # ------------------------------------------------------------------------------------------------ the two ends

    def head(self, logits: Term) -> tuple[ReadLinear, ReadNorm, float | None, Term]:
        """fc, the last LayerNorm with the reach of its output, and the end of the stream."""
        out = trace_back(logits)
        if not isinstance(fc := out.source, Linear) or not out.in_order or out.rescaled:
            raise refusal(logits, "the logits are not the output of a linear layer")
        self.log.drop("logits", Reason.LOGITS, out.roundings)
        pooled = trace_back(fc.of)
        fed_by = sources(pooled.source)
        if len(fed_by) != 1 or not isinstance(norm := fed_by[0], LayerNorm) or not pooled.in_order:
            raise refusal(fc, "the classifier does not read the mean of a LayerNorm")
        random = np.random.default_rng(0).standard_normal(norm.shape)
        expected = random.reshape(-1, norm.shape[-1]).mean(0)
        mean = pooled.scalar * evaluate(pooled.source, {norm: random}, rounding=False).reshape(-1)
        if mean.shape != expected.shape or np.abs(mean - expected).max() > 1e-6:
            raise refusal(fc, "the classifier does not read the mean over all tokens")
        last, inside = next(iter(pooled.roundings), None), roundings(pooled.source, norm)
        self.log.keep("head.fc:in", last)
        self.log.drop("norm:out", Reason.FINAL_NORM, [*pooled.roundings[1:], *inside])
        linear = read_linear(fc, "head.fc", grid_of(last), self.log)
        return linear, self._norm(norm, "norm", replace(pooled, scalar=1.0)), _reach(inside), norm.of

    def stem(self, norm: LayerNorm) -> tuple[tuple[int, int, int], Size, ReadLinear, float | None, ReadNorm]:
        """Image size, patch size, the embedding with the reach of its output, and the LayerNorm behind it."""
        path = trace_back(norm.of)
        if not isinstance(embed := path.source, Linear) or path.rescaled:
            raise refusal(norm, "the first LayerNorm does not follow the patch embedding")
        if not np.array_equal(path.rows, np.arange(embed.size // embed.shape[-1])):
            raise refusal(norm, "the patches are not in the order of the image")
        pixels = trace_back(embed.of)
        if not isinstance(image := pixels.source, Image) or pixels.rescaled:
            raise refusal(embed, "the patch embedding does not read the image")
        _, channels, height, width = image.shape
        size = (channels, height, width)
        patch = _patch(pixels, size, embed)
        self.log.keep_last("patch_embed.proj:in", pixels.roundings)
        self.log.drop("patch_embed.proj:out", Reason.EMBEDDING, path.roundings)
        linear = read_linear(embed, "patch_embed.proj", pixels.quantizer, self.log)
        return size, patch, linear, _reach(path.roundings), self._norm(norm, "patch_embed.norm")

    # ---------------------------------------------------------------------------------------------------- the stream

    def stream(self, end: Term) -> tuple[LayerNorm, list[Step]]:
        """The LayerNorm after the patch embedding, and what follows it in the order of the forward pass."""
        steps: list[Step] = []
        current = self._point(end)
        while not isinstance(current, LayerNorm):
            if len(steps) > MAX_STEPS:
                raise refusal(current, "it has more blocks than any Swin")
            step, current = self._merging(current) if isinstance(current, Linear) else self._sum(current)
            steps.append(step)
        return current, steps[::-1]

    def _point(self, term: Term) -> Term:
        """The point of the stream that `term` is."""
        path = trace_back(term)
        if not path.in_order:
            raise refusal(term, "the residual stream changes its order where a Swin keeps it")
        return self._seen(path)

    def _seen(self, path: Path) -> Term:
        if path.rescaled:
            raise refusal(path.end, "the residual stream is rescaled")
        self.rounded.setdefault(path.source, []).extend(path.roundings)
        return path.source

    def _merging(self, reduction: Linear) -> tuple[Step, Term]:
        path = trace_back(reduction.of)
        if not isinstance(norm := path.source, LayerNorm):
            raise refusal(reduction, "no LayerNorm stands before the merging of patches")
        return Step("merge", reduction, path, reduction), self._seen(trace_back(norm.of))

    def _sum(self, total: Term) -> tuple[Step, Term]:
        if isinstance(total, Call) and total.function == "Add":
            for branch, before in (total.arguments, total.arguments[::-1]):
                if isinstance(branch, Term) and isinstance(before, Term):
                    path = trace_back(branch)
                    if isinstance(linear := path.source, Linear) and not path.rescaled:
                        source = trace_back(linear.of).source
                        if not isinstance(source, LayerNorm):
                            kind = "attention" if isinstance(source, Product) else "mlp"
                            return Step(kind, linear, path, total), self._point(before)
        raise refusal(total, "the residual stream is no sum of itself and a branch")

    # --------------------------------------------------------------------------------------- stages, blocks, mergings

    def stages(self, start: Term, rest: list[Step], size: Size) -> tuple[ReadStage, ...]:
        stages: list[ReadStage] = []
        merge: ReadMerge | None = None
        current: Term = start
        while rest or not stages:
            name, points = f"layers.{len(stages)}", [current]
            blocks: list[ReadBlock] = []
            while [step.kind for step in rest[:2]] == ["attention", "mlp"]:
                attention, mlp = rest[:2]
                blocks.append(self._block(f"{name}.blocks.{len(blocks)}", attention, mlp, current, size))
                current, rest = mlp.total, rest[2:]
                points += [attention.total, mlp.total]
            if not blocks or (rest and rest[0].kind != "merge"):
                raise refusal(current, "attention and MLP do not take turns behind it")
            rounded = [self.rounded.get(point, []) for point in points]
            everywhere = [rounding for at in rounded for rounding in at]
            self.log.drop(f"{name}:residual", Reason.STREAM, everywhere)
            reach = _reach(everywhere) if all(rounded) else None
            stages.append(ReadStage(size, points[0].shape[-1], merge, tuple(blocks), reach))
            if rest:
                step, *rest = rest
                merge = self._merge(f"layers.{len(stages)}.downsample", step, current, size)
                size, current = (-(-size[0] // 2), -(-size[1] // 2)), step.total
                if not rest:
                    raise refusal(step.linear, "no blocks follow the last merging of patches")
        return tuple(stages)

    def _block(self, name: str, attention: Step, mlp: Step, before: Term, size: Size) -> ReadBlock:
        """A block that reads the stream at `before` and ends with the sums of its two steps."""
        found, path, norm = read_attention(attention.linear, size, self.log, name=f"{name}.attn")
        _require_same(self._point(norm.of), before, norm)
        self._check_branch(attention.path, grid_rows(size, found.window, found.shift), f"{name}.attn.proj")
        norm1 = self._norm(norm, f"{name}.norm1", path)
        self._norm_grid(path, f"{name}.norm1")

        activation = read_activation(mlp.linear.of)
        path = trace_back(activation.fc1.of)
        if not isinstance(second := path.source, LayerNorm) or not path.in_order:
            raise refusal(activation.fc1, "fc1 does not read a LayerNorm")
        _require_same(self._point(second.of), attention.total, second)
        self._check_branch(mlp.path, np.arange(size[0] * size[1]), f"{name}.mlp.fc2")
        norm2 = self._norm(second, f"{name}.norm2", path)
        fc1 = read_linear(activation.fc1, f"{name}.mlp.fc1", self._norm_grid(path, f"{name}.norm2"), self.log)
        self._account(activation, f"{name}.mlp")
        fc2 = read_linear(mlp.linear, f"{name}.mlp.fc2", grid_of(activation.hidden), self.log)
        return ReadBlock(norm1, found, norm2, fc1, activation, fc2)

    def _merge(self, name: str, step: Step, before: Term, size: Size) -> ReadMerge:
        path = step.path
        if not isinstance(norm := path.source, LayerNorm) or not path.in_order:
            raise refusal(step.linear, "merged patches do not go through a LayerNorm")
        merged = trace_back(norm.of)
        if not np.array_equal(merged.rows, merge_sources(*size, 1).reshape(-1)):
            raise refusal(norm, f"the {size[0]}x{size[1]} patches are not merged as Swin does it")
        _require_same(self._seen(merged), before, norm)
        grid = self._norm_grid(path, f"{name}.norm")
        return ReadMerge(self._norm(norm, f"{name}.norm", path), read_linear(step.linear, f"{name}.reduction", grid, self.log))

    def _norm(self, norm: LayerNorm, name: str, path: Path | None = None) -> ReadNorm:
        """A LayerNorm with the factors that its reader, at the end of the path, multiplies it by."""
        self.log.drop(name, Reason.INSIDE_NORM, norm.inner)
        scale = np.ones(len(norm.gamma))
        if path is not None:
            if path.vector is not None and len(path.vector) != len(scale):
                raise refusal(path.end, "its factors are not one per channel")
            scale = scale * path.scalar * (1.0 if path.vector is None else path.vector)
        return ReadNorm(norm.gamma * scale, norm.beta * scale, norm.epsilon)

    def _norm_grid(self, path: Path, name: str) -> Quantizer | None:
        """The grid of a LayerNorm's output in front of a linear layer, in units that include the factors between them."""
        self.log.keep_last(f"{name}:out", path.roundings)
        return path.roundings[0].grid if path.roundings else None

    def _check_branch(self, branch: Path, rows: Rows, name: str) -> None:
        """Every token must come back to where it was taken from."""
        if not np.array_equal(branch.rows, rows):
            raise refusal(branch.end, "tokens do not come back to their places behind a block")
        self.log.drop(name, Reason.BRANCH, branch.roundings)

    def _account(self, activation: ReadActivation, name: str) -> None:
        self.log.keep(f"{name}.fc2:in", activation.hidden)
        if activation.kind is Activation.RELU:
            self.log.drop(f"{name}.fc1:out", Reason.PRE_RELU, [*activation.inner, activation.pre])
            return
        self.log.keep(f"{name}.fc1:out", activation.pre)
        for index, rounding in enumerate(activation.inner):
            self.log.keep(f"{name}.act:{index}", rounding)  # the table is the file's own function, roundings included


def _reach(rounded: Iterable[Round]) -> float | None:
    """The largest magnitude on the grids; None without any."""
    return max((rounding.grid.reach for rounding in rounded), default=None)


def _require_same(found: Term, expected: Term, where: Term) -> None:
    if found is not expected:
        raise refusal(where, "a LayerNorm does not read the residual stream where its block begins")


def _patch(pixels: Path, image: tuple[int, int, int], embed: Linear) -> Size:
    channels, height, width = image
    inputs = embed.weight.values.shape[1]
    for rows in range(1, inputs // channels + 1):
        columns = inputs // (channels * rows)
        if rows * columns * channels == inputs and height % rows == 0 and width % columns == 0:
            index = patch_index(image, (rows, columns))
            if index.size == pixels.index.size and (index == pixels.index.reshape(-1)).all():
                return rows, columns
    raise refusal(embed, "the patch embedding does not read the image in patches")
