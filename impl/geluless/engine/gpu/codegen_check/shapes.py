"""The paper's four networks as plans without weights: code depends on shapes alone, so two blocks per stage show all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.builder import Builder
from geluless.engine.gpu.epilogues import Epilogue
from geluless.engine.gpu.program import Program
from geluless.engine.gpu.tiles import Tiles
from geluless.integer import plan as p
from geluless.integer.bounds import check_plan
from geluless.integer.schema import POOLED, tensor_schema
from geluless.sizes import SIZES, WINDOWS

CLASSES = 1000
INT8, INT16 = (-128, 127), (-(2**15), 2**15 - 1)
LINEARS = frozenset({"qkv", "proj", "fc1", "fc2", "reduction"})

# What a profile of ptq.profiles means for code: the linears that round twice. Those of FasterTransformer also keep LayerNorm's
# affine part and signed hidden tensors.
TWO_STAGE = {"per-channel": frozenset[str](), "ft1": LINEARS, "ft2": LINEARS - {"fc2", "reduction"}}


def swin_plan(size: str, activation: p.Activation, *, image: int = 224, profile: str = "per-channel") -> p.Plan:
    """A plan with two blocks in each of four stages, one of them shifted where the stage has more than one window."""
    network, window = SIZES[size], WINDOWS[image]
    return network_plan(
        f"swin_{size}", activation, profile=profile, image=image, window=window, channels=network.channels, heads=network.heads
    )


def network_plan(
    name: str,
    activation: p.Activation,
    *,
    profile: str,
    image: int,
    window: int,
    channels: int,
    heads: tuple[int, ...],
    patch: int = 4,
    classes: int = CLASSES,
) -> p.Plan:
    """Any Swin for square images, with two blocks per stage. Scales and zero points are arbitrary: no code depends on them."""
    folded, two_stage = profile == "per-channel", TWO_STAGE[profile]

    def linear(kind: str, inputs: int, outputs: int, bits: int, *, input_low: int = -128, **changes: Any) -> p.Linear:
        rounding = p.Rounding.TWO_STAGE if kind in two_stage else p.Rounding.SINGLE
        below, above = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        values: dict[str, Any] = {"rounding": rounding, "zero_point": 0, "low": below, "high": above}
        return p.Linear(inputs, outputs, input_low, input_low + 255, **(values | changes))

    def norm(width: int, limits: tuple[int, int], *, affine: bool) -> p.Norm:
        return p.Norm(width, 1, 1.0 if affine else 20.0, affine, *limits)

    def block(width: int, count: int, grid: int, shifted: bool) -> p.Block:
        size = min(window, grid)
        shift = size // 2 if shifted and size < grid else 0
        attention = p.Attention(count, width // count, (size, size), (shift, shift))
        unsigned = {"low": 0, "high": 255} if folded else {}
        pre = 128 if activation is p.Activation.GELU and folded else 0
        fc1 = linear("fc1", width, 4 * width, 8, zero_point=pre, **unsigned)
        fc2 = linear("fc2", 4 * width, width, 16, input_low=0 if folded else -128)
        return p.Block(
            norm(width, INT8, affine=not folded),
            linear("qkv", width, 3 * width, 8),
            attention,
            linear("proj", width, width, 16),
            norm(width, INT8, affine=not folded),
            p.Mlp(fc1, fc2, True, 0.02, 0, 0.02, pre, 0.02),
        )

    stages: list[p.Stage] = []
    grid, width = image // patch, channels
    for i, count in enumerate(heads):
        merge = None
        if i:
            reduction = linear("reduction", 4 * width, 2 * width, 16)
            merge = p.Merge(norm(4 * width, INT8, affine=not folded), reduction)
            grid, width = (grid + 1) // 2, 2 * width
        blocks = tuple(block(width, count, grid, shifted) for shifted in (False, True))
        stages.append(p.Stage(grid, grid, width, 0.001, merge, blocks))
    stem_linear = linear("stem", 3 * patch * patch, channels, 16, input_low=0)
    stem_norm = norm(channels, INT16, affine=True)  # no linear layer behind it that would take the affine part
    stem = p.Stem(3, image, image, (patch, patch), 0.02, 114, stem_linear, stem_norm)
    fc = p.Linear(width, classes, *POOLED, p.Rounding.SINGLE, 0, -(2**31), 2**31 - 1)
    head = p.Head(norm(width, INT16, affine=False), grid * grid, 2**14, 5, fc)
    plan = p.Plan(p.FORMAT, name, profile, activation, stem, tuple(stages), head, {})
    check_plan(plan)
    return plan


def shape_tensors(plan: p.Plan) -> dict[str, NDArray[Any]]:
    """Tensors of the right shapes, with biases that 16-bit results must saturate for and 8-bit results need not.

    Weights decide only whether a kernel is compiled with that saturation (epilogues.saturates): trained networks have layers
    of both kinds, so `coverage` takes each kernel both ways whatever stands here.
    """
    tensors = {}
    for name, spec in tensor_schema(plan).items():
        tensors[name] = np.zeros(spec.shape, spec.dtype)
        if name.endswith(".bias") and spec.dtype == "int32":
            tensors[name] += 2**17
        elif name.endswith(".multiplier"):
            tensors[name] += 2**11
    return tensors


def fc1_program(tiles: Tiles, formula: str, *, size: str, batch: int = 8, image: int = 224) -> Program:
    """fc1 of every stage with any epilogue of kernels/linear.py that needs no table and no second scale."""
    plan = swin_plan(size, p.Activation.RELU, image=image)
    build = Builder(shape_tensors(plan), batch, tiles)
    for i, stage in enumerate(plan.stages):
        name, spec = f"layers.{i}.blocks.0.mlp.fc1", stage.blocks[0].mlp.fc1
        rows = batch * stage.height * stage.width
        build.scratch("x", "int8", rows * spec.inputs)
        out = build.scratch("sums" if formula == "s32" else "out", "int32" if formula == "s32" else "int8", rows * spec.outputs)
        build.linear(name, spec, _shape_epilogue(formula, spec.outputs), "x", out, rows)
    return build.finished()


def _shape_epilogue(formula: str, outputs: int) -> Epilogue:
    bias = np.full(outputs, 2**17, np.int64)
    if formula in ("s8", "relu"):
        return Epilogue(formula, bias, np.full(outputs, 2**11, np.int16), np.zeros(outputs, np.uint8))
    return Epilogue(formula, bias, np.ones(outputs, np.float32))
