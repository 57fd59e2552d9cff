"""The reference engine: the exact meaning of an artifact, in plain numpy.

Every other engine must give these bits. Activations are integers throughout; they travel in int32 arrays whatever their
range, so no step can wrap. The few fp32 operations (pixels, LayerNorm's normalisation, softmax's division, layers that round
twice, the logits) are IEEE single operations in the order written, never contracted into fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.integer.plan import Attention, Block, Head, Linear, Merge, Norm, Plan, Rounding, Stage, Stem, is_padded
from geluless.integer.requantization import (
    INT16_MAX,
    INT16_MIN,
    Int32,
    Requant,
    requant_of,
    requantize,
    requantize_two_stage,
    round_clip,
    two_stage_requant_of,
)
from geluless.integer.variants import hidden_activation

Tensors = Mapping[str, NDArray[Any]]
Probe = Callable[[str, Int32], None]  # called with every named intermediate tensor


def exact_matmul(x: Int32, weight: NDArray[np.int8]) -> Int32:
    """int [..., K] times int8 [N, K] -> int32 [..., N], exactly.

    BLAS multiplies floats; every partial sum is an integer below K max|x| max|w|, hence exact in float32 under 2^24 and in
    float64 under 2^53.
    """
    bound = x.shape[-1] * float(np.abs(x).max(initial=0)) * float(np.abs(weight.astype(np.int32)).max(initial=0))
    exact: type[np.floating] = np.float32 if bound < 2**24 else np.float64
    return (x.astype(exact) @ weight.astype(exact).T).astype(np.int32)


def accumulate(x: Int32, name: str, tensors: Tensors) -> Int32:
    return exact_matmul(x, tensors[f"{name}.weight"])


def linear(x: Int32, name: str, spec: Linear, tensors: Tensors) -> Int32:
    """One quantized linear layer: int [..., K] -> int [..., N] in [low, high]."""
    acc = accumulate(x, name, tensors)
    if spec.rounding is Rounding.SINGLE:
        return requantize(acc, requant_of(name, spec, tensors), low=spec.low, high=spec.high)
    return requantize_two_stage(acc, two_stage_requant_of(name, spec, tensors), low=spec.low, high=spec.high)


def add_residual(stream: Int32, branch: Int32) -> Int32:
    """Saturating int16 addition: both have the stage's one scale."""
    return np.clip(stream + branch, INT16_MIN, INT16_MAX)


def layer_norm(x: Int32, name: str, norm: Norm, tensors: Tensors) -> Int32:
    """int16 [..., C] -> integers in [low, high].

    Exact: S = sum x, Q = sum x^2, centred n = C x - S, V = C Q - S^2 (that is C^2 times the variance), all in integers.
    Then, in fp32: r = factor / sqrt(V + epsilon_term), y = n r, and for an affine norm y = y gain + offset; rint.
    """
    channels = norm.channels
    wide = x.astype(np.int64)
    total = wide.sum(-1, keepdims=True)
    spread = channels * (wide * wide).sum(-1, keepdims=True) - total * total  # int64: at most C^2 2^30 < 2^60
    centred = (channels * wide - total).astype(np.float32)
    reciprocal = np.float32(norm.factor) / np.sqrt((spread + norm.epsilon_term).astype(np.float32))
    y = centred * reciprocal
    if norm.affine:
        y = y * tensors[f"{name}.gain"] + tensors[f"{name}.offset"]
    return round_clip(y, norm.low, norm.high)


# --------------------------------------------------------------------------------------------------------- attention


def window_partition(x: NDArray[Any], window: tuple[int, int]) -> NDArray[Any]:
    """[B, H, W, C] -> [B, windows, tokens, C]; H and W are whole numbers of windows."""
    batch, height, width, channels = x.shape
    rows, columns = height // window[0], width // window[1]
    x = x.reshape(batch, rows, window[0], columns, window[1], channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * columns, window[0] * window[1], channels)


def window_reverse(windows: NDArray[Any], window: tuple[int, int], height: int, width: int) -> NDArray[Any]:
    """The inverse of `window_partition`."""
    batch, _, _, channels = windows.shape
    x = windows.reshape(batch, height // window[0], width // window[1], window[0], window[1], channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


@lru_cache(maxsize=64)
def relative_position_index(window: tuple[int, int]) -> NDArray[np.int64]:
    """[tokens, tokens] index into the bias table of (2 Wh - 1)(2 Ww - 1) rows, as Swin defines it."""
    rows, columns = np.divmod(np.arange(window[0] * window[1]), window[1])
    down = rows[:, None] - rows[None, :] + window[0] - 1
    right = columns[:, None] - columns[None, :] + window[1] - 1
    return down * (2 * window[1] - 1) + right


@lru_cache(maxsize=64)
def shift_mask(height: int, width: int, window: tuple[int, int], shift: tuple[int, int]) -> NDArray[np.bool_] | None:
    """bool [windows, tokens, tokens], True where query and key come from regions the cyclic shift brought together.

    Swin adds -100 there, which an 8-bit softmax rounds to zero; here such keys get exactly zero weight.
    """
    if not any(shift):
        return None
    region = np.zeros((1, height, width, 1), np.int64)
    for axis, size in enumerate((height, width)):
        index = np.arange(size)
        part = (index >= size - window[axis]).astype(np.int64) + (index >= size - shift[axis])
        region += (part if axis else 3 * part)[(None, slice(None), None, None) if axis == 0 else (None, None, slice(None), None)]
    tokens = window_partition(region, window)[0, :, :, 0]
    return tokens[:, :, None] != tokens[:, None, :]


def softmax(scores: Int32, masked: NDArray[np.bool_] | None, multiplier: Int32, table: NDArray[np.uint8]) -> Int32:
    """int16 scores [..., heads, queries, keys] -> unnormalised weights in 0..255; the largest score gets table[0] = 255.

    z = min((sat16(max - score) * multiplier + 2^14) >> 15, 127) counts steps of 1/20 below the maximum; table[z] is
    round(255 exp(-z/20)), and table[127] is zero.
    """
    if masked is not None:
        scores = np.where(masked, INT16_MIN, scores)
    below = np.minimum(scores.max(-1, keepdims=True) - scores, INT16_MAX)
    steps = np.minimum((below * multiplier[:, None, None] + (1 << 14)) >> 15, len(table) - 1)
    weights = table[steps].astype(np.int32)
    return weights if masked is None else np.where(masked, 0, weights)


def attention(x: Int32, name: str, block: Block, stage: Stage, tensors: Tensors) -> Int32:
    """int8 [B, H, W, C] -> int8 [B, H, W, heads * head_dim], the input of proj: shift, windows, heads, and back."""
    spec: Attention = block.attention
    qkv = linear(x, f"{name}.qkv", block.qkv, tensors)
    if any(spec.shift):
        qkv = np.roll(qkv, (-spec.shift[0], -spec.shift[1]), (1, 2))
    height, width = (-(-size // window) * window for size, window in zip(qkv.shape[1:3], spec.window, strict=True))
    if is_padded(stage, block):
        grown = np.empty((len(qkv), height, width, qkv.shape[3]), np.int32)
        grown[:] = tensors[f"{name}.qkv.pad"]
        grown[:, : qkv.shape[1], : qkv.shape[2]] = qkv
        qkv = grown
    windows = window_partition(qkv, spec.window)
    heads = windows.reshape(*windows.shape[:3], 3, spec.heads, spec.head_dim)
    q, k, v = np.moveaxis(heads, (3, 4), (0, 3))  # each [B, windows, heads, tokens, head_dim]

    # |q|, |k| <= 128 and head_dim <= 1024: every sum is at most 2^24 and exact in fp32
    acc = (q.astype(np.float32) @ np.swapaxes(k, -1, -2).astype(np.float32)).astype(np.int32)
    shift = tensors[f"{name}.score_shift"].astype(np.int32)[:, None, None]
    half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0).astype(np.int32)
    scores = np.clip((acc + half) >> shift, INT16_MIN, INT16_MAX)
    bias = tensors[f"{name}.bias_table"][relative_position_index(spec.window)].transpose(2, 0, 1).astype(np.int32)
    scores = np.clip(scores + bias, INT16_MIN, INT16_MAX)
    masked = shift_mask(height, width, spec.window, spec.shift)
    multiplier = tensors[f"{name}.score_multiplier"].astype(np.int32)
    weights = softmax(scores, None if masked is None else masked[:, None], multiplier, tensors["softmax_table"])

    # weights <= 255, |v| <= 128, at most 513 keys: every sum is below 2^24 and exact in fp32
    context = weights.astype(np.float32) @ v.astype(np.float32)
    total = weights.sum(-1, dtype=np.int32)[..., None].astype(np.float32)
    ratio = tensors[f"{name}.output_multiplier"][:, None, None] / np.maximum(total, np.float32(1))
    out = round_clip(context * ratio, block.proj.input_low, block.proj.input_high)
    out = np.swapaxes(out, 2, 3).reshape(*windows.shape[:3], -1)
    grid = window_reverse(out, spec.window, height, width)[:, : stage.height, : stage.width]
    return np.roll(grid, spec.shift, (1, 2)) if any(spec.shift) else grid


# ----------------------------------------------------------------------------------------------------- the network


def stem(images: NDArray[np.float32], spec: Stem, tensors: Tensors) -> Int32:
    """float32 [B, C, H, W] -> int16 [B, H / p, W / p, channels]; q = rint(x * fp32(1 / scale)) + zero_point, uint8."""
    inverse = np.float32(1.0) / np.float32(spec.input_scale)
    q = round_clip(images * inverse, 0, 255, spec.input_zero_point)
    batch, channels, height, width = q.shape
    ph, pw = spec.patch
    patches = q.reshape(batch, channels, height // ph, ph, width // pw, pw).transpose(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(batch, height // ph, width // pw, channels * ph * pw)
    return layer_norm(linear(patches, "patch_embed.proj", spec.proj, tensors), "patch_embed.norm", spec.norm, tensors)


def merge(x: Int32, name: str, spec: Merge, tensors: Tensors) -> Int32:
    """int16 [B, H, W, C] -> int16 [B, ceil(H/2), ceil(W/2), N]; neighbours in timm's order, column parity outermost."""
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
    x = x.reshape(batch, height // 2, width // 2, 4 * channels)
    return linear(layer_norm(x, f"{name}.norm", spec.norm, tensors), f"{name}.reduction", spec.reduction, tensors)


def head(x: Int32, spec: Head, tensors: Tensors) -> NDArray[np.float32]:
    """int16 [B, H, W, C] -> float32 [B, classes]."""
    normed = layer_norm(x, "norm", spec.norm, tensors)
    total = normed.reshape(len(x), -1, normed.shape[-1]).sum(1, dtype=np.int32)
    one = np.ones(1, np.int32)
    pool = Requant(0 * one, spec.pool_multiplier * one, np.array([spec.pool_shift], np.uint8))
    pooled = requantize(total, pool, low=spec.fc.input_low, high=spec.fc.input_high)
    acc = accumulate(pooled, "head.fc", tensors) + tensors["head.fc.bias"]
    return acc.astype(np.float32) * tensors["head.fc.logit_scale"]


def _no_probe(name: str, tensor: Int32) -> None:
    pass


def forward(
    images: NDArray[np.float32], plan: Plan, tensors: Tensors, variant: str, probe: Probe = _no_probe
) -> NDArray[np.float32]:
    """float32 [B, C, H, W] -> float32 logits [B, classes]; `probe` sees every intermediate tensor by name."""
    x = stem(images, plan.stem, tensors)
    probe("patch_embed", x)
    for i, stage in enumerate(plan.stages):
        if stage.merge:
            x = merge(x, f"layers.{i}.downsample", stage.merge, tensors)
            probe(f"layers.{i}.downsample", x)
        for j, block in enumerate(stage.blocks):
            name = f"layers.{i}.blocks.{j}"
            normed = layer_norm(x, f"{name}.norm1", block.norm1, tensors)
            probe(f"{name}.norm1", normed)
            context = attention(normed, f"{name}.attn", block, stage, tensors)
            probe(f"{name}.attn.context", context)
            x = add_residual(x, linear(context, f"{name}.attn.proj", block.proj, tensors))
            normed = layer_norm(x, f"{name}.norm2", block.norm2, tensors)
            probe(f"{name}.norm2", normed)
            acc = accumulate(normed, f"{name}.mlp.fc1", tensors)
            hidden = hidden_activation(acc, f"{name}.mlp", block.mlp, tensors, variant)
            probe(f"{name}.mlp.hidden", hidden)
            x = add_residual(x, linear(hidden, f"{name}.mlp.fc2", block.mlp.fc2, tensors))
            probe(name, x)
    return head(x, plan.head, tensors)
