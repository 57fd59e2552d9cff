"""Pixels to the int8 patches that the patch embedding multiplies."""

import triton
import triton.language as tl

from geluless.engine.gpu.kernels.epilogue import clamp_round


@triton.jit(do_not_specialize=["count", "zero"])
def quantize_patches(
    images,  # float32 [B, PLANES, HEIGHT, WIDTH]
    out,  # int8 [B * patches, PLANES * PATCH_H * PATCH_W]: stored patches
    unusable,  # int32 [programs]: 1 where a program met NaN or infinite pixels
    count,
    inverse_scale,
    zero,  # 0..255
    PLANES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """q = rint(x * inverse_scale) + zero in 0..255, in the order of the patch embedding's weights."""
    SIZE: tl.constexpr = PLANES * PATCH_H * PATCH_W
    COLUMNS: tl.constexpr = WIDTH // PATCH_W
    PATCHES: tl.constexpr = HEIGHT // PATCH_H * COLUMNS
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    patch, element = i // SIZE, i % SIZE
    image, patch = patch // PATCHES, patch % PATCHES
    plane, element = element // (PATCH_H * PATCH_W), element % (PATCH_H * PATCH_W)
    y = patch // COLUMNS * PATCH_H + element // PATCH_W
    x = patch % COLUMNS * PATCH_W + element % PATCH_W
    pixel = tl.load(images + ((image * PLANES + plane) * HEIGHT + y) * WIDTH + x, mask=inside, other=0.0)
    finite = (pixel - pixel) == 0.0  # infinity minus infinity is NaN, and NaN equals nothing
    low, high = (0 - zero).to(tl.float32), (255 - zero).to(tl.float32)
    q = clamp_round(tl.where(finite, pixel, 0.0) * inverse_scale, low, high) + zero
    tl.store(out + i, (q - 128).to(tl.int8), mask=inside)
    tl.store(unusable + tl.program_id(0), tl.max(tl.where(finite, 0, 1), 0))
