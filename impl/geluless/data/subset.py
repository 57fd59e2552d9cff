"""Some images of a source, as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from geluless.data.source import checked_indices

if TYPE_CHECKING:
    import torch

    from geluless.data.source import ImageSource


class Subset:
    """The images `indices` of `source`, in that order; an `ImageSource`. Raises DataError for indices that it does not have."""

    def __init__(self, source: ImageSource, indices: Sequence[int] | np.ndarray) -> None:
        self._source, self.indices = source, checked_indices(indices, count=len(source))  # int64 [N]
        self.name = f"{len(self.indices):,} of {source.name}"
        self.tier, self.class_names, self.input_size = source.tier, source.class_names, source.input_size
        self.labels = np.asarray(source.labels)[self.indices]  # int64 [N]
        self.digest = hashlib.sha256(source.digest.encode() + self.indices.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, batch_size: int, *, indices: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        """As the source's."""
        chosen = self.indices[checked_indices(indices, count=len(self))]
        return self._source.batches(batch_size, indices=chosen)
