"""What every source of images offers, and the check that its batches are numbers.

A source is labelled, ordered and re-iterable: image `i` is the same tensor in every pass, so the predictions of two
models can be paired by index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from geluless.errors import DataError


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images that can be read again and again in the same order.

    `tier` is "embedded", "folder" or "imagenet"; `digest` is a sha256 in hex over the pixels and labels where they are
    held in memory, over the list of files and their sizes where they are not.
    """

    @property
    def name(self) -> str: ...

    @property
    def tier(self) -> str: ...

    @property
    def labels(self) -> np.ndarray: ...  # int64 [N]

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def digest(self) -> str: ...

    @property
    def input_size(self) -> tuple[int, int, int]: ...  # (C, H, W)

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, *, indices: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        """Normalised float32 [B, C, H, W] in order; the last batch may be smaller. Raises DataError for an unreadable image."""
        ...


def require_finite(batch: torch.Tensor | np.ndarray, *, name: str = "images") -> torch.Tensor:
    """The batch as float32 [B, C, H, W], or DataError when it has another rank or dtype, is empty, or holds NaN or infinity."""
    tensor = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
    if tensor.ndim != 4 or tensor.numel() == 0:
        raise DataError(f"{name} have shape {tuple(tensor.shape)}: expected a non-empty [B, C, H, W]; add the missing axis")
    if not tensor.is_floating_point():
        raise DataError(f"{name} are {tensor.dtype}: scale pixels to [0, 1] and normalise them to float32 first")
    finite = torch.isfinite(tensor).flatten(1).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise DataError(f"{name}: image {first} of the batch holds NaN or infinite pixels; remove it or mend what made it")
    return tensor.float()


def checked_indices(indices: Sequence[int] | np.ndarray | None, *, count: int) -> np.ndarray:
    """int64 [M] inside [0, count), all of them when None; DataError otherwise. A boolean mask is not a list of indices."""
    if indices is None:
        return np.arange(count)
    array = np.asarray(indices)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"indices must be a flat list of integers, not {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() >= count:
        raise DataError(f"indices run from {array.min()} to {array.max()}, the source holds images 0 to {count - 1}")
    return array.astype(np.int64)


def checked_batch_size(batch_size: int) -> int:
    """The batch size itself, or DataError when it is below 1."""
    if batch_size < 1:
        raise DataError(f"batch size {batch_size} is not positive: give at least 1")
    return batch_size
