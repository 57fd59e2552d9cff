"""The elementwise kernels that a separate activation costs: fc1's output from memory, through the activation, and back."""

import triton
import triton.language as tl

from geluless.engine.gpu.kernels.epilogue import clamp_round, gelu_tanh


@triton.jit(do_not_specialize=["count", "zero", "lowest", "highest"])
def gelu_after_gemm(
    hidden,  # int8 [count], in place; rows of CHANNELS
    bias,  # float32 [CHANNELS], real
    count,
    scale,  # of the GEMM's int8
    inverse_scale,  # 1 / scale of the result
    zero,
    lowest,
    highest,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """FasterTransformer's add_bias_gelu: dequantize, add the bias, tanh-GELU, requantize."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    x = tl.load(hidden + i, mask=inside, other=0).to(tl.float32) * scale + tl.load(bias + i % CHANNELS)
    low, high = (lowest - zero).to(tl.float32), (highest - zero).to(tl.float32)
    tl.store(hidden + i, (clamp_round(gelu_tanh(x) * inverse_scale, low, high) + zero).to(tl.int8), mask=inside)


@triton.jit(do_not_specialize=["count", "zero", "lowest", "highest"])
def relu_after_gemm(
    hidden,  # int8 [count], in place; rows of CHANNELS
    gain,  # float32 [CHANNELS]
    offset,  # float32 [CHANNELS], the bias in units of the result
    count,
    zero,
    lowest,
    highest,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The second of FasterTransformer's two roundings; ReLU is its lower clamp."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    channel = i % CHANNELS
    y = tl.load(hidden + i, mask=inside, other=0).to(tl.float32) * tl.load(gain + channel) + tl.load(offset + channel)
    low, high = (lowest - zero).to(tl.float32), (highest - zero).to(tl.float32)
    tl.store(hidden + i, (clamp_round(y, low, high) + zero).to(tl.int8), mask=inside)


@triton.jit(do_not_specialize=["count", "zero", "highest"])
def relu_s16(
    x,  # int16 [count]
    out,  # int8 [count]
    count,
    zero,
    highest,
    BLOCK: tl.constexpr,
):
    """ReLU over fc1's requantized int16 output, which it narrows to 8 bits."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    y = tl.load(x + i, mask=inside, other=0).to(tl.int32)
    tl.store(out + i, tl.minimum(tl.maximum(y, 0) + zero, highest).to(tl.int8), mask=inside)
