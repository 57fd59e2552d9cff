"""What is timed: an engine with images to run, verified against the reference before its speed counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.bench.paired import Stopwatch
from geluless.bench.verification import Run, verify_call

if TYPE_CHECKING:
    from geluless.bench.gpu_timing import GpuTiming
    from geluless.engine.engine import Engine
    from geluless.integer.artifact import Artifact


@dataclass(frozen=True)
class Candidate:
    """A zero-argument call, what it runs, and whether its result was right in this process."""

    name: str
    variant: str
    call: Callable[[], object]
    artifact_hash: str
    model: str
    backend: str
    isa: str
    threads: int
    correctness: str
    verified: bool
    peak: Callable[[], float] | None = None
    stopwatch: Stopwatch | None = None
    tiles: dict[str, Any] | None = None  # JSON-ready: on a GPU, how its linear layers are cut, and which of that was measured

    def renamed(self, name: str) -> Candidate:
        return replace(self, name=name)


def prepare(
    artifact: Artifact,
    variant: str | None,
    images: NDArray[np.float32],
    *,
    backend: str,
    isa: str | None,
    threads: int,
    verify: bool = True,
    machine: str | None = None,
    gpu: GpuTiming | None = None,
) -> Candidate:
    """An engine on these images, float32 [B, C, H, W], all of whose logits are verified.

    `gpu` says how a CUDA device is timed: images are on the device already and logits stay there. Raises VariantError,
    MissingResource and ValueError as Engine does.
    """
    from geluless.engine.engine import Engine

    engine = Engine(artifact, backend=backend, variant=variant, threads=threads, isa=isa, machine=machine)
    peak, stopwatch = None, None
    run: Run = lambda: engine(images)  # noqa: E731 - what is timed, unless a device does the timing
    call: Callable[[], object] = run
    if gpu is not None:
        timed, stopwatch = gpu.prepared(engine, images)
        call, run = timed, timed.logits
    if engine.backend == "cpu":
        from geluless.engine.cpu import peak_rate

        def peak() -> float:
            return peak_rate(engine.isa)

    correctness, verified = verify_call(engine, images, run) if verify else ("not verified", False)
    return Candidate(
        name=engine.variant,
        variant=engine.variant,
        call=call,
        artifact_hash=artifact.content_hash,
        model=artifact.plan.model,
        backend=engine.backend,
        isa=engine.isa,
        threads=engine.threads,
        correctness=correctness,
        verified=verified,
        peak=peak,
        stopwatch=stopwatch,
        tiles=_tiles(engine, images),
    )


def _tiles(engine: Engine, images: NDArray[np.float32]) -> dict[str, Any] | None:
    """What a record says of a GPU's tiles: every linear layer's by its shape, with whether they were measured or the table's."""
    from geluless.engine.gpu import GpuNetwork
    from geluless.engine.gpu.tuning import tiles_of

    if not isinstance(engine.network, GpuNetwork):
        return None
    used = {shape: tile for program, _ in engine.network.pieces(images) for shape, tile in tiles_of(program).items()}
    measured = engine.network.tiles.tuned
    rows = [
        {"layer": "{} x {} x {} {}".format(*shape), "tile": asdict(tile), "tuned": shape in measured}
        for shape, tile in sorted(used.items())
    ]
    return {"architecture": engine.network.machine.architecture, "tuned": sum(row["tuned"] for row in rows), "layers": rows}
