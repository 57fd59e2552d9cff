"""What is timed: an engine with images to run, verified against the reference before its speed counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geluless.ptq.artifact import Artifact

# Arms whose fp32 GELU may differ from the reference's in the last bit of a hidden value, hence slightly in the logits.
FLOAT_ARMS = frozenset({"gelu-fused", "gelu-poly", "gelu-separate"})
FLOAT_TOLERANCE = 0.05  # of the spread of the logits: the few hidden values that land on the other side of a tie


@dataclass(frozen=True)
class Contender:
    """A zero-argument call, what it runs, and whether its result was right in this process."""

    name: str
    call: Callable[[], object]
    artifact_hash: str
    model: str
    backend: str
    isa: str
    threads: int
    correctness: str
    verified: bool
    peak: Callable[[], float] | None = None

    def renamed(self, name: str) -> Contender:
        return replace(self, name=name)


def prepare(
    artifact: Artifact, arm: str | None, images: NDArray[np.float32], *, backend: str, isa: str | None, threads: int
) -> Contender:
    """An engine on these images, compared with the reference on the first of them.

    Raises ArmError, MissingResource and ValueError as Engine does.
    """
    from geluless.engine.engine import Engine

    engine = Engine(artifact, backend=backend, arm=arm, threads=threads, isa=isa)
    peak = None
    if engine.backend == "cpu":
        from geluless.engine.cpu import peak_rate

        def peak() -> float:
            return peak_rate(engine.isa)

    correctness, verified = _verify(engine(images[:1]), Engine(artifact, arm=engine.arm, threads=1)(images[:1]), engine.arm)
    return Contender(
        name=engine.arm,
        call=lambda: engine(images),
        artifact_hash=artifact.content_hash,
        model=artifact.plan.model,
        backend=engine.backend,
        isa=engine.isa,
        threads=engine.threads,
        correctness=correctness,
        verified=verified,
        peak=peak,
    )


def _verify(logits: NDArray[np.float32], expected: NDArray[np.float32], arm: str) -> tuple[str, bool]:
    if np.array_equal(logits, expected):
        return "equal to the reference", True
    distance = float(np.abs(logits - expected).max() / max(float(expected.std()), 1e-30))
    if arm in FLOAT_ARMS and distance <= FLOAT_TOLERANCE:
        return f"within {distance:.1e} of the logits' spread", True
    return f"WRONG: off by {distance:.1e} of the logits' spread", False
