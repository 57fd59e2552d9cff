"""Shift, windows and patch merging as row numbers to gather from and scatter to: no engine has to move a tensor for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geluless.integer import plan as p
from geluless.integer.reference import window_partition


def window_tokens(stage: p.Stage, attention: p.Attention) -> tuple[NDArray[np.int32], NDArray[np.int8] | None]:
    """(pixels, regions), both [windows, tokens]: the pixel that each token of each window is, -1 where the image is padded, and
    for shifted windows which of up to nine regions it came from: the cyclic shift brings strangers together."""
    (height, width), window, shift = (stage.height, stage.width), attention.window, attention.shift
    padded = tuple(-(-size // step) * step for size, step in zip((height, width), window, strict=True))
    pixel = np.full(padded, -1, np.int32)
    # The grid is rolled first and padded afterwards, as the reference does.
    pixel[:height, :width] = np.roll(
        np.arange(height * width, dtype=np.int32).reshape(height, width), (-shift[0], -shift[1]), (0, 1)
    )
    tokens = window_partition(pixel[None, :, :, None], window)[0, :, :, 0]
    if not any(shift):
        return tokens, None
    region = np.zeros(padded, np.int8)
    for axis, size in enumerate(padded):
        index = np.arange(size)
        part = (index >= size - window[axis]).astype(np.int8) + (index >= size - shift[axis]).astype(np.int8)
        region += part[None, :] if axis else 3 * part[:, None]
    return tokens, window_partition(region[None, :, :, None], window)[0, :, :, 0]


def merge_sources(height: int, width: int, batch: int) -> NDArray[np.int32]:
    """int32 [batch * merged tokens, 4]: the four rows that patch merging joins, in timm's order; -1 is a row of zeros."""
    even = (height + height % 2, width + width % 2)
    pixel = np.full(even, -1, np.int32)
    pixel[:height, :width] = np.arange(height * width, dtype=np.int32).reshape(height, width)
    quads = pixel.reshape(even[0] // 2, 2, even[1] // 2, 2).transpose(0, 2, 3, 1).reshape(-1, 4)
    image = np.arange(batch, dtype=np.int32)[:, None, None] * (height * width)
    return np.where(quads >= 0, quads + image, -1).reshape(-1, 4)
