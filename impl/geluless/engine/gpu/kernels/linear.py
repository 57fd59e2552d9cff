"""INT8 GEMM with the epilogue as a compile-time value: out = epilogue(x @ weight.T)."""

import triton
import triton.language as tl

from geluless.engine.gpu.kernels.epilogue import (
    clamp_round,
    gelu_erf,
    gelu_polynomial,
    gelu_shift_steps,
    gelu_tanh,
    requantize,
    requantize_relu,
    round_two_stage,
)


@triton.jit(do_not_specialize=["rows", "rounding", "zero", "lowest", "highest", "top", "unit", "negative"])
def int8_linear(
    x,  # int8 [rows, INPUTS]
    weight,  # int8 [OUTPUTS, INPUTS]: a tile is loaded as it lies and transposed on its way into the tensor core
    bias,  # int32 [OUTPUTS]
    factor,  # int32 multipliers or float32 scales [OUTPUTS]
    shift,  # int32 [OUTPUTS]; None for float epilogues
    gain,  # float32 [OUTPUTS]; for two-stage
    offset,  # float32 [OUTPUTS]; for two-stage
    table,  # int8 [256]; for lut
    out,  # int8 or int16 [rows, OUTPUTS]
    rows,
    rounding,
    zero,  # stored zero point
    lowest,
    highest,
    inverse_scale,  # 1 / scale of the hidden tensor
    top,
    unit,
    negative,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EPILOGUE: tl.constexpr,
    SATURATE: tl.constexpr,
):
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Rows and channels beyond the edge read the last one instead and are never stored: no mask in the loop.
    x_tile = x + tl.minimum(m, rows - 1)[:, None] * INPUTS + k[None, :]
    channel = n if OUTPUTS % BLOCK_N == 0 else tl.minimum(n, OUTPUTS - 1)
    w_tile = weight + channel[:, None] * INPUTS + k[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for start in range(0, INPUTS, BLOCK_K):
        if INPUTS % BLOCK_K == 0:
            x_block, w_block = tl.load(x_tile), tl.load(w_tile)
        else:
            inside = (start + k < INPUTS)[None, :]
            x_block, w_block = tl.load(x_tile, mask=inside, other=0), tl.load(w_tile, mask=inside, other=0)
        acc = tl.dot(x_block, tl.trans(w_block), acc, out_dtype=tl.int32)
        x_tile += BLOCK_K
        w_tile += BLOCK_K

    b = tl.load(bias + channel)
    f = tl.load(factor + channel)
    place = m[:, None] * OUTPUTS + n[None, :]
    stored = (m < rows)[:, None] & (n < OUTPUTS)[None, :]
    if EPILOGUE == "s32":  # the bare product, to measure all others against
        y = acc + b[None, :]
    elif EPILOGUE == "s8":
        y = tl.minimum(tl.maximum(requantize(acc, b, f, tl.load(shift + channel), rounding, SATURATE), lowest), highest)
    elif EPILOGUE == "relu":
        y = tl.minimum(requantize_relu(acc, b, f, tl.load(shift + channel), rounding, SATURATE), highest)
    elif EPILOGUE == "s16":
        y = requantize(acc, b, f, tl.load(shift + channel), 16384, SATURATE) + zero
        y = tl.minimum(tl.maximum(y, -32768), 32767)
    elif EPILOGUE == "residual":
        y = requantize(acc, b, f, tl.load(shift + channel), 16384, SATURATE) + tl.load(out + place, mask=stored, other=0).to(
            tl.int32
        )
        y = tl.minimum(tl.maximum(y, -32768), 32767)
    elif EPILOGUE == "lut":
        y = tl.minimum(tl.maximum(requantize(acc, b, f, tl.load(shift + channel), rounding, SATURATE), 0), 255)
        y = tl.load(table + y)
    elif EPILOGUE == "relu-float":
        y = clamp_round((acc + b[None, :]).to(tl.float32) * f[None, :], 0.0, (highest - zero).to(tl.float32)) + zero
    elif EPILOGUE == "after-gemm":
        y = clamp_round((acc + b[None, :]).to(tl.float32) * f[None, :], -128.0, 127.0)
    elif EPILOGUE == "two-stage-s8":
        y = round_two_stage(acc, b, f, tl.load(gain + channel), tl.load(offset + channel), zero, lowest, highest)
    elif EPILOGUE == "two-stage-s16":
        y = round_two_stage(acc, b, f, tl.load(gain + channel), tl.load(offset + channel), zero, -32768, 32767)
    elif EPILOGUE == "two-stage-residual":
        y = round_two_stage(acc, b, f, tl.load(gain + channel), tl.load(offset + channel), zero, -32768, 32767)
        y += tl.load(out + place, mask=stored, other=0).to(tl.int32)
        y = tl.minimum(tl.maximum(y, -32768), 32767)
    elif EPILOGUE == "gelu-shift":
        q = tl.minimum(tl.maximum(requantize(acc, b, f, tl.load(shift + channel), rounding, SATURATE), lowest), highest)
        steps = gelu_shift_steps(q, top, unit, negative).to(tl.float32) * inverse_scale
        y = clamp_round(steps, (-128 - zero).to(tl.float32), (127 - zero).to(tl.float32)) + zero
    else:
        real = (acc + b[None, :]).to(tl.float32) * f[None, :]
        if EPILOGUE == "gelu-erf":
            activated = gelu_erf(real)
        elif EPILOGUE == "gelu-tanh":
            activated = gelu_tanh(real)
        else:
            tl.static_assert(EPILOGUE == "gelu-polynomial", "no such epilogue")
            activated = gelu_polynomial(real)
        y = clamp_round(activated * inverse_scale, (lowest - zero).to(tl.float32), (highest - zero).to(tl.float32)) + zero
    tl.store(out + place, y.to(out.dtype.element_ty), mask=stored)
