"""The public face of every engine."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine import reference
from geluless.engine.arms import choose_arm
from geluless.errors import DataError, MissingResource

if TYPE_CHECKING:
    from geluless.ptq.artifact import Artifact

CHUNK = 32  # images per piece of work: enough to pay for widening the weights, few enough for the cache


class Engine:
    """Runs an artifact: float32 images [B, C, H, W], normalised -> float32 logits [B, classes].

    `backend` is "reference"; `arm=None` means the artifact's own fused arm; `threads=None` means all cores. A threaded
    run gives the bits of a single-threaded one. Raises ArmError for an arm that does not fit the artifact,
    MissingResource for a backend this installation lacks.
    """

    def __init__(
        self, artifact: Artifact, backend: str = "reference", *, arm: str | None = None, threads: int | None = None
    ) -> None:
        if backend in ("cpu", "gpu"):
            raise MissingResource(f"backend {backend!r} is not part of this version: use backend='reference'")
        if backend != "reference":
            raise ValueError(f"no backend is called {backend!r}; there is 'reference'")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self.artifact = artifact
        self.backend = backend
        self.arm = choose_arm(artifact.plan, arm).value
        self.threads = threads or os.cpu_count() or 1

    def __call__(self, images: NDArray[np.float32] | Any) -> NDArray[np.float32]:
        """Raises DataError for images of another shape or dtype, or with NaN or infinite pixels."""
        batch = self._checked(images)
        pieces = [batch[start : start + CHUNK] for start in range(0, len(batch), CHUNK)]
        if len(pieces) == 1 or self.threads == 1:
            logits = [self._forward(piece) for piece in pieces]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                logits = list(pool.map(self._forward, pieces))
        return np.concatenate(logits)

    def _forward(self, piece: NDArray[np.float32]) -> NDArray[np.float32]:
        return reference.forward(piece, self.artifact.plan, self.artifact.tensors, self.arm)

    def _checked(self, images: Any) -> NDArray[np.float32]:
        stem = self.artifact.plan.stem
        array = np.asarray(images)
        if array.ndim != 4 or array.shape[1:] != (stem.channels, stem.height, stem.width) or len(array) == 0:
            expected = f"[B, {stem.channels}, {stem.height}, {stem.width}] with B >= 1"
            raise DataError(f"images of shape {list(array.shape)}: this artifact takes {expected}")
        if array.dtype != np.float32:
            raise DataError(f"images of dtype {array.dtype}: pass float32, normalised as in training")
        if not np.isfinite(array).all():
            first = int(np.argmin(np.isfinite(array).all((1, 2, 3))))
            raise DataError(f"image {first} of the batch holds NaN or infinite pixels")
        return array
