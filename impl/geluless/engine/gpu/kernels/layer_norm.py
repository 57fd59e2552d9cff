"""LayerNorm of int16 rows from exact integer sums, with patch merging's gather where there is one."""

import triton
import triton.language as tl

from geluless.engine.gpu.kernels.epilogue import clamp_round


@triton.jit(do_not_specialize=["count", "factor", "epsilon"])
def layer_norm(
    x,  # int16 [rows, CHANNELS / PARTS]
    sources,  # int32 [count, PARTS]: the rows that make one wide row, -1 for zeros; None: row i is row i
    gamma,  # float32 [CHANNELS], or None
    beta,  # float32 [CHANNELS], or None
    out,  # int8 or int16 [count, CHANNELS]
    count,
    factor,
    epsilon: "i64",
    CHANNELS: tl.constexpr,
    PARTS: tl.constexpr,  # 1, or 4 for patch merging
    BLOCK_C: tl.constexpr,  # power of two >= CHANNELS / PARTS
    ROWS: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
):
    """See reference.layer_norm for the order of operations: integers up to the variance, then fp32, each operation rounded."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PARTS * BLOCK_C)
    part, within = column // BLOCK_C, column % BLOCK_C  # of a power of two: a shift and a mask
    channel = part * (CHANNELS // PARTS) + within
    inside = (row < count)[:, None] & (within < CHANNELS // PARTS)[None, :]
    if sources is None:
        values = tl.load(x + row[:, None] * CHANNELS + channel[None, :], mask=inside, other=0).to(tl.int32)
    else:
        source = tl.load(sources + row[:, None] * PARTS + part[None, :], mask=inside, other=-1)
        place = source * (CHANNELS // PARTS) + within[None, :]
        values = tl.load(x + place, mask=inside & (source >= 0), other=0).to(tl.int32)

    total = tl.sum(values, 1)  # CHANNELS * 2^15 fits int32
    squares = tl.sum((values * values).to(tl.int64), 1)
    wide = total.to(tl.int64)
    spread = squares * CHANNELS - wide * wide + epsilon  # CHANNELS^2 times the variance, exact
    reciprocal = tl.div_rn(tl.zeros_like(total).to(tl.float32) + factor, tl.sqrt_rn(spread.to(tl.float32)))
    y = (values * CHANNELS - total[:, None]).to(tl.float32) * reciprocal[:, None]
    if gamma is not None:
        used = within < CHANNELS // PARTS
        y = y * tl.load(gamma + channel, mask=used, other=0.0)[None, :] + tl.load(beta + channel, mask=used, other=0.0)[None, :]
    result = clamp_round(y, LOW * 1.0, HIGH * 1.0)
    tl.store(out + row[:, None] * CHANNELS + channel[None, :], result.to(out.dtype.element_ty), mask=inside)
