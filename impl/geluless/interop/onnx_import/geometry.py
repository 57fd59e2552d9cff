"""Where Swin's tokens go: the permutations that a file's index arrays are compared with, value by value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.integer.reference import relative_position_index, shift_mask, window_partition

Rows = NDArray[np.int64]
Size = tuple[int, int]


def _padded(size: Size, window: Size) -> Size:
    return -(-size[0] // window[0]) * window[0], -(-size[1] // window[1]) * window[1]


def window_rows(size: Size, window: Size, shift: Size) -> Rows:
    """For every token of every window its place in the grid, -1 for padding: shifted, padded, partitioned."""
    grid = np.arange(size[0] * size[1]).reshape(1, *size, 1)
    grid = np.roll(grid, (-shift[0], -shift[1]), (1, 2))
    height, width = _padded(size, window)
    grid = np.pad(grid, ((0, 0), (0, height - size[0]), (0, width - size[1]), (0, 0)), constant_values=-1)
    return window_partition(grid, window).reshape(-1)


def grid_rows(size: Size, window: Size, shift: Size) -> Rows:
    """For every token of the grid its place among the windows' tokens: the way back."""
    rows = window_rows(size, window, shift)
    home = np.empty(size[0] * size[1], np.int64)
    home[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    return home


def find_window(rows: Rows, size: Size, tokens: int, *, where: str) -> tuple[Size, Size]:
    """(window, shift) of the partition that `rows` is. Raises ArtifactError when it is none."""
    shifts = {(0, 0)}
    if rows[0] >= 0:
        shifts.add((int(rows[0]) // size[1], int(rows[0]) % size[1]))
    for height in (factor for factor in range(1, tokens + 1) if tokens % factor == 0):
        window = (height, tokens // height)
        if np.prod(_padded(size, window)) != rows.size:
            continue
        for shift in sorted(shifts):
            if all(s < w for s, w in zip(shift, window, strict=True)) and (window_rows(size, window, shift) == rows).all():
                return window, shift
    raise ArtifactError(f"{where}: {size[0]}x{size[1]} tokens are not cut into windows of {tokens} as in Swin; is it a Swin v1?")


def bias_table(scores: NDArray[np.float64], size: Size, window: Size, shift: Size, *, where: str) -> NDArray[np.float64]:
    """The relative position bias [rows, heads] in `scores` [windows, heads, tokens, tokens], what is added before the softmax.

    Raises ArtifactError unless the scores are a bias of relative positions, and below it by at least 20 wherever Swin masks.
    """
    height, width = _padded(size, window)
    mask = shift_mask(height, width, window, shift)
    first = scores[0]  # no pair of the first window is ever masked
    difference = scores - first
    masked = np.zeros_like(difference, bool) if mask is None else np.broadcast_to(mask[:, None], difference.shape)
    if np.abs(difference[~masked]).max(initial=0) > 1e-6 or difference[masked].max(initial=-np.inf) > -20:
        raise ArtifactError(f"{where}: its mask is not the one of Swin's shifted windows; export the model with timm's code")
    index = relative_position_index(window)
    table = np.zeros(((2 * window[0] - 1) * (2 * window[1] - 1), len(first)))
    table[index] = first.transpose(1, 2, 0)
    if np.abs(table[index].transpose(2, 0, 1) - first).max() > 1e-6:
        raise ArtifactError(f"{where}: what is added to its scores depends on more than relative positions; is this a Swin v1?")
    return table


def patch_index(image: tuple[int, int, int], patch: Size) -> NDArray[np.int64]:
    """The flattened [patches, channels * patch] index of pixels, as a convolution's weight has its inputs."""
    channels, height, width = image
    pixels = np.arange(channels * height * width).reshape(channels, height // patch[0], patch[0], width // patch[1], patch[1])
    return pixels.transpose(1, 3, 0, 2, 4).reshape(-1)
