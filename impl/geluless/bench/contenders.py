"""What is timed: an engine with images to run, verified against the reference before its speed counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geluless.bench.paired import Stopwatch

if TYPE_CHECKING:
    from geluless.bench.gpu_timing import GpuTiming
    from geluless.engine.engine import Engine
    from geluless.ptq.artifact import Artifact

# Arms whose fp32 GELU may miss the reference's by its last bit. That moves a hidden value by one step where the value lies on
# a tie, a few times in a million; another GELU moves every fourth.
FLOAT_ARMS = frozenset({"gelu-fused", "gelu-poly", "gelu-separate"})
GPU_FLOAT_ARMS = FLOAT_ARMS | {"gelu-shift"}  # its last product is fp32 there
MOVED_SHARE = 1e-3  # of the values of one hidden tensor; one value is always allowed


@dataclass(frozen=True)
class Contender:
    """A zero-argument call, what it runs, and whether its result was right in this process."""

    name: str
    arm: str
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

    def renamed(self, name: str) -> Contender:
        return replace(self, name=name)


def prepare(
    artifact: Artifact,
    arm: str | None,
    images: NDArray[np.float32],
    *,
    backend: str,
    isa: str | None,
    threads: int,
    verify: bool = True,
    machine: str | None = None,
    gpu: GpuTiming | None = None,
) -> Contender:
    """An engine on these images, float32 [B, C, H, W], compared with the reference on the first of them.

    `gpu` says how a CUDA device is timed: images are on the device already and logits stay there. Raises ArmError,
    MissingResource and ValueError as Engine does.
    """
    from geluless.engine.engine import Engine

    engine = Engine(artifact, backend=backend, arm=arm, threads=threads, isa=isa, machine=machine)
    peak, stopwatch = None, None
    call: Callable[[], object] = lambda: engine(images)  # noqa: E731 - what is timed, unless a device does the timing
    if gpu is not None:
        call, stopwatch = gpu.prepared(engine, images)
    if engine.backend == "cpu":
        from geluless.engine.cpu import peak_rate

        def peak() -> float:
            return peak_rate(engine.isa)

    correctness, verified = _verify(engine, images) if verify else ("not verified", False)
    return Contender(
        name=engine.arm,
        arm=engine.arm,
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
    )


def _verify(engine: Engine, images: NDArray[np.float32]) -> tuple[str, bool]:
    """The very call that will be timed: its first image against the reference, the others against themselves alone."""
    from geluless.engine.engine import Engine

    logits = engine(images)
    if engine.backend == "cpu":
        for i in range(len(images) if len(images) > 1 else 0):
            if not np.array_equal(engine(images[i : i + 1])[0], logits[i]):
                return f"WRONG: image {i} alone has other logits than in the batch", False
    if engine.arm in {"cpu": FLOAT_ARMS, "gpu": GPU_FLOAT_ARMS}.get(engine.backend, ()):
        return _verify_step_by_step(engine, images[:1], logits[:1])
    expected = Engine(engine.artifact, arm=engine.arm, threads=1)(images[:1])
    if np.array_equal(logits[:1], expected):
        return "equal to the reference", True
    distance = float(np.abs(logits[:1] - expected).max() / max(float(expected.std()), 1e-30))
    return f"WRONG: off by {distance:.1e} of the logits' spread", False


def _verify_step_by_step(engine: Engine, image: NDArray[np.float32], logits: NDArray[np.float32]) -> tuple[str, bool]:
    """Every tensor of one image against the reference, which goes on from the engine's hidden tensors.

    The logits alone tell nothing: one hidden value on a tie moves them as far, by the end, as another GELU does. With the
    engine's hidden tensors as its own, the reference must agree on everything else to the bit, logits included.
    """
    from geluless.engine import reference

    plan, tensors = engine.artifact.plan, engine.artifact.tensors
    traced: dict[str, NDArray[np.int32]] = {}
    if not np.array_equal(engine.trace(image, traced.__setitem__), logits):
        return "WRONG: a second run gives other logits", False
    problems: list[str] = []
    hidden_values = moved_values = 0

    def compare(name: str, tensor: NDArray[np.int32]) -> None:
        nonlocal hidden_values, moved_values
        got = traced[name].reshape(tensor.shape)
        steps = np.abs(got.astype(np.int64) - tensor)
        moved, allowed = int((steps > 0).sum()), 0
        if name.endswith(".mlp.hidden"):
            hidden_values, moved_values = hidden_values + tensor.size, moved_values + moved
            allowed = max(1, int(tensor.size * MOVED_SHARE))
            tensor[...] = got  # the reference's own array: it computes the next layer from it
        if moved > allowed or (moved and int(steps.max()) > 1):
            problems.append(f"{moved:,} of {tensor.size:,} values of {name} are off by up to {int(steps.max())}")

    expected = reference.forward(image, plan, tensors, engine.arm, compare)
    if not problems and not np.array_equal(logits, expected):
        problems.append("the logits are others")
    if problems:
        return f"WRONG: {problems[0]}", False
    if moved_values:
        return f"within 1 step of the reference in {moved_values:,} of {hidden_values:,} hidden values, else equal", True
    return "equal to the reference", True
