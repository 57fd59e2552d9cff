"""The paper's four networks as plans without weights: code depends on shapes alone, so two blocks per stage show all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine import plan as p
from geluless.engine.arms import available_arms
from geluless.engine.gpu.builder import Builder
from geluless.engine.gpu.epilogues import Epilogue
from geluless.engine.gpu.lowering import lower
from geluless.engine.gpu.program import Program
from geluless.engine.gpu.tiles import Tiles

# Embedding channels, heads per stage; Swin-S has Swin-T's shapes and more blocks (arXiv 2103.14030, section 3.3).
SIZES = {"tiny": (96, (3, 6, 12, 24)), "base": (128, (4, 8, 16, 32)), "large": (192, (6, 12, 24, 48))}
SAME_SHAPES = {"small": "tiny"}
CLASSES = 1000
INT8, INT16 = (-128, 127), (-(2**15), 2**15 - 1)


def swin_plan(size: str, activation: p.Activation, *, image: int = 224, window: int = 7, double: bool = False) -> p.Plan:
    """A plan of profile `best` (or with FasterTransformer's two roundings everywhere): two blocks in each of four stages."""
    channels, heads = SIZES[SAME_SHAPES.get(size, size)]
    rounding = p.Rounding.DOUBLE if double else p.Rounding.SINGLE

    def linear(inputs: int, outputs: int, bits: int, *, input_low: int = -128, **changes: Any) -> p.Linear:
        below, above = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        values: dict[str, Any] = {"rounding": rounding, "zero_point": 0, "low": below, "high": above}
        return p.Linear(inputs, outputs, input_low, input_low + 255, **(values | changes))

    def norm(width: int, limits: tuple[int, int]) -> p.Norm:
        return p.Norm(width, 1, 20.0, False, *limits)

    def block(width: int, count: int, grid: int, shifted: bool) -> p.Block:
        size = min(window, grid)
        shift = size // 2 if shifted and size < grid else 0
        attention = p.Attention(count, width // count, (size, size), (shift, shift))
        unsigned = {"low": 0, "high": 255} if not double else {}
        pre = 128 if activation is p.Activation.GELU and not double else 0
        fc1 = linear(width, 4 * width, 8, zero_point=pre, **unsigned)
        fc2 = linear(4 * width, width, 16, input_low=-128 if double else 0)
        mlp = p.Mlp(fc1, fc2, True, 0.02, 0, 0.02, pre, 0.02)
        return p.Block(
            norm(width, INT8), linear(width, 3 * width, 8), attention, linear(width, width, 16), norm(width, INT8), mlp
        )

    stages: list[p.Stage] = []
    grid, width = image // 4, channels
    for i, count in enumerate(heads):
        merge = None
        if i:
            merge = p.Merge(norm(4 * width, INT8), linear(4 * width, 2 * width, 16))
            grid, width = (grid + 1) // 2, 2 * width
        blocks = tuple(block(width, count, grid, shifted) for shifted in (False, True))
        stages.append(p.Stage(grid, grid, width, 0.001, merge, blocks))
    stem_linear = linear(48, channels, 16, input_low=0, rounding=p.Rounding.SINGLE)
    stem = p.Stem(3, image, image, (4, 4), 0.02, 114, stem_linear, norm(channels, INT16))
    fc = p.Linear(width, CLASSES, *p.POOLED, p.Rounding.SINGLE, 0, -(2**31), 2**31 - 1)
    head = p.Head(norm(width, INT16), grid * grid, 2**14, 5, fc)
    plan = p.Plan(p.FORMAT, f"swin_{size}", "shapes", activation, stem, tuple(stages), head, {})
    p.check_plan(plan)
    return plan


def shape_tensors(plan: p.Plan) -> dict[str, NDArray]:
    """Tensors that lead to the code which trained networks lead to: an 8-bit result needs no 16-bit clamp, a 16-bit one does."""
    tensors = {}
    for name, spec in p.tensor_schema(plan).items():
        tensors[name] = np.zeros(spec.shape, spec.dtype)
        if name.endswith(".bias") and spec.dtype == "int32":
            tensors[name] += 2**17
        elif name.endswith(".multiplier"):
            tensors[name] += 2**11
    return tensors


BARE = ("int32", "int8", "gelu-tanh")  # the product alone, requantized without activation, and FasterTransformer's GELU fused


def programs(
    tiles: Tiles, *, sizes: tuple[str, ...] = ("tiny", "base", "large"), batch: int = 8, image: int = 224, window: int = 7
) -> Iterator[tuple[str, Program]]:
    """Named programs: every arm of profile best and of FasterTransformer's two roundings, and fc1 with each of BARE."""
    for size in sizes:
        for formula in BARE:
            yield f"{size} fc1 {formula}", fc1_program(tiles, formula, size=size, batch=batch, image=image)
        for activation in p.Activation:
            for double in (False, True):
                plan = swin_plan(size, activation, image=image, window=window, double=double)
                tensors = shape_tensors(plan)
                for arm in available_arms(plan):
                    name = f"{size} {'ft1 ' if double else ''}{arm.value}"
                    yield name, lower(plan, tensors, arm, batch=batch, tiles=tiles)


def fc1_program(tiles: Tiles, formula: str, *, size: str, batch: int = 8, image: int = 224) -> Program:
    """fc1 of every stage with any epilogue of kernels/linear.py that needs no table and no second scale."""
    plan = swin_plan(size, p.Activation.RELU, image=image)
    build = Builder(shape_tensors(plan), batch, tiles)
    for i, stage in enumerate(plan.stages):
        name, spec = f"layers.{i}.blocks.0.mlp.fc1", stage.blocks[0].mlp.fc1
        rows = batch * stage.height * stage.width
        build.scratch("x", "int8", rows * spec.inputs)
        out = build.scratch(
            "sums" if formula == "int32" else "out", "int32" if formula == "int32" else "int8", rows * spec.outputs
        )
        build.linear(name, spec, _shape_epilogue(formula, spec.outputs), "x", out, rows)
    return build.finished()


def _shape_epilogue(formula: str, outputs: int) -> Epilogue:
    bias = np.full(outputs, 2**17, np.int64)
    if formula in ("int8", "relu"):
        return Epilogue(formula, bias, np.full(outputs, 2**11, np.int16), np.zeros(outputs, np.uint8))
    return Epilogue(formula, bias, np.ones(outputs, np.float32))
