"""This project's GPU engine as a list of kernels: bytes and multiplications from its program, instructions from its code."""

from __future__ import annotations

import re

import numpy as np

from geluless.bench.roofline.devices import Device
from geluless.bench.roofline.work import Work
from geluless.engine.gpu.codegen_check.record import CodegenRecord
from geluless.engine.gpu.codegen_check.shapes import shape_tensors, swin_plan
from geluless.engine.gpu.compiler import source_of
from geluless.engine.gpu.lowering import lower
from geluless.engine.gpu.program import Launch, Program
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles
from geluless.errors import DataError
from geluless.integer.plan import Activation
from geluless.integer.variants import Variant
from geluless.sizes import SIZES

SHAPE_BLOCKS = 2  # per stage in a plan of `codegen_check.shapes`: one plain, one shifted
OLDEST = 80  # compute capability with the kernels' matrix instructions and asynchronous copies


def can_run(device: Device) -> bool:
    return device.capability >= OLDEST


def forward(size: str, batch: int, variant: Variant, record: CodegenRecord) -> list[Work]:
    """All kernels of a forward pass at 224 x 224 in one variant of profile per-channel, with the tiles and the code of the
    record's target.

    Raises DataError for a record that lacks one of its kernels.
    """
    activation = Activation.RELU if variant.value.startswith("relu") else Activation.GELU
    plan = swin_plan(size, activation)
    program = lower(plan, shape_tensors(plan), variant, batch=batch, tiles=Tiles(ARCHITECTURES[record.target]))
    depths = SIZES[size].depths
    works = []
    for launch in program.launches:
        in_block = re.match(r"layers\.(\d)\.blocks\.", launch.name)
        # Counts are of a stage's two blocks; depths are even, so half of each kind makes the whole.
        count = depths[int(in_block[1])] // SHAPE_BLOCKS if in_block else 1
        works.append(_work(launch, program, record).times(count))
    return works


def _work(launch: Launch, program: Program, record: CodegenRecord) -> Work:
    read, written = traffic(launch, program)
    constants = launch.constants
    macs, depth = 0, 1
    if launch.kernel == "int8_linear":
        rows = launch.arguments["rows"]
        assert isinstance(rows, int)
        depth = int(constants["INPUTS"])
        macs = rows * depth * int(constants["OUTPUTS"])
    elif launch.kernel == "window_attention":
        depth = int(constants["HEAD_DIM"])
        macs = launch.programs * 2 * int(constants["BLOCK_Q"]) * int(constants["BLOCK_KEYS"]) * int(constants["BLOCK_D"])
    return Work(launch.name, read, written, macs, depth, instructions(launch, program, record))


def traffic(launch: Launch, program: Program) -> tuple[int, int]:
    """(bytes read, bytes written) if every operand crosses memory once."""
    constants, arguments = launch.constants, launch.arguments

    def item(parameter: str) -> int:
        name = arguments[parameter]
        assert isinstance(name, str)
        return int(np.dtype(program.buffers[name].dtype).itemsize)

    if launch.kernel == "int8_linear":
        rows, inputs, outputs = arguments["rows"], int(constants["INPUTS"]), int(constants["OUTPUTS"])
        assert isinstance(rows, int)
        out = rows * outputs * item("out")
        stream = out if str(constants["EPILOGUE"]).endswith("residual") else 0
        return rows * inputs + inputs * outputs + 12 * outputs + stream, out
    if launch.kernel == "layer_norm":
        count = arguments["count"]
        assert isinstance(count, int)
        elements = count * int(constants["CHANNELS"])
        return 2 * elements, elements * item("out")
    if launch.kernel == "window_attention":
        tokens, heads = int(constants["TOKENS"]), int(constants["HEADS"])
        elements = launch.grid[2] * int(constants["PIXELS"]) * heads * int(constants["HEAD_DIM"])
        return 3 * elements + 2 * heads * tokens * tokens, elements
    if launch.kernel in ("gelu_after_gemm", "relu_after_gemm", "relu_s16", "quantize_patches"):
        count = arguments["count"]
        assert isinstance(count, int)
        return {"relu_s16": 2, "quantize_patches": 4}.get(launch.kernel, 1) * count, count
    if launch.kernel == "pool":
        batch, elements = launch.grid[1], int(constants["TOKENS"]) * int(constants["CHANNELS"])
        return 2 * batch * elements, 4 * batch * int(constants["CHANNELS"])
    batch, classes, channels = launch.grid[1], int(constants["CLASSES"]), int(constants["CHANNELS"])
    return classes * channels + 4 * batch * channels, 4 * batch * classes


def instructions(launch: Launch, program: Program, record: CodegenRecord) -> int:
    """Of all warps of a launch. Raises DataError for a kernel that the record does not hold: another tile's code can be half as
    long."""
    key = source_of(launch, program.buffers).key
    if key not in record.rows:
        raise DataError(
            f"the codegen record of {record.target} has no row for {launch.name} at batch {program.batch} ({key}): "
            f"write a new one with `geluless codegen --arch {record.target} --output FILE`"
        )
    return record.rows[key].executed * launch.warps * launch.programs
