"""What can be timed: whole networks here, single kernels in `kernels`, the gate's named workloads in `workloads`.

An entry is a plain value that travels to the process that times it (`host.Host`), which loads and verifies it there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geluless.bench.harness import Row
from geluless.bench.identity import require_network
from geluless.bench.networks import random_artifact, random_images
from geluless.bench.paired import Stopwatch, WallClock
from geluless.bench.process import CandidateFailure, Status
from geluless.bench.verification import Run, verify_call
from geluless.bench.work import macs
from geluless.errors import ArtifactError

if TYPE_CHECKING:
    from geluless.bench.gpu_timing import GpuTiming
    from geluless.engine.engine import Engine
    from geluless.integer.artifact import Artifact

PEAK_REPETITIONS = 50_000  # some milliseconds


@dataclass(frozen=True)
class Loaded:
    """A call that was verified, what it is, and how it is timed."""

    call: Callable[[], object]
    row: Row
    stopwatch: Stopwatch


@dataclass
class Verified:
    """How this process has verified what it loaded, and whether it was right, by artifact, variant and digest of the logits."""

    logits: dict[tuple[str, str, str], tuple[str, bool]] = field(default_factory=dict)


class TimingEntry(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def shared(self) -> object: ...  # entries that say the same share memory: they are loaded one after the other

    def load(self, expected: str | None, verified: Verified) -> Loaded:
        """Raises CandidateFailure where the result is wrong, or other than `expected`: what an earlier process has verified."""
        ...


@dataclass(frozen=True)
class Entry:
    """A network under one condition. Without `artifact` its weights are random, which takes the same time.

    Raises VariantError, MissingResource and ValueError from `load` as Engine does.
    """

    name: str
    model: str = ""  # timm's name
    variant: str | None = None  # None: the artifact's own fused variant
    drop_bias: bool = False
    artifact: Path | None = None
    backend: str = "cpu"
    isa: str | None = None  # None: the best one here
    threads: int = 1
    batch: int = 1
    seed: int = 0  # of the images
    verify: bool = True
    graph: bool = True  # on a GPU: one CUDA graph instead of launch by launch
    cold: bool = False  # on a GPU: with nothing in its level-2 cache
    blocked: bool = False  # on a CPU: an activation that is a pass of its own runs in strips of rows
    handicap: float = 0.0  # time added to each call, as a fraction of it: for judging the harness itself

    @property
    def shared(self) -> object:
        return self.name

    def load(self, expected: str | None, verified: Verified) -> Loaded:
        from geluless.engine.engine import Engine

        artifact = self._artifact()
        if self.model:
            try:
                require_network(artifact, self.model, activation=self.variant and ("relu" if self._relu else "gelu"))
            except ArtifactError as error:
                raise CandidateFailure(Status.FAILED, f"{self.name} is not timed: {error}") from error
        engine = Engine(artifact, self.backend, variant=self.variant, threads=self.threads, isa=self.isa, blocked=self.blocked)
        if engine.backend != self.backend:
            raise CandidateFailure(Status.MISSING, "the compiled engine is missing: nothing would be timed but numpy")
        images = random_images(artifact, self.batch, seed=self.seed)
        gpu = gpu_timing(self.graph, self.cold) if self.backend == "gpu" else None
        found = prepare(engine, images, name=self.name, verify=self.verify, expected=expected, verified=verified, gpu=gpu)
        return replace(found, call=slowed(found.call, self.handicap)) if self.handicap else found

    @property
    def _relu(self) -> bool:
        return (self.variant or "relu").startswith("relu")

    def _artifact(self) -> Artifact:
        if self.artifact is None:
            return _random(self.model, self._relu, self.drop_bias)
        return _read(self.artifact)


def prepare(
    engine: Engine,
    images: NDArray[np.float32],
    *,
    name: str = "",
    verify: bool = True,
    expected: str | None = None,
    verified: Verified | None = None,
    gpu: GpuTiming | None = None,
) -> Loaded:
    """An engine on these images, float32 [B, C, H, W], all of whose logits are verified.

    `gpu` says how a CUDA device is timed: images are on the device already and logits stay there. Raises CandidateFailure where
    the logits are wrong: a wrong result has no speed.
    """
    run: Run = partial(engine, images)  # what is timed, unless a device does the timing
    call: Callable[[], object] = run
    stopwatch: Stopwatch = WallClock(peak=peak_loop(engine.isa) if engine.backend == "cpu" else None)
    if gpu is not None:
        timed, stopwatch = gpu.prepared(engine, images)
        call, run = timed, timed.logits
    digest = hashlib.sha256(run().tobytes()).hexdigest()
    correctness, good = ("not verified", True)
    if verify:
        correctness, good = _correctness(engine, images, run, digest, expected, verified or Verified())
    if not good:
        raise CandidateFailure(Status.WRONG, f"{name or engine.variant} on {engine.isa} is not timed: {correctness}")
    row = Row(
        name=name or engine.variant,
        variant=engine.variant,
        model=engine.artifact.plan.model,
        artifact=engine.artifact.content_hash,
        macs=macs(engine.artifact.plan),
        correctness=correctness,
        isa=engine.isa,
        backend=engine.backend,
        threads=engine.threads,
        batch=len(images),
        blocked=engine.blocked,
        input=hashlib.sha256(images.tobytes()).hexdigest(),
        output=digest,
        verified=verify,
        memory_bytes=int(getattr(engine.network, "bytes", 0)),
        tiles=tiles(engine, images),
    )
    return Loaded(call, row, stopwatch)


def _correctness(
    engine: Engine, images: NDArray[np.float32], run: Run, digest: str, expected: str | None, verified: Verified
) -> tuple[str, bool]:
    """How the logits were verified, in words, and whether they are right."""
    if expected is not None:
        good = digest == expected
        return "the logits verified in the first process" if good else "WRONG: other logits than in the first process", good
    key = (engine.artifact.content_hash, f"{engine.variant} {engine.backend} {engine.isa}", digest)
    if key not in verified.logits:  # else an A/A control: the very logits that the reference confirmed
        verified.logits[key] = verify_call(engine, images, run)
    return verified.logits[key]


def peak_loop(isa: str) -> Callable[[], float]:
    """A loop of nothing but dot products, on one thread; its rate in multiply-accumulates per second."""
    from geluless.engine.cpu import peak_rate

    return lambda: peak_rate(isa, repetitions=PEAK_REPETITIONS)


def slowed(call: Callable[[], object], share: float) -> Callable[[], object]:
    """The call, and then a loop without purpose for `share` of the time it usually takes."""
    took = []
    for _ in range(9):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    pause = share * float(np.median(took))

    def slower() -> None:
        call()
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            pass

    return slower


@lru_cache(maxsize=4)
def _random(model: str, relu: bool, drop_bias: bool) -> Artifact:
    return random_artifact(model, relu=relu, drop_bias=drop_bias)


@lru_cache(maxsize=4)
def _read(path: Path) -> Artifact:
    from geluless.integer.artifact import load_artifact

    return load_artifact(path)


@lru_cache(maxsize=4)
def gpu_timing(graph: bool, cold: bool) -> GpuTiming:
    """One for all entries of a process: the buffer that empties a cache is several times as large as the cache."""
    from geluless.bench.gpu_timing import GpuTiming

    return GpuTiming(graph=graph, cold=cold)


def tiles(engine: Engine, images: NDArray[np.float32]) -> dict[str, Any] | None:
    """What a record says of a GPU's tiles: those of every linear layer and separate activation by its shape, with whether they
    were measured or are the table's."""
    from geluless.engine.gpu import GpuNetwork
    from geluless.engine.gpu.tuning import in_order, tiles_of

    if not isinstance(engine.network, GpuNetwork):
        return None
    used = {shape: tile for program, _ in engine.network.pieces(images) for shape, tile in tiles_of(program).items()}
    measured = engine.network.tiles.tuned
    rows = [
        {
            "layer": f"{' x '.join(map(str, shape[:-1]))} {shape[-1]}",
            "tile": asdict(used[shape]),
            "tuned": shape in measured,
        }
        for shape in in_order(used)
    ]
    return {"architecture": engine.network.executor.architecture, "tuned": sum(row["tuned"] for row in rows), "layers": rows}
