"""INT8 window attention. Shift and windows are addresses: rows are gathered from the image and scattered back to it."""

import triton
import triton.language as tl

from geluless.engine.gpu.kernels.epilogue import clamp_round


@triton.jit
def gather(qkv, pad, row, inside, column, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """int8 [tokens, BLOCK_D] of one head's q, k or v, `column` being its first; zeros beyond the window's tokens and HEAD_DIM,
    the constant row `pad` for tokens that pad the image."""
    d = tl.arange(0, BLOCK_D)
    present = (row >= 0)[:, None] & (d < HEAD_DIM)[None, :]
    tile = tl.load(qkv + row[:, None] * WIDTH + column + d[None, :], mask=present, other=0)
    if pad is not None:
        constant = tl.load(pad + column + d, mask=d < HEAD_DIM, other=0)
        tile = tl.where(inside[:, None] & (row < 0)[:, None], constant[None, :], tile)
    return tile


@triton.jit
def attention_scores(q, k, query, key, queries_region, keys_region, bias, shift, TOKENS: tl.constexpr, SHIFTED: tl.constexpr):
    """(int32 [queries, keys] in int16, which of them count): sat16(sat16(round(q k / 2^shift)) + position bias)."""
    acc = tl.dot(q, tl.trans(k), out_dtype=tl.int32)
    half = (1 << shift) >> 1  # zero for shift 0
    s = tl.minimum(tl.maximum((acc + half) >> shift, -32768), 32767)
    counts = (key < TOKENS)[None, :] & (query < TOKENS)[:, None]
    s += tl.load(bias + query[:, None] * TOKENS + key[None, :], mask=counts, other=0).to(tl.int32)
    s = tl.minimum(tl.maximum(s, -32768), 32767)
    if SHIFTED:
        counts = counts & (queries_region[:, None] == keys_region[None, :])
    return tl.where(counts, s, -32768), counts


@triton.jit
def softmax_weights(s, counts, top, multiplier, table):
    """int32 [queries, keys] in 0..255: table[steps below the maximum]; 0 for keys that do not count."""
    below = tl.minimum(top[:, None] - s, 32767)
    steps = tl.minimum((below * multiplier + 16384) >> 15, 127)
    return tl.where(counts, tl.load(table + steps).to(tl.int32), 0)


@triton.jit
def weigh(weights, v):
    """int32 [queries, d] = weights @ v, exactly. The tensor core takes signed bytes, so 128 is taken off and added again."""
    shifted = tl.dot((weights - 128).to(tl.int8), v, out_dtype=tl.int32)
    return shifted + 128 * tl.sum(v.to(tl.int32), 0)[None, :]


@triton.jit
def window_attention(
    qkv,  # int8 [images * PIXELS, 3 * HEADS * HEAD_DIM]
    pad,  # int8 [3 * HEADS * HEAD_DIM], of a token that pads the image; None without padding
    tokens,  # int32 [windows, TOKENS]: the pixel (row of qkv) of each token, -1 where the image is padded
    regions,  # int8 [windows, TOKENS]: queries attend to keys of their own region; None without shift
    bias,  # int16 [HEADS, TOKENS, TOKENS]
    score_shift,  # int32 [HEADS]
    score_multiplier,  # int32 [HEADS]
    output_multiplier,  # float32 [HEADS]
    table,  # uint8 [128]
    out,  # int8 [images * PIXELS, HEADS * HEAD_DIM]
    PIXELS: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: BLOCK_Q queries of one window, head and image. Grid (windows * query blocks, HEADS, images)."""
    BLOCKS: tl.constexpr = (TOKENS + BLOCK_Q - 1) // BLOCK_Q
    WIDTH: tl.constexpr = 3 * HEADS * HEAD_DIM
    SHIFTED: tl.constexpr = regions is not None
    window, head = tl.program_id(0) // BLOCKS, tl.program_id(1)
    first_pixel = tl.program_id(2) * PIXELS
    tokens += window * TOKENS
    qkv += first_pixel * WIDTH
    bias += head * TOKENS * TOKENS
    shift, multiplier = tl.load(score_shift + head), tl.load(score_multiplier + head)

    query = (tl.program_id(0) % BLOCKS) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    query_row = tl.load(tokens + query, mask=query < TOKENS, other=-1)
    q = gather(qkv, pad, query_row, query < TOKENS, head * HEAD_DIM, HEAD_DIM, WIDTH, BLOCK_D)
    query_region = query
    if SHIFTED:
        regions += window * TOKENS
        query_region = tl.load(regions + query, mask=query < TOKENS, other=-1).to(tl.int32)

    key = tl.arange(0, BLOCK_KEYS)
    k_column, v_column = (HEADS + head) * HEAD_DIM, (2 * HEADS + head) * HEAD_DIM
    if TOKENS <= BLOCK_KEYS:  # the whole window at once
        row = tl.load(tokens + key, mask=key < TOKENS, other=-1)
        region = tl.load(regions + key, mask=key < TOKENS, other=-2).to(tl.int32) if SHIFTED else key
        k = gather(qkv, pad, row, key < TOKENS, k_column, HEAD_DIM, WIDTH, BLOCK_D)
        s, counts = attention_scores(q, k, query, key, query_region, region, bias, shift, TOKENS, SHIFTED)
        weights = softmax_weights(s, counts, tl.max(s, 1), multiplier, table)
        context = weigh(weights, gather(qkv, pad, row, key < TOKENS, v_column, HEAD_DIM, WIDTH, BLOCK_D))
        total = tl.sum(weights, 1)
    else:  # the exact maximum first, then the weights: scores are computed twice, nothing is rescaled
        top = tl.full((BLOCK_Q,), -32768, tl.int32)
        for start in range(0, TOKENS, BLOCK_KEYS):
            i = start + key
            row = tl.load(tokens + i, mask=i < TOKENS, other=-1)
            region = tl.load(regions + i, mask=i < TOKENS, other=-2).to(tl.int32) if SHIFTED else i
            k = gather(qkv, pad, row, i < TOKENS, k_column, HEAD_DIM, WIDTH, BLOCK_D)
            s, counts = attention_scores(q, k, query, i, query_region, region, bias, shift, TOKENS, SHIFTED)
            top = tl.maximum(top, tl.max(s, 1))
        context = tl.zeros((BLOCK_Q, BLOCK_D), tl.int32)
        total = tl.zeros((BLOCK_Q,), tl.int32)
        for start in range(0, TOKENS, BLOCK_KEYS):
            i = start + key
            row = tl.load(tokens + i, mask=i < TOKENS, other=-1)
            region = tl.load(regions + i, mask=i < TOKENS, other=-2).to(tl.int32) if SHIFTED else i
            k = gather(qkv, pad, row, i < TOKENS, k_column, HEAD_DIM, WIDTH, BLOCK_D)
            s, counts = attention_scores(q, k, query, i, query_region, region, bias, shift, TOKENS, SHIFTED)
            weights = softmax_weights(s, counts, top, multiplier, table)
            context += weigh(weights, gather(qkv, pad, row, i < TOKENS, v_column, HEAD_DIM, WIDTH, BLOCK_D))
            total += tl.sum(weights, 1)

    # |context| < 2^24 and total <= 255 * 513: both exact in fp32
    scale = tl.load(output_multiplier + head)
    ratio = tl.div_rn(tl.zeros_like(total).to(tl.float32) + scale, tl.maximum(total, 1).to(tl.float32))
    y = clamp_round(context.to(tl.float32) * ratio[:, None], -128.0, 127.0)
    d = tl.arange(0, BLOCK_D)
    place = (first_pixel + query_row)[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + d[None, :]
    tl.store(out + place, y.to(tl.int8), mask=(query_row >= 0)[:, None] & (d < HEAD_DIM)[None, :])
