"""From an int32 accumulator tile to the values that are stored: every epilogue of the INT8 linear kernel.

Eight-bit tensors are stored as int8 throughout: a signed value as it is, an unsigned one minus 128 (the tensor core's operands
are signed). `lowest` and `highest` are stored values, `rounding` holds the half of the last shift and the stored zero point,
2^14 + (zero << 15), so that one addition does both. Bias tiles already hold the first shift's half and what the inputs' 128
adds. Only tanh's GELU and ShiftGELU divide; `requantize` and its ReLU are integers alone, as
tests/engine/gpu/test_codegen_check.py shows.
"""

import triton
import triton.language as tl


@triton.jit
def requantize(acc, bias, multiplier, shift, rounding, SATURATE: tl.constexpr):
    """The requantization of integer/requantization.py: sat16((acc + bias) >> shift) * multiplier, rounded at bit 15. int32 [M,
    N] -> int32.

    SATURATE is 0 where `epilogues.saturates` has proved that leaving sat16 out changes no clamped result.
    """
    v = (acc + bias[None, :]) >> shift[None, :]
    if SATURATE:
        v = tl.minimum(tl.maximum(v, -32768), 32767)
    return (v * multiplier[None, :] + rounding) >> 15


@triton.jit
def requantize_relu(acc, bias, multiplier, shift, rounding, SATURATE: tl.constexpr):
    """`requantize` and the clamp at the zero point: a clamp of v at zero does it, because multipliers are not negative."""
    v = tl.maximum((acc + bias[None, :]) >> shift[None, :], 0)
    if SATURATE:
        v = tl.minimum(v, 32767)
    return (v * multiplier[None, :] + rounding) >> 15


@triton.jit
def clamp_round(x, low, high):
    """round(x), half to even, clamped to integers low..high: float32 -> int32, without a conversion instruction.

    Clamping first changes no result and keeps |x| below 2^22. Then x + 1.5 * 2^23 has no bits below one, so that the addition
    itself rounds, and its bit pattern is that of 1.5 * 2^23 (0x4b400000) plus the integer.
    """
    y = tl.minimum(tl.maximum(x, low), high) + 12582912.0
    return y.to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def round_two_stage(acc, bias, alpha, gain, offset, zero, low, high):
    """FasterTransformer's two roundings: to int8 after the GEMM, then gain, real bias and the output's rounding."""
    first = clamp_round((acc + bias[None, :]).to(tl.float32) * alpha[None, :], -128.0, 127.0).to(tl.float32)
    y = first * gain[None, :] + offset[None, :]
    low_real, high_real = (low - zero).to(tl.float32), (high - zero).to(tl.float32)
    return clamp_round(y, low_real, high_real) + zero


@triton.jit
def gelu_erf(x):
    """The definition: x / 2 (1 + erf(x / sqrt 2))."""
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def gelu_tanh(x):
    """FasterTransformer's form; (1 + tanh u) / 2 is the sigmoid of 2 u."""
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x / (1.0 + tl.math.exp(-2.0 * u))


@triton.jit
def gelu_polynomial(x):
    """I-BERT's i-GELU (arXiv 2101.01321, equation 8)."""
    z = tl.minimum(tl.abs(x) * 0.7071067811865476, 1.769) - 1.769
    erf = -0.2888 * z * z + 1.0
    return 0.5 * x * (1.0 + tl.where(x < 0, -erf, erf))


@triton.jit
def shift_exponential(d, unit, floor):
    """I-ViT's Shiftmax exponential of d <= 0 in steps of 1 / unit: 23 fractional bits, unit < 256, floor = -23 unit."""
    d = d + (d >> 1) - (d >> 4)  # times log2(e)
    d = tl.maximum(d, floor)
    whole = (-d) // unit
    rest = d + whole * unit  # in (-unit, 0]
    return ((rest >> 1) + unit).to(tl.uint32) << 23 >> whole.to(tl.uint32)


@triton.jit
def gelu_shift_steps(q, top, unit, negative):
    """I-ViT's ShiftGELU (arXiv 2207.01405): q times its sigmoid in 1/128, both integers. `top`: the largest 1.702 q there is;
    `negative`: shift_exponential(-top), clamped to 31 bits."""
    scaled = q + (q >> 1) + (q >> 3) + (q >> 4)
    positive = shift_exponential(scaled - top, unit, -23 * unit)
    total = tl.minimum(positive.to(tl.int64) + negative, 2147483647).to(tl.int32)
    factor = 2147483647 // total
    return q * ((positive * factor.to(tl.uint32)) >> 24).to(tl.int32)
