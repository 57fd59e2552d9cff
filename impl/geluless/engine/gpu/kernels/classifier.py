"""From the last norm to logits: the mean over the tokens, and the classifier."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["multiplier", "shift"])
def pool(
    x,  # int16 [B, TOKENS, CHANNELS]
    out,  # int32 [B, CHANNELS], 12 bits
    multiplier,
    shift,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The mean over the tokens: an exact sum, then one requantization. Grid (channel blocks, B)."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    x += tl.program_id(1) * TOKENS * CHANNELS
    total = tl.zeros((BLOCK_C,), tl.int32)
    for start in range(0, TOKENS, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        inside = (t < TOKENS)[:, None] & (c < CHANNELS)[None, :]
        total += tl.sum(tl.load(x + t[:, None] * CHANNELS + c[None, :], mask=inside, other=0).to(tl.int32), 0)
    v = (total + ((1 << shift) >> 1)) >> shift
    v = tl.minimum(tl.maximum(v, -32768), 32767)
    y = (v * multiplier + 16384) >> 15
    tl.store(out + tl.program_id(1) * CHANNELS + c, tl.minimum(tl.maximum(y, -2048), 2047), mask=c < CHANNELS)


@triton.jit
def classifier(
    pooled,  # int32 [B, CHANNELS]
    weight,  # int8 [CLASSES, CHANNELS]
    bias,  # int32 [CLASSES]
    scale,  # float32 [CLASSES]
    logits,  # float32 [B, CLASSES]
    CLASSES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Twelve-bit features times int8 weights, too few for the tensor cores to matter. Grid (class blocks, B)."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_N,), tl.int32)
    for start in range(0, CHANNELS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        features = tl.load(pooled + tl.program_id(1) * CHANNELS + k, mask=k < CHANNELS, other=0)
        inside = (n < CLASSES)[:, None] & (k < CHANNELS)[None, :]
        weights = tl.load(weight + n[:, None] * CHANNELS + k[None, :], mask=inside, other=0).to(tl.int32)
        acc += tl.sum(weights * features[None, :], 1)
    known = n < CLASSES
    acc += tl.load(bias + n, mask=known, other=0)
    values = acc.to(tl.float32) * tl.load(scale + n, mask=known, other=0.0)
    tl.store(logits + tl.program_id(1) * CLASSES + n, values, mask=known)
