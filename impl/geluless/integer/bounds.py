"""What a plan and its tensors must satisfy so that no integer overflows and no engine reads outside its buffers.

ARITHMETIC.md derives the bounds. A file that breaks one is refused before anything of it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.integer.plan import FORMAT, Activation, Block, Linear, Norm, Plan, PlanError, Rounding, Stage
from geluless.integer.schema import (
    INT32_MAX,
    MAX_ELEMENTS,
    MAX_FACTOR,
    MAX_POOLED,
    MAX_SHIFT,
    MAX_TOKENS,
    POOLED,
    SCALES,
    TensorSpec,
    named_linears,
    tensor_schema,
)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)


def _is_scale(value: float) -> bool:
    return SCALES[0] <= value <= SCALES[1]


def check_plan(plan: Plan) -> None:
    """Raise PlanError unless all shapes fit together and no integer of the arithmetic can overflow.

    The bounds on single tensors (weights against the accumulator) need the weights and are checked with them.
    """
    _require(plan.format == FORMAT, f"format {plan.format} is not {FORMAT}: make the artifact again with this version")
    stem = plan.stem
    limit = 1 << 16
    sizes = (stem.channels, stem.height, stem.width, *stem.patch, plan.head.fc.outputs, len(plan.stages))
    _require(all(0 < size <= limit for size in sizes), "a size of the stem or head is not in 1..65536")
    _require(stem.height % stem.patch[0] == 0 and stem.width % stem.patch[1] == 0, "the image is no whole number of patches")
    _require(_is_scale(stem.input_scale) and 0 <= stem.input_zero_point <= 255, "the input's scale or zero point is out of range")
    grid = (stem.height // stem.patch[0], stem.width // stem.patch[1])
    channels = stem.proj.outputs
    _check_linear("patch_embed.proj", stem.proj, inputs=stem.channels * stem.patch[0] * stem.patch[1], bits=16)
    _require((stem.proj.input_low, stem.proj.input_high) == (0, 255), "patch_embed.proj: its input is uint8")
    _check_norm("patch_embed.norm", stem.norm, channels=channels, bits=16)
    for i, stage in enumerate(plan.stages):
        name = f"layers.{i}"
        if stage.merge:
            _check_norm(f"{name}.downsample.norm", stage.merge.norm, channels=4 * channels, bits=8)
            norm, reduction = stage.merge.norm, stage.merge.reduction
            _check_linear(f"{name}.downsample.reduction", reduction, inputs=4 * channels, bits=16, source=norm)
            channels = stage.merge.reduction.outputs
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        _require((stage.height, stage.width) == grid, f"{name}: the token grid is {grid}, the plan says otherwise")
        _require(stage.channels == channels, f"{name}: {channels} channels arrive, the plan says {stage.channels}")
        _require(_is_scale(stage.residual_scale) and len(stage.blocks) > 0, f"{name}: residual scale and depth must be positive")
        _require(grid[0] * grid[1] <= MAX_TOKENS, f"{name}: more than {MAX_TOKENS:,} tokens")
        for j, block in enumerate(stage.blocks):
            _check_block(f"{name}.blocks.{j}", block, stage, plan.activation)
            _check_memory(f"{name}.blocks.{j}", block, stage)
    roundings = {block.mlp.fc1.rounding for stage in plan.stages for block in stage.blocks}
    _require(len(roundings) == 1, "mlp.fc1 rounds once in one block and twice in another: a variant is one for the whole network")
    _check_norm("norm", plan.head.norm, channels=channels, bits=16)
    _require(
        plan.head.tokens == grid[0] * grid[1] <= MAX_POOLED, f"head: the pooled tokens are miscounted or above {MAX_POOLED:,}"
    )
    pooling_fits = 0 <= plan.head.pool_multiplier <= 32767 and 0 <= plan.head.pool_shift <= MAX_SHIFT
    _require(pooling_fits, "head: pooling out of range")
    _check_linear("head.fc", plan.head.fc, inputs=channels, bits=32)


def _check_norm(name: str, norm: Norm, *, channels: int, bits: int) -> None:
    _require(norm.channels == channels, f"{name}: {channels} channels arrive, the plan says {norm.channels}")
    _require(channels <= 32767, f"{name}: more than 32767 channels overflow the centred int32 sum")
    _require(1 <= norm.epsilon_term < 2**52 and SCALES[0] <= norm.factor <= MAX_FACTOR, f"{name}: epsilon or factor out of range")
    _require((norm.low, norm.high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), f"{name}: its output is int{bits}")


def _check_linear(name: str, linear: Linear, *, inputs: int, bits: int, source: Norm | None = None) -> None:
    _require(linear.inputs == inputs, f"{name}: {inputs} inputs arrive, the plan says {linear.inputs}")
    _require(0 < linear.outputs <= 1 << 16, f"{name}: the number of outputs is not in 1..65536")
    allowed = {POOLED} if bits == 32 else {(-128, 127), (0, 255)}
    _require((linear.input_low, linear.input_high) in allowed, f"{name}: the range of its input is not one the engines know")
    ranges = {(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)} | ({(0, 255)} if bits == 8 else set())
    _require((linear.low, linear.high) in ranges, f"{name}: its output is no {bits}-bit integer")
    _require(linear.low <= linear.zero_point <= linear.high, f"{name}: the zero point lies outside the output's range")
    if source:
        matching = (linear.input_low, linear.input_high) == (source.low, source.high)
        _require(matching, f"{name}: its input is not its norm's output")


def _check_memory(name: str, block: Block, stage: Stage) -> None:
    """No intermediate tensor of a block may be absurdly large: scores, qkv and hidden are the largest."""
    window = block.attention.window
    windows = -(-stage.height // window[0]) * -(-stage.width // window[1])
    tokens = window[0] * window[1]
    widest = max(stage.channels, block.qkv.outputs, block.mlp.fc1.outputs, block.attention.heads * tokens)
    _require(windows * tokens * widest <= MAX_ELEMENTS, f"{name}: a tensor of more than {MAX_ELEMENTS:,} elements per image")


def _check_block(name: str, block: Block, stage: Stage, activation: Activation) -> None:
    attention, mlp = block.attention, block.mlp
    width = attention.heads * attention.head_dim
    _require(attention.heads > 0 and attention.head_dim > 0, f"{name}: heads and head_dim must be positive")
    for size, window, shift in zip((stage.height, stage.width), attention.window, attention.shift, strict=True):
        _require(0 <= shift < window <= 128, f"{name}: window and shift must satisfy 0 <= shift < window <= 128")
        _require(shift == 0 or window < size, f"{name}: a window as large as the token grid is not shifted")
    tokens = attention.window[0] * attention.window[1]
    _require(tokens * 255 * 128 < 2**24, f"{name}: windows above 513 tokens leave the exact range of fp32 in softmax times V")
    _require(attention.head_dim <= 1024, f"{name}: a head_dim above 1024 leaves the exact range of fp32 in the scores")
    _check_norm(f"{name}.norm1", block.norm1, channels=stage.channels, bits=8)
    _check_linear(f"{name}.attn.qkv", block.qkv, inputs=stage.channels, bits=8, source=block.norm1)
    _require(block.qkv.outputs == 3 * width, f"{name}.attn.qkv: 3 x heads x head_dim outputs expected")
    _require(block.qkv.low == -128, f"{name}.attn.qkv: its output is int8")
    _check_linear(f"{name}.attn.proj", block.proj, inputs=width, bits=16)
    _require(block.proj.input_low == -128, f"{name}.attn.proj: its input is int8")
    _check_norm(f"{name}.norm2", block.norm2, channels=stage.channels, bits=8)
    _check_linear(f"{name}.mlp.fc1", mlp.fc1, inputs=stage.channels, bits=8, source=block.norm2)
    _check_linear(f"{name}.mlp.fc2", mlp.fc2, inputs=mlp.fc1.outputs, bits=16)
    _require(block.proj.outputs == mlp.fc2.outputs == stage.channels, f"{name}: a branch does not fit the residual stream")
    _require(block.proj.zero_point == mlp.fc2.zero_point == block.qkv.zero_point == 0, f"{name}: this tensor has no zero point")
    scales = (mlp.hidden_scale, mlp.pre_scale, mlp.after_gemm_scale)
    _require(all(_is_scale(scale) for scale in scales), f"{name}.mlp: a scale is not positive or out of all proportion")
    low, high = mlp.fc2.input_low, mlp.fc2.input_high
    _require(low <= mlp.hidden_zero_point <= high, f"{name}.mlp: the hidden zero point is out of range")
    _require(0 <= mlp.pre_zero_point <= 255, f"{name}.mlp: the pre-activation's zero point is out of range")
    fused = mlp.fc1.rounding is Rounding.SINGLE
    if activation is Activation.RELU:
        _require(mlp.hidden_zero_point == mlp.pre_zero_point == 0, f"{name}.mlp: ReLU clamps at zero, which is the zero point")
        _require(mlp.fc1.zero_point == 0, f"{name}.mlp.fc1: ReLU clamps at zero, which is the zero point")
        _require((mlp.fc1.low, mlp.fc1.high) == (low, high), f"{name}.mlp.fc1: its output is not fc2's input")
    elif fused:
        _require((mlp.fc1.low, mlp.fc1.high) == (0, 255), f"{name}.mlp.fc1: the pre-activation of a GELU table is uint8")
        _require(mlp.fc1.zero_point == mlp.pre_zero_point, f"{name}.mlp.fc1: its zero point is not the pre-activation's")
    table_fits = activation is Activation.RELU or not fused or low == 0
    _require(table_fits, f"{name}.mlp: a GELU table gives uint8, but fc2 reads int8: quantize with unsigned_hidden")


def check_tensors(plan: Plan, tensors: Mapping[str, NDArray[Any]]) -> None:
    schema = tensor_schema(plan)
    if missing := sorted(schema.keys() - tensors.keys()):
        raise PlanError(f"the tensor {missing[0]} is missing")
    if extra := sorted(tensors.keys() - schema.keys()):
        raise PlanError(f"the tensor {extra[0]} does not belong to the plan")
    for name, spec in schema.items():
        _check_tensor(name, tensors[name], spec)
    for name, linear in named_linears(plan):
        _check_accumulator(name, linear, tensors)


def _check_tensor(name: str, tensor: NDArray[Any], spec: TensorSpec) -> None:
    if str(tensor.dtype) != spec.dtype or tensor.shape != spec.shape:
        raise PlanError(f"{name} is {tensor.dtype} {list(tensor.shape)}, the plan needs {spec.dtype} {list(spec.shape)}")
    if spec.dtype == "float32" and not np.isfinite(tensor).all():
        raise PlanError(f"{name} holds NaN or infinite values")
    if spec.low is not None and spec.high is not None and tensor.size and (tensor.min() < spec.low or tensor.max() > spec.high):
        raise PlanError(f"{name} holds values outside {spec.low}..{spec.high}")


def _check_accumulator(name: str, linear: Linear, tensors: Mapping[str, NDArray[Any]]) -> None:
    """sum |w| max|x| + |bias| + half must fit int32: then no order of summation can overflow.

    That includes engines whose products take signed bytes: they multiply x - 128 and add 128 sum(w) with the bias, so that a
    uint8 input counts 128 twice. A tensor core's accumulator saturates where another's wraps; neither happens below this bound.
    """
    reach = max(-linear.input_low, linear.input_high + 1)
    products = np.abs(tensors[f"{name}.weight"].astype(np.int64)).sum(1) * reach
    bound = products + np.abs(tensors[f"{name}.bias"].astype(np.int64)) + 2**29
    if (bound > INT32_MAX).any():
        raise PlanError(f"{name} can overflow its int32 accumulator in channel {int(bound.argmax())}")
