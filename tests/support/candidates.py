"""An engine as the harness times it, in the test's own process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geluless.bench.entries import Loaded, prepare
from geluless.bench.gpu_timing import GpuTiming
from geluless.engine.engine import Engine
from geluless.integer.artifact import Artifact


def prepared(
    artifact: Artifact,
    variant: str | None,
    images: NDArray[np.float32],
    *,
    backend: str,
    threads: int = 1,
    executor: str | None = None,
    verify: bool = True,
    gpu: GpuTiming | None = None,
) -> Loaded:
    engine = Engine(artifact, backend, variant=variant, threads=threads, executor=executor)
    return prepare(engine, images, verify=verify, gpu=gpu)
