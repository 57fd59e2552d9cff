"""What `geluless baselines` runs unless told otherwise. Whoever asks for the same finds it prepared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geluless.baselines.baseline import Shape

BATCH, THROUGHPUT_BATCH = 1, 8  # images per call: for latency, and on the most threads for throughput
THREADS = (1, 2)
SEED = 0


def shapes_of(
    batch: int = BATCH, throughput_batch: int = THROUGHPUT_BATCH, threads: Sequence[int] = THREADS
) -> tuple[Shape, ...]:
    """Every shape of a run, latency first."""
    from geluless.baselines.baseline import Shape  # not for the command line's help

    return (*(Shape(batch, count) for count in threads), Shape(throughput_batch, max(threads)))
