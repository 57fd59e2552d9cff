"""From a plan and its tensors to a GPU program for one batch size and variant."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geluless.engine.gpu.builder import Builder
from geluless.engine.gpu.epilogues import OFFSET, Tensors, linear_epilogue, variant_epilogue
from geluless.engine.gpu.program import GRID_LIMITS, Program
from geluless.engine.gpu.tiles import Tiles
from geluless.integer import plan as p
from geluless.integer.variants import Variant
from geluless.integer.window_index import merge_sources

INDEX_LIMIT = 2**31  # kernels address elements with int32
SMALLEST_BLOCK = 16  # rows of a tile: of every architecture's table, and of what tuning may choose from it


def lower(plan: p.Plan, tensors: Tensors, variant: Variant, *, batch: int, tiles: Tiles) -> Program:
    """The whole forward pass of `batch` images. Raises ValueError for a batch above `largest_batch`."""
    return _Lowering(tensors, batch, tiles, plan=plan, variant=variant).program()


def largest_batch(plan: p.Plan) -> int:
    """How many images one program may take: no element beyond int32, and no grid beyond what a device launches. Along its second
    axis lie tiles of rows, of which a single image always gets large enough ones; along its third, images."""
    tokens = max(stage.height * stage.width for stage in plan.stages)
    rows = SMALLEST_BLOCK * GRID_LIMITS[1]
    return max(1, min((INDEX_LIMIT - 1) // _elements_per_image(plan), rows // tokens, GRID_LIMITS[2]))


def _elements_per_image(plan: p.Plan) -> int:
    stem = plan.stem
    most = max(stem.channels * stem.height * stem.width, plan.stages[0].height * plan.stages[0].width * stem.proj.inputs)
    for stage in plan.stages:
        tokens = stage.height * stage.width
        widest = max(max(block.qkv.outputs, block.mlp.fc1.outputs) for block in stage.blocks)
        # An attention program over the edge of its window computes addresses up to a window further, which it never uses.
        most = max(most, tokens * max(widest, stage.channels, 4 * (stage.merge.norm.channels // 4) if stage.merge else 0))
    return most


@dataclass
class _Lowering(Builder):
    plan: p.Plan = field(kw_only=True)
    variant: Variant = field(kw_only=True)

    def program(self) -> Program:
        if not 1 <= self.batch <= largest_batch(self.plan):
            raise ValueError(f"a batch of {self.batch}: this network takes 1 to {largest_batch(self.plan)} images at once")
        self.constant("softmax_table", self.tensors["softmax_table"], np.uint8)
        self._stem()
        for i, stage in enumerate(self.plan.stages):
            if stage.merge:
                self._merge(f"layers.{i}.downsample", self.plan.stages[i - 1], stage, stage.merge)
            for j, block in enumerate(stage.blocks):
                self._block(f"layers.{i}.blocks.{j}", block, stage)
        self._head()
        return self.finished()

    def _rows(self, stage: p.Stage) -> int:
        return self.batch * stage.height * stage.width

    def _stem(self) -> None:
        stem, stage = self.plan.stem, self.plan.stages[0]
        rows = self._rows(stage)
        patches = self.patches(stem, "patches")
        embedding = self.scratch("embedding", "int16", rows * stage.channels)
        self._requantized("patch_embed.proj", stem.proj, patches, embedding, rows, output_stage="s16")
        stream = self.scratch("stream", "int16", rows * stage.channels)
        self.norm("patch_embed.norm", stem.norm, embedding, stream, rows)
        self.tap("patch_embed", stream, rows, stage.channels)

    def _merge(self, name: str, before: p.Stage, stage: p.Stage, merge: p.Merge) -> None:
        rows, wide = self._rows(stage), 4 * before.channels
        normed = self.scratch("normed", "int8", rows * wide)
        sources = merge_sources(before.height, before.width, self.batch)
        self.norm(f"{name}.norm", merge.norm, "stream", normed, rows, sources=sources)
        stream = self.scratch("stream", "int16", rows * stage.channels)
        self._requantized(f"{name}.reduction", merge.reduction, normed, stream, rows, output_stage="s16")
        self.tap(name, stream, rows, stage.channels)

    def _block(self, name: str, block: p.Block, stage: p.Stage) -> None:
        rows, channels = self._rows(stage), stage.channels
        normed = self.scratch("normed", "int8", rows * channels)
        self.norm(f"{name}.norm1", block.norm1, "stream", normed, rows)
        self.tap(f"{name}.norm1", normed, rows, channels)
        qkv = self.scratch("qkv", "int8", rows * block.qkv.outputs)
        self._requantized(f"{name}.attn.qkv", block.qkv, normed, qkv, rows, output_stage="s8")
        context = self.scratch("context", "int8", rows * block.proj.inputs)
        self.attention(f"{name}.attn", block, stage, qkv, context)
        self.tap(f"{name}.attn.context", context, rows, block.proj.inputs)
        self._requantized(f"{name}.attn.proj", block.proj, context, "stream", rows, output_stage="residual")
        self.norm(f"{name}.norm2", block.norm2, "stream", normed, rows)
        self.tap(f"{name}.norm2", normed, rows, channels)
        hidden = self.scratch("hidden", "int8", rows * block.mlp.fc1.outputs)
        self._fc1(f"{name}.mlp", block.mlp, normed, hidden, rows)
        offset = OFFSET if block.mlp.fc2.input_low == 0 else 0
        self.tap(f"{name}.mlp.hidden", hidden, rows, block.mlp.fc1.outputs, offset=offset)
        self._requantized(f"{name}.mlp.fc2", block.mlp.fc2, hidden, "stream", rows, output_stage="residual")
        self.tap(name, "stream", rows, channels)

    def _requantized(self, name: str, spec: p.Linear, source: str, target: str, rows: int, *, output_stage: str) -> None:
        """A linear layer without activation; `output_stage` as in `linear_epilogue`."""
        self.linear(name, spec, linear_epilogue(name, spec, self.tensors, output_stage=output_stage), source, target, rows)

    def _fc1(self, name: str, mlp: p.Mlp, source: str, hidden: str, rows: int) -> None:
        """fc1 with the variant's activation as its epilogue, or with an elementwise kernel behind it."""
        epilogue, separate = variant_epilogue(name, mlp, self.tensors, self.variant)
        width, target = mlp.fc1.outputs, hidden
        if separate and separate.from_s16:
            target = self.scratch("pre-activation", "int16", rows * width)
        self.linear(f"{name}.fc1", mlp.fc1, epilogue, source, target, rows)
        if separate:
            self.elementwise(f"{name}.activation", separate, target, hidden, rows, width)

    def _head(self) -> None:
        head, stage = self.plan.head, self.plan.stages[-1]
        rows, channels = self._rows(stage), stage.channels
        normed = self.scratch("embedding", "int16", rows * channels)
        self.norm("norm", head.norm, "stream", normed, rows)
        pooled = self.scratch("pooled", "int32", self.batch * channels)
        self.pool(head, normed, pooled)
        self.classifier(head, pooled)
